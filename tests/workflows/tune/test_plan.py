"""What a search will do, without Ray."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fusion import storage
from fusion.errors import UserError
from fusion.training.recipes import RECIPES
from fusion.training.search_space import apply
from workflows.tune import job as tune_job
from workflows.tune import plan as tune_plan
from workflows.tune import records
from workflows.tune import resources as tune_resources
from workflows.tune.options import Args
from workflows.tune.plan import parse_objectives, plan_search, with_objective_metrics
from workflows.tune.search import build_scheduler, build_searcher
from workflows.tune.trial import values_of

ARGS = Args(recipe=RECIPES["moefusion-tiny"](), corpus="corpus", out="out")


def test_presets_are_whole_grids_with_every_seed():
    plan = plan_search(replace(ARGS, preset="experts", num_seeds=2))
    assert plan.search == "grid" and not plan.stops
    assert len(plan.trials) == 14 and [seed for _, seed in plan.trials] == [0] * 7 + [1] * 7
    assert len({records.trial_name(values, seed) for values, seed in plan.trials}) == 14


def test_ranges_are_drawn_and_stopped_early():
    plan = plan_search(replace(ARGS, preset="nka", num_samples=5))
    assert plan.search == "random" and plan.stops and len(plan.settings) == 5
    assert not plan_search(replace(ARGS, preset="nka", num_samples=5, early_stopping=False)).stops
    more = plan_search(replace(ARGS, preset="nka", num_samples=9))
    assert more.settings[:5] == plan.settings


def test_lists_are_a_grid_unless_told_otherwise():
    space = ("loss.gradient=1,5", "model.experts=2,4,6")
    assert len(plan_search(replace(ARGS, space=space)).settings) == 6
    assert plan_search(replace(ARGS, space=space, search="random", num_samples=4)).search == "random"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({}, "give --preset"),
        ({"preset": "alpha", "space": ("loss.gradient=1,2",)}, "one of them"),
        ({"preset": "alpha", "search": "random"}, "is a grid"),
        ({"preset": "alpha", "search": "annealing"}, "grid, random, optuna"),
        ({"space": ("loss.gradient=1..5",), "search": "grid"}, "is a range"),
        ({"preset": "nka", "search": "optuna", "num_seeds": 2}, "each setting once"),
        ({"preset": "nka", "num_samples": 0}, "at least 1"),
        ({"space": ("seed=1,2,3",)}, "--num-seeds"),
    ],
)
def test_options_that_make_no_search(change, part):
    with pytest.raises(UserError, match=part):
        plan_search(replace(ARGS, **change))


def test_a_loss_whose_weights_are_searched_is_no_objective():
    args = replace(ARGS, preset="alpha", objective="loss")
    with pytest.raises(UserError, match=r"loss\.gradient changes what the loss is"):
        tune_plan.check_search(args, plan_search(args))


def test_without_rows_to_validate_on_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "workflows.tune.job.open_corpus",
        lambda where: SimpleNamespace(rows=lambda split: 40 * (split != "val"), content="x"),
    )
    with pytest.raises(UserError, match="no rows to validate on"):
        tune_job.run(replace(ARGS, preset="alpha", out=str(tmp_path / "out")), [])
    assert not (tmp_path / "out").exists()


def test_objectives():
    assert parse_objectives(replace(ARGS, objective="qabf, niqe,loss")) == {"qabf": True, "niqe": False, "loss": False}
    assert parse_objectives(replace(ARGS, objective="map50", detector="d")) == {"map50": True}
    with pytest.raises(UserError, match="needs --detector"):
        parse_objectives(replace(ARGS, objective="map50"))
    with pytest.raises(UserError, match="unknown metric 'quality'"):
        parse_objectives(replace(ARGS, objective="quality"))
    assert with_objective_metrics(ARGS.recipe, {"qabf": True, "ssim": True}).validation.metrics == ("ssim",)


def write(out, name, **about):
    about = {"name": name, "values": {}, "seed": 0, "raw": {}, "error": "", "history": []} | about
    storage.write_text(records.record_path(str(out), name), json.dumps(about))


def test_what_has_ended_is_not_run_again(tmp_path):
    args = replace(ARGS, preset="alpha", out=str(tmp_path))
    plan = plan_search(args)
    names = [records.trial_name(values, seed) for values, seed in plan.trials]
    for name, state in zip(names, ("finished", "stopped early", "failed", "running"), strict=False):
        write(tmp_path, name, state=state)
    ended = records.ended_trials(str(tmp_path))
    assert sorted(ended) == sorted(names[:2])
    assert plan.num_left(ended) == 3
    assert plan_search(replace(args, num_seeds=2)).num_left(ended) == 8


def test_the_record_of_an_earlier_version_is_read(tmp_path):
    old = {"name": "t", "values": {"model.experts": 4}, "seed": 1, "raw": {}, "begun": 2, "id": "x"}
    old |= {"state": "finished", "error": "", "history": [{"epoch": 1, "wait_share": 0.5, "val/qabf": 0.4}]}
    storage.write_text(records.record_path(str(tmp_path), "t"), json.dumps(old))
    record = records.ended_trials(str(tmp_path))["t"]
    assert (record.attempt, record.trial_id, record.values) == (2, "x", {"model.experts": 4})
    assert record.history == ({"epoch": 1, "data_time_fraction": 0.5, "val/qabf": 0.4},)


def history(values):
    return tuple({"epoch": epoch, "val/qabf": value} for epoch, value in enumerate(values, 1))


def test_asha_knows_the_trials_that_have_ended():
    """A trial that is worse than those before is stopped at its first rung, although they are not run again."""
    args = replace(ARGS, recipe=replace(ARGS.recipe, epochs=9), grace=1, reduction=3)
    good = {f"t{i}": records.TrialRecord(f"t{i}", history=history([0.5 + i / 100] * 9)) for i in range(6)}
    for ended, decision in ((good, "STOP"), ({}, "CONTINUE")):
        scheduler = build_scheduler(args, 9, "val/qabf", "max", ended)
        new = SimpleNamespace(trial_id="new")
        scheduler.on_trial_add(None, new)
        assert scheduler.on_trial_result(None, new, {"epoch": 1, "val/qabf": 0.1}) == decision


@pytest.mark.parametrize(("epochs", "grace"), [(1, 0), (3, 1), (9, 1), (9, 3), (4, 4), (4, 9)])
def test_asha_stops_nothing_at_the_last_epoch(epochs, grace):
    """Ray has a rung at the last epoch where that is the grace period times a power of the reduction."""
    args = replace(ARGS, grace=grace, reduction=3)
    good = {f"t{i}": records.TrialRecord(f"t{i}", history=history([0.5] * epochs)) for i in range(6)}
    scheduler = build_scheduler(args, epochs, "val/qabf", "max", good)
    new = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, new)
    values = [0.9] * (epochs - 1) + [0.1]
    for numbers in history(values):
        assert scheduler.on_trial_result(None, new, numbers) == "CONTINUE"


def test_optuna_draws_what_a_recipe_allows(tmp_path):
    plan = plan_search(replace(ARGS, preset="nka", search="optuna", num_samples=8))
    write(tmp_path, "begun", state="running", raw={**dict.fromkeys(plan.names, 0.5), "model.experts": 6})
    done = {"model.experts": 4, "model.top_k": 0.3, "loss.gradient": 10.0, "loss.load_global": 0.02}
    ended = {"done": records.TrialRecord("done", drawn=done, history=history([0.4]))}
    begun = {"model.experts": 6, "model.top_k": 0.5, "loss.gradient": 2.0, "loss.load_global": 0.1}
    write(tmp_path, "begun", state="running", raw=begun)
    searcher = build_searcher(plan, 0, "val/qabf", "max", str(tmp_path), ended)
    first = searcher.suggest("a")
    assert first == begun  # what had begun goes on first
    assert values_of(plan.dimensions, first)["model.top_k"] == 4  # half of the way through 1..6
    for name in "bcdefgh":
        apply(ARGS.recipe, values_of(plan.dimensions, searcher.suggest(name)))


@pytest.mark.parametrize(
    ("cpus", "gpus", "crowd", "change", "expected"),
    [
        (4, 0, 2, {}, (2, 0.99, 1)),  # two cores, counted twice
        (16, 0, 1, {}, (8, 0.99, 2)),
        (16, 0, 1, {"workers": 3}, (4, 0.997, 1)),
        (24, 6, 1, {}, (6, 1.0, 1)),  # six nodes with a GPU and four CPUs each
        (24, 6, 1, {"workers": 6}, (1, 1.0, 1)),
        (16, 0, 1, {"max_concurrent": 2}, (2, 6.99, 8)),
    ],
)
def test_room(monkeypatch, cpus, gpus, crowd, change, expected):
    monkeypatch.setattr(tune_resources, "resources", lambda: (float(cpus), gpus))
    monkeypatch.setattr("workflows.tune.resources.largest_node", lambda: float(cpus if not gpus else 4))
    room = tune_resources.plan_resources(replace(ARGS, **change), crowd)
    assert (room.max_concurrent, round(room.cpus, 3), room.threads) == expected
    # all trials fit side by side: their workers, a CPU for reading each, and their own processes
    each = args_workers(change) * room.cpus + tune_resources.READING_CPUS + tune_resources.DRIVER_CPUS
    assert room.max_concurrent * each <= cpus + 1e-9


def args_workers(change):
    return change.get("workers", ARGS.workers)


@pytest.mark.parametrize(
    ("cpus", "gpus", "change"), [(1, 0, {}), (4, 0, {"max_concurrent": 4}), (8, 2, {"workers": 3})]
)
def test_no_room(monkeypatch, cpus, gpus, change):
    monkeypatch.setattr(tune_resources, "resources", lambda: (float(cpus), gpus))
    monkeypatch.setattr("workflows.tune.resources.largest_node", lambda: float(cpus))
    with pytest.raises(UserError, match="no room for"):
        tune_resources.plan_resources(replace(ARGS, **change), 1)
