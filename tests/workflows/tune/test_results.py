"""What a search leaves, from the records of its trials, without Ray."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from fusion.errors import UserError
from fusion.training.recipes import RECIPES
from workflows.train.recipes import find_recipe
from workflows.tune.options import Args
from workflows.tune.plan import parse_objectives, plan_search
from workflows.tune.records import trial_name
from workflows.tune.results import write_results

VALUES = {(2, 0): 0.40, (2, 1): 0.44, (4, 0): 0.50, (4, 1): 0.48, (6, 0): 0.45}  # (experts, seed) -> qabf


def record(out, experts, seed, state="finished", error="", epochs=3):
    values = {"model.experts": experts}
    end = VALUES.get((experts, seed), 0.3)
    history = [
        {"epoch": epoch, "train/loss": 1 / epoch, "val/qabf": end - (epochs - epoch) / 100, "val/vif": 1 - end}
        for epoch in range(1, epochs + 1)
    ]
    about = {"name": trial_name(values, seed), "values": values, "seed": seed, "raw": {}, "state": state}
    about |= {"error": error, "history": history}
    path = out / "trials" / f"{about['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about))


@pytest.fixture
def search(tmp_path):
    args = Args(
        recipe=RECIPES["moefusion-tiny"](),
        corpus="corpus",
        out=str(tmp_path),
        space=("model.experts=2,4,6",),
        num_seeds=2,
        objective="qabf,vif",
    )
    (tmp_path / "search.json").write_text(
        json.dumps({"recipe": {"name": "moefusion-tiny"}, "search": "grid", "space": list(args.space)})
    )
    return args


def test_tables_the_best_and_the_front(search, tmp_path, capsys):
    for experts, seed in VALUES:
        record(tmp_path, experts, seed)
    record(tmp_path, 6, 1, "failed", "out of memory", epochs=0)
    write_results(search, [], parse_objectives(search), plan_search(search))

    summary = pd.read_csv(tmp_path / "summary.csv").set_index("model.experts")
    assert list(summary.index) == [4, 2, 6]  # best first, those last of which a seed failed
    assert summary["val/qabf"].round(6).to_dict() == {4: 0.49, 6: 0.45, 2: 0.42}
    assert summary["val/qabf_sd"][4] == pytest.approx(0.02 / 2**0.5) and pd.isna(summary["val/qabf_sd"][6])
    assert find_recipe(str(tmp_path / "best.json")).model.experts == 4
    # vif is one less qabf here: no setting is better in both
    assert len(list((tmp_path / "front").glob("*.json"))) == 3
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"curves.svg", "front.svg", "settings.svg"}
    about = json.loads((tmp_path / "tune.json").read_text())
    assert about["trials"] == {"finished": 5, "failed": 1} and about["failed"] == ["out of memory"]
    said = capsys.readouterr()
    assert "out of memory" in said.err and "the best is experts 4" in said.out


def test_stopped_early_counts_for_less_than_finished(search, tmp_path):
    record(tmp_path, 2, 0)
    record(tmp_path, 4, 0, "stopped early", epochs=1)
    write_results(search, [], parse_objectives(search), plan_search(search))
    assert find_recipe(str(tmp_path / "best.json")).model.experts == 2
    assert list(pd.read_csv(tmp_path / "summary.csv")["state"]) == ["finished", "stopped early"]


def test_all_failed(search, tmp_path):
    for experts in (2, 4):
        record(tmp_path, experts, 0, "failed", "no such file", epochs=0)
    with pytest.raises(UserError, match="all 2 trials failed, the first with: no such file"):
        write_results(search, [], parse_objectives(search), plan_search(search))
    assert not (tmp_path / "tune.json").exists()


def test_the_report_shows_a_search(search, tmp_path, command):
    for experts, seed in VALUES:
        record(tmp_path, experts, seed)
    write_results(search, [], parse_objectives(search), plan_search(search))
    page = tmp_path / "report.html"
    code, _, err = command("report", "--search", tmp_path, "--out", page)
    assert code == 0, err
    text = page.read_text()
    for part in ("grid over model.experts=2,4,6: 5 finished", "The best setting is experts 4", "0.4900", "Setting"):
        assert part in text
    for title in ("Metrics over the setting", "Pareto front", "Learning curves"):
        assert title in text
    code, _, err = command("report", "--search", tmp_path / "trials", "--out", page)
    assert code == 2 and "holds no finished `duskfuse tune`" in err


def test_more_than_one_field_gets_parallel_coordinates(search, tmp_path):
    for experts, seed in VALUES:
        record(tmp_path, experts, seed)
    for path in (tmp_path / "trials").glob("*.json"):
        about = json.loads(path.read_text())
        about["values"]["loss.gradient"] = 10.0
        path.write_text(json.dumps(about))
    args = replace(search, space=("model.experts=2,4,6", "loss.gradient=10.0,20.0"))
    write_results(args, [], parse_objectives(args), plan_search(args))
    assert (tmp_path / "figures" / "parallel.svg").exists()
