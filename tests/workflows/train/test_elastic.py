"""A training goes on with another number of workers: what is decided, and that its curve joins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from detection.moefusion.recipes import moefusion_detectors
from fusion.errors import UserError
from fusion.training.recipes import tgecnet_restore
from workflows.train import elastic
from workflows.train.elastic import (
    NOT_ENOUGH_CPUS,
    InsufficientResources,
    WorkerResources,
    run_elastic,
)
from workflows.train.trainer import plan_batch


def cluster(monkeypatch, *nodes: dict) -> None:
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])


class Clock:
    """Time that only passes where it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(elastic.time, "monotonic", lambda: self.now)


def attempts(clock: Clock, *outcomes):
    """An attempt that does one after the other: (seconds, what comes of it). Who tried is in `tried`."""
    tried, left = [], list(outcomes)

    def attempt(workers: int, share: WorkerResources):
        tried.append(workers)
        seconds, outcome = left.pop(0)
        clock.now += seconds
        if isinstance(outcome, Exception):
            raise outcome
        return SimpleNamespace(return_value=outcome)

    return attempt, tried


def test_the_batch_and_the_rate_are_printed():
    recipe = moefusion_detectors()
    text = (
        "batch 6 = 6 x 1 (the recipe's 4 is not shared evenly), learning rate 0.0001225 (the recipe's 0.0001, scaled)"
    )
    assert str(plan_batch(recipe.batch_size, recipe.optim, 6)) == text
    recipe = tgecnet_restore()
    assert str(plan_batch(recipe.batch_size, recipe.optim, 6)) == "batch 42 = 6 x 7, learning rate 0.0001"
    assert str(plan_batch(recipe.batch_size, recipe.optim, 1)) == "batch 42, learning rate 0.0001"


def test_room_is_counted_by_node_and_leaves_cpus_for_reading(monkeypatch):
    cluster(monkeypatch, {"CPU": 3.0}, {"CPU": 3.0}, {"CPU": 1.0})
    assert WorkerResources(2.0, False).max_workers() == 2
    assert WorkerResources(1.0, False, 0.25).max_workers() == 6
    assert WorkerResources(0.5, False, 0.25).max_workers() == 13
    assert WorkerResources(1.0, True).max_workers() == 0
    cluster(monkeypatch, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 2.0}, {"CPU": 16.0})
    assert WorkerResources(1.0, True, 0.25).max_workers() == 5


def test_a_lost_node_is_waited_for_and_then_done_without(monkeypatch, capfd):
    """Six GPUs, one lost: five go on, 3 each. Tried again with six until the patience is over."""
    cluster(monkeypatch, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0})
    clock = Clock(monkeypatch)
    gone = (70, InsufficientResources("the workers did not start"))
    attempt, tried = attempts(
        clock, (5000, InsufficientResources("the workers did not start")), gone, gone, gone, (9000, None)
    )
    run_elastic(attempt, 6, 12, lambda number: WorkerResources(1.0, True), node_timeout=200)
    assert tried == [6, 6, 6, 6, 5]
    said = capfd.readouterr().err.splitlines()
    assert "room for 5 of 6 workers. Waiting 200 s more" in said[0] and "Waiting 60 s" in said[2]
    assert "going on with 5 instead of 6 workers, by a batch of 15" in said[3]


def test_a_node_that_comes_back_in_time_is_used(monkeypatch):
    clock = Clock(monkeypatch)
    cluster(monkeypatch, {"CPU": 8.0, "GPU": 1.0})
    attempt, tried = attempts(clock, (900, InsufficientResources("gone")), (900, None))
    run_elastic(attempt, 2, 4, lambda number: WorkerResources(1.0, True), node_timeout=300)
    assert tried == [2, 2]


def test_after_an_early_end_all_workers_are_asked_for_again(monkeypatch, capfd):
    clock = Clock(monkeypatch)
    cluster(monkeypatch, {"CPU": 8.0, "GPU": 1.0})
    attempt, tried = attempts(
        clock, (900, InsufficientResources("gone")), (900, "there is room for 2 workers again"), (900, None)
    )
    run_elastic(attempt, 2, 4, lambda number: WorkerResources(1.0, True), node_timeout=0)
    assert tried == [2, 1, 2]
    assert "room for 2 workers again" in capfd.readouterr().err


def test_crowded_workers_take_fewer_cpus_where_they_may(monkeypatch):
    """Without GPUs a worker's share follows the cluster: as many workers, with less each."""
    clock = Clock(monkeypatch)
    cluster(monkeypatch, {"CPU": 4.0})
    attempt, tried = attempts(clock, (20, NOT_ENOUGH_CPUS), (900, None))
    run_elastic(attempt, 6, 12, lambda number: WorkerResources(min(1.0, 0.5 * 4 / number), False, 0.25), node_timeout=0)
    assert tried == [6, 6]


def test_no_room_at_all_is_one_line(monkeypatch):
    clock = Clock(monkeypatch)
    cluster(monkeypatch, {"CPU": 8.0})
    attempt, _ = attempts(
        clock,
        (70, InsufficientResources("the workers did not start")),
        (70, InsufficientResources("the workers did not start")),
    )
    with pytest.raises(UserError, match=r"no room left for a worker of 1 CPUs and a GPU.*the same command goes on"):
        run_elastic(attempt, 2, 4, lambda number: WorkerResources(1.0, True), node_timeout=60)


@pytest.mark.ray
@pytest.mark.slow
def test_six_workers_then_two_learn_as_two_would(tmp_path):
    """The step at the join, and the distance to the undisturbed run after it, are within the noise.

    Noise: the largest step from one epoch to the next of the undisturbed run, its first three epochs left out, where
    it learns fastest. Crops are the same in both runs; which of them share a batch is not, and that is what a change
    of workers may do to a curve. A lost optimiser or rate would show as a step of many times that.
    """
    import ray

    import workflows  # noqa: F401  Ray's environment
    from benchmarks.elastic import SHOWN, join_of, measure

    ray.shutdown()  # the one that other modules share, if it runs; they start it again
    ray.init(address="local", num_cpus=8, include_dashboard=True, logging_level="error", log_to_driver=False)
    try:
        joined, undisturbed = measure(tmp_path, 12, 6, 6, 2)
    finally:
        ray.shutdown()
    workers = [one["workers"] for one in joined]
    at = workers.index(2)
    assert workers == [6] * at + [2] * (12 - at) and at >= 6
    assert {one["workers"] for one in undisturbed} == {2}
    assert len({one["train/steps"] for one in joined + undisturbed}) == 1
    for name in SHOWN:
        found = join_of([one[name] for one in joined], [one[name] for one in undisturbed], at)
        assert found.step <= found.noise, (name, found)
        assert found.apart <= found.noise, (name, found)
