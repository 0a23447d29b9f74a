"""Searches on a real local Ray."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from fusion import checkpoint
from tests.helpers.command_line import succeed
from tests.helpers.folders import put_back, times
from tests.helpers.jobs import duskfuse, end
from workflows.train.recipes import find_recipe

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SMALL = ["--recipe.crops.size", 32, "--recipe.crops.per-image", 1, "--recipe.validation.size", 48]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("tune") / "corpus"
    succeed("corpus", "--pairs", "scenes:12:72x64:5", "--preset", "clean", "--out", out)
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def words(corpus, place) -> list[object]:
    options = ["--space", "loss.gradient=1,10", "--objective", "qabf,ssim", "--recipe.epochs", 2, *SMALL]
    return ["tune", "moefusion-tiny", "--corpus", corpus, "--out", place / "out", *options]


@pytest.fixture(scope="module")
def saved(words, place) -> Path:
    """What the search left."""
    succeed(*words)
    return Path(shutil.copytree(place / "out", place / "saved"))


@pytest.fixture
def searched(saved, place) -> Path:
    """The folder of the finished search, in its place."""
    put_back(saved, place / "out")
    return place / "out"


def test_a_grid_leaves_tables_pictures_and_recipes(searched):
    trials, curves = pd.read_csv(searched / "trials.csv"), pd.read_csv(searched / "curves.csv")
    assert list(trials["state"]) == ["finished"] * 2 and sorted(trials["loss.gradient"]) == [1, 10]
    assert len(curves) == 4 and trials[["val/qabf", "val/ssim"]].notna().all(axis=None)
    summary = pd.read_csv(searched / "summary.csv")
    assert summary["val/qabf"].is_monotonic_decreasing and list(summary["seeds"]) == [1, 1]
    best = find_recipe(str(searched / "best.json"))
    assert best.loss.gradient == summary["loss.gradient"][0] and best.epochs == 2
    assert {path.name for path in (searched / "figures").iterdir()} == {"curves.svg", "front.svg", "settings.svg"}
    about = json.loads((searched / "tune.json").read_text())
    assert about["trials"] == {"finished": 2} and 1 <= len(about["front"]) == len(list(searched.glob("front/*.json")))
    for name, row in trials.set_index("trial").iterrows():  # every trial is a run like any other
        run = json.loads((searched / "trials" / name / "run.json").read_text())
        assert run["settings"]["recipe"]["loss"]["gradient"] == row["loss.gradient"]
        assert run["history"][-1]["val/qabf"] == pytest.approx(row["val/qabf"])
        assert (searched / "trials" / name / "checkpoint" / "state.json").exists()


def test_again_runs_nothing(searched, words, command):
    before = times(searched / "trials")
    code, out, err = command(*words)
    assert code == 0 and "all 2 trials are there" in err and "the best is" in out
    assert times(searched / "trials") == before


@pytest.mark.slow
def test_a_seed_more_runs_what_is_new(searched, words, command):
    before = {path: path.stat().st_mtime_ns for path in searched.glob("trials/*/run.json")}
    code, _, err = command(*words, "--num-seeds", 2)
    assert code == 0, err
    assert len(before) == 2 and len(list(searched.glob("trials/*/run.json"))) == 4
    assert before == {path: path.stat().st_mtime_ns for path in before}
    summary = pd.read_csv(searched / "summary.csv")
    assert list(summary["seeds"]) == [2, 2] and summary["val/qabf_sd"].notna().all()
    seeds = pd.read_csv(searched / "trials.csv").set_index(["loss.gradient", "seed"])["val/qabf"]
    assert seeds[1, 0] != seeds[1, 1]


def test_another_search_in_its_place_is_refused(searched, words, command):
    code, _, err = command(*words, "--space", "optim.lr=0.1,0.2")
    assert code == 2 and "holds another search" in err.splitlines()[-1]


@pytest.mark.slow
def test_trials_that_are_stopped_make_room_for_the_next(corpus, tmp_path, command):
    """Six trials, two at once, of which ASHA stops some: all are begun, and nothing is held in the end."""
    import ray

    out = tmp_path / "out"
    options = ["--space", "optim.lr=1e-7..1e-2:log", "--num-samples", 6, "--reduction", 2, "--grace", 1]
    code, _, err = command(
        "tune", "moefusion-tiny", "--corpus", corpus, "--out", out, *options, "--recipe.epochs", 6, *SMALL
    )
    assert code == 0, err
    trials = pd.read_csv(out / "trials.csv")
    assert len(trials) == 6 and set(trials["state"]) == {"finished", "stopped early"}
    stopped = trials[trials["state"] == "stopped early"]
    assert (stopped["epochs"] < 6).all() and (stopped["epochs"] >= 1).all()
    deadline = time.time() + 90
    while ray.available_resources().get("CPU", 0) < 4 and time.time() < deadline:
        time.sleep(1)
    assert ray.available_resources()["CPU"] == 4


@pytest.mark.slow
def test_optuna(corpus, tmp_path, command):
    pytest.importorskip("optuna")
    out = tmp_path / "out"
    space = ["--space", "model.experts=2..6:2", "--space", "model.top-k=1..model.experts"]
    words = ["tune", "moefusion-tiny", "--corpus", corpus, "--out", out, *space, "--recipe.epochs", 1, *SMALL]
    words += ["--search", "optuna"]
    code, _, err = command(*words, "--num-samples", 3)
    assert code == 0, err
    found = [json.loads(path.read_text()) for path in out.glob("trials/*.json")]
    assert found and all(1 <= one["values"]["model.top_k"] <= one["values"]["model.experts"] for one in found)
    assert (out / "figures" / "parallel.svg").exists()


@pytest.mark.slow
def test_both_stages_of_tgecnet(corpus, tmp_path, command):
    """Two trainings of stage 1 for four trials; the best recipe trains both stages in one command."""
    out = tmp_path / "out"
    small = [words for stage in ("restore", "fuse") for words in both_small(stage)]
    space = ["--space", "model.top_k=1,2", "--space", "fuse.loss.gradient=1,10"]
    words = ["tune", "tgecnet-tiny", "--corpus", corpus, "--out", out, *space, *small]
    code, _, err = command(*words, "--early-stopping", "True")
    assert code == 0, err
    first = {path.parent.name: load(path) for path in out.glob("restore/trials/*/run.json")}
    trials = [load(path) for path in out.glob("trials/*/run.json")]
    assert len(first) == 2 and len(trials) == 4
    starts = {checkpoint.load(out / "restore" / "trials" / name).fingerprint: run for name, run in first.items()}
    for run in trials:
        stage_1, recipe = starts[run["settings"]["init_checkpoint"]], run["settings"]["recipe"]
        assert stage_1["settings"]["recipe"]["model"]["top_k"] == recipe["model"]["top_k"]
        assert {"val/qabf", "val/vif"} <= run["history"][-1].keys() and "val/psnr" in stage_1["history"][-1]
    before = times(out / "trials") | times(out / "restore" / "trials")
    code, _, err = command(*words, "--early-stopping", "True")
    assert code == 0 and "all 4 trials are there" in err
    assert times(out / "trials") | times(out / "restore" / "trials") == before

    run = tmp_path / "run"
    code, said, err = command("train", out / "best.json", "--corpus", corpus, "--out", run, "--workers", 1)
    assert code == 0, err
    assert {path.name for path in run.iterdir()} >= {"restore", "checkpoint", "run.json"}
    both = checkpoint.load(run), checkpoint.load(run / "restore")
    assert [one.model.config.stage for one in both] == ["fuse", "restore"]
    code, said, err = command("train", out / "best.json", "--corpus", corpus, "--out", run, "--workers", 1)
    assert code == 0 and said.count("is finished") == 2
    code, _, err = command("train", "tgecnet-tiny", "--corpus", corpus, "--out", out)
    assert code == 2 and "holds no run of both stages" in err.splitlines()[-1]


def both_small(stage):
    yield from (f"--recipe.{stage}.epochs", 1, f"--recipe.{stage}.crops.size", 32)
    yield from (f"--recipe.{stage}.validation.size", 48)


def load(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_killed_search_of_both_stages_keeps_stage_1(corpus, tmp_path):
    out = tmp_path / "out"
    small = [words for stage in ("restore", "fuse") for words in both_small(stage)]
    options = ["--space", "model.top_k=1,2", "--max-concurrent", 1, *small, "--recipe.fuse.epochs", 3]
    words = ["tune", "tgecnet-tiny", "--corpus", corpus, "--out", out, *options]
    first = duskfuse(*words)
    deadline = time.time() + 600
    while len(ready := list(out.glob("restore/trials/*/run.json"))) < 1 and time.time() < deadline:
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.2)
    time.sleep(1)
    end(first)
    before = {path: path.stat().st_mtime_ns for path in ready}
    assert before and not (out / "tune.json").exists()
    second = duskfuse(*words, stdout=subprocess.PIPE)
    _, err = second.communicate(timeout=900)
    assert second.returncode == 0, err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert list(pd.read_csv(out / "trials.csv")["state"]) == ["finished"] * 2
    assert len(list(out.glob("restore/trials/*/run.json"))) == 2


@pytest.mark.slow
def test_a_killed_search_keeps_what_was_finished(corpus, tmp_path):
    out = tmp_path / "out"
    options = ["--space", "loss.gradient=1,5,10", "--max-concurrent", 1, "--recipe.epochs", 3, *SMALL]
    words = ["tune", "moefusion-tiny", "--corpus", corpus, "--out", out, *options]
    first = duskfuse(*words)
    deadline = time.time() + 600
    while not (ready := list(out.glob("trials/*/run.json"))) and time.time() < deadline:
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.5)
    time.sleep(3)
    end(first)
    assert ready and not (out / "tune.json").exists()
    before = {path: path.stat().st_mtime_ns for path in ready}

    second = duskfuse(*words, stdout=subprocess.PIPE)
    _, err = second.communicate(timeout=900)
    assert second.returncode == 0, err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    trials = pd.read_csv(out / "trials.csv")
    assert list(trials["state"]) == ["finished"] * 3 and set(trials["epochs"]) == {3}
    assert json.loads((out / "tune.json").read_text())["trials"] == {"finished": 3}
