"""A search over both stages of TG-ECNet: what is trained, shared, checked and found again."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from fusion import storage
from fusion.errors import UserError
from fusion.training.recipes import RECIPES
from fusion.training.two_stage import TWO_STAGE_RECIPES
from tests.helpers.command_line import one_line
from workflows.train.recipes import find_recipe
from workflows.tune import job as tune_job
from workflows.tune import records
from workflows.tune.options import Args
from workflows.tune.plan import check_settings, check_stages, plan_search
from workflows.tune.search import trial_task
from workflows.tune.trial import train_command
from workflows.tune.two_stage import first_stage_plan, first_stage_run

TINY = TWO_STAGE_RECIPES["tgecnet-tiny"]()
ARGS = Args(recipe=TINY, corpus="corpus", out="out")
SPACE = ("model.top_k=1,2", "fuse.loss.gradient=1,5,10")


def test_stage_1_is_trained_once_for_settings_that_share_it():
    plan = plan_search(replace(ARGS, space=SPACE, num_seeds=2))
    first = first_stage_plan(plan)
    assert len(plan.trials) == 12 and first.names == ("model.top_k",) and first.stage == "restore"
    assert first.trials == [({"model.top_k": k}, seed) for seed in (0, 1) for k in (1, 2)]
    starts = {first_stage_run("out", values, seed) for values, seed in plan.trials}
    names = {records.trial_name(values, seed) for values, seed in first.trials}
    assert starts == {f"out/restore/trials/{name}" for name in names} and len(starts) == 4


def test_settings_of_stage_2_alone_have_one_stage_1_for_each_seed():
    plan = plan_search(replace(ARGS, preset="alpha", num_seeds=2))
    assert first_stage_plan(plan).trials == [({}, 0), ({}, 1)]
    optuna = plan_search(replace(ARGS, space=("fuse.loss.gradient=1..40:log",), search="optuna", num_samples=5))
    assert first_stage_plan(optuna).trials == [({}, 0)] and first_stage_plan(optuna).num_left({}) == 1


@pytest.mark.parametrize("preset", ["experts", "alpha", "nka"])
def test_presets_are_of_both_stages(preset):
    args = replace(ARGS, preset=preset, num_samples=6)
    plan = plan_search(args)
    check_stages(args, plan)
    check_settings(args, plan)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            {"space": ("model.experts=2..6", "fuse.loss.gradient=1,2"), "search": "optuna"},
            "model.experts changes stage 1",
        ),
        ({"space": SPACE, "start": "run"}, "trains its own stage 1"),
        ({"recipe": RECIPES["tgecnet-fuse-tiny"](), "space": ("model.experts=2..16",)}, "duskfuse tune tgecnet"),
        ({"recipe": RECIPES["tgecnet-fuse"](), "preset": "experts", "start": "run"}, "model.fusion_experts and model"),
        ({"recipe": RECIPES["tgecnet-fuse-tiny"](), "space": ("model.residual=0.5,1.0",)}, "give --from"),
        ({"recipe": RECIPES["moefusion-tiny"](), "preset": "experts", "start": "run"}, "starts afresh"),
    ],
)
def test_searches_that_cannot_run_are_refused(change, part):
    args = replace(ARGS, **change)
    with pytest.raises(UserError, match=part):
        check_stages(args, plan_search(args))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"space": ("model.experts=2,4,8", "model.top_k=1,3")},
            ["setting E2K3: ", "3 of 2 experts", "1 of 6 settings"],
        ),
        (
            {"space": ("model.experts=2..8", "model.top_k=1..4")},
            ["setting E", "experts (N)", "settings cannot be trained)"],
        ),
        ({"space": ("restore.batch_size=4,0",)}, ["batch_size", "at least 1", "1 of 2"]),
        ({"space": ("restore.batch_size=4,6",), "workers": 0}, ["--workers is 0"]),
        ({"space": ("fuse.crops.size=64,100",)}, ["multiple of 8"]),
        ({"space": ("model.bank_heads=4,5",), "search": "random", "num_samples": 1}, ["bank_channels", "1 of 2"]),
        ({"recipe": RECIPES["moefusion-tiny"](), "space": ("model.width=8,7",)}, ["multiple of 2"]),
    ],
)
def test_every_setting_is_checked_before_anything_runs(change, parts):
    args = replace(ARGS, **change)
    with pytest.raises(UserError) as caught:
        check_settings(args, plan_search(args))
    assert all(part in str(caught.value) for part in parts), caught.value


def test_every_setting_is_checked_on_the_corpus():
    args = replace(ARGS, space=("restore.batch_size=4,16", "fuse.loss.gradient=1,2"))
    plan, manifest = plan_search(args), SimpleNamespace(rows=lambda split: 10)
    with pytest.raises(UserError, match=r"batch_size 16.*10 training samples.*2 of 4 settings"):
        check_settings(args, plan, manifest)


def test_trials_start_from_their_own_stage_1(tmp_path):
    args = replace(ARGS, space=SPACE, out=str(tmp_path))
    plan = plan_search(args)
    runs = []
    room = SimpleNamespace(cpus=1.0, threads=1)
    for one, out in ((first_stage_plan(plan), tmp_path / "restore"), (plan, tmp_path)):
        task = trial_task(replace(args, out=str(out)), one, {}, room)
        values, seed = one.trials[-1]
        runs.append(train_command(records.TrialRecord(records.trial_name(values, seed), values, seed), task))
    (first, first_command), (second, second_command) = runs
    assert first.recipe.model.stage == "restore" and first.recipe.model.top_k == second.recipe.model.top_k == 2
    assert second.recipe.loss.gradient == 10 and second.recipe.model.stage == "fuse"
    assert first.start is None and second.start == first.out and second.given is None
    assert first_command[-4:] == ["--recipe.model.top_k", "2", "--recipe.seed", "0"]
    assert second_command[-6:-2] == ["--recipe.model.top_k", "2", "--recipe.loss.gradient", "10"]
    assert second_command[second_command.index("--from") + 1] == first.out


@pytest.fixture
def search(monkeypatch, tmp_path):
    """Run a search whose trainings are done at once: (options, {name: state}) -> the trials that were trained."""
    corpus = SimpleNamespace(content="0" * 64, rows=lambda split: 40)
    monkeypatch.setattr(tune_job, "open_corpus", lambda path: corpus)
    monkeypatch.setattr(tune_job, "connect", lambda oversubscription: oversubscription)
    monkeypatch.setattr(tune_job, "plan_resources", lambda args, oversubscription: None)

    def run(args, states=()):
        trained = []

        def run_search(args, plan, objectives, ended, resources):
            (metric,) = objectives
            for values, seed in plan.trials:
                name = records.trial_name(values, seed)
                if name in ended:
                    continue
                trained.append((plan.stage, values, seed))
                state = dict(states).get((plan.stage, seed), "finished")
                if state == "killed":
                    raise KeyboardInterrupt
                good = values.get("model.top_k", 1) + values.get("fuse.loss.gradient", 0) / 10
                history = [{"epoch": 1, "train/loss": 1.0, f"val/{metric}": good}] if state == "finished" else []
                about = {"name": name, "values": values, "seed": seed, "raw": {}, "state": state}
                about |= {"error": "out of memory" if state == "failed" else "", "history": history}
                storage.write_text(records.record_path(args.out, name), json.dumps(about))

        monkeypatch.setattr(tune_job, "run_search", run_search)
        tune_job.run(replace(args, out=str(tmp_path / "out")), [])
        return trained

    return run


def test_a_search_trains_stage_1_first_and_what_is_there_is_found_again(search, tmp_path):
    args = replace(ARGS, space=SPACE)
    with pytest.raises(KeyboardInterrupt):
        search(args, {("fuse", 0): "killed"})
    trained = search(args)
    assert [stage for stage, *_ in trained] == ["fuse"] * 6  # the two trainings of stage 1 were there
    assert search(args) == []
    more = search(replace(args, num_seeds=2))
    assert [(stage, seed) for stage, _, seed in more] == [("restore", 1)] * 2 + [("fuse", 1)] * 6
    out = tmp_path / "out"
    best = find_recipe(str(out / "best.json"))
    assert (best.model.top_k, best.fuse.loss.gradient, best.name) == (2, 10, "tgecnet-tiny")
    first = pd.read_csv(out / "restore" / "summary.csv")
    assert list(first["model.top_k"]) == [2, 1] and list(first["seeds"]) == [2, 2]
    assert len(pd.read_csv(out / "trials.csv")) == 12


@pytest.mark.parametrize(("state", "after"), [("failed", "failed"), ("stopped early", "stopped early")])
def test_trials_whose_stage_1_was_not_finished_do_not_run(search, tmp_path, state, after):
    args = replace(ARGS, preset="alpha", num_seeds=2)
    trained = search(args, {("restore", 1): state})
    assert [(stage, seed) for stage, _, seed in trained] == [("restore", 0), ("restore", 1)] + [("fuse", 0)] * 5
    trials = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert list(trials["state"]) == ["finished"] * 5 + [after] * 5 and list(trials["epochs"][5:]) == [0] * 5
    again = search(args)  # a stage 1 that failed is tried again, and then what waited for it
    assert [stage for stage, *_ in again] == (["restore"] + ["fuse"] * 5 if state == "failed" else [])


def test_no_stage_1_at_all(search):
    with pytest.raises(UserError, match="finished for no setting; the first failed with: out of memory"):
        search(replace(ARGS, preset="alpha"), {("restore", 0): "failed"})


def test_the_line_of_a_search_that_would_change_a_frozen_stage_1(command, tmp_path):
    words = ["tune", "tgecnet-fuse", "--from", "RUN1", "--corpus", "C", "--out", tmp_path / "out"]
    code, _, err = command(*words, "--space", "model.experts=2..16", "--space", "model.top-k=1..model.experts")
    assert code == 2 and not (tmp_path / "out").exists()
    one_line(err, "model.experts is of stage 1", "`duskfuse tune tgecnet`", "model.fusion_experts")
