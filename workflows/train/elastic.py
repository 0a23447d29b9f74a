"""A training whose cluster changes: it waits for a lost node, goes on with fewer workers, and with more again.

The global batch stays: only numbers of workers that share it evenly are used. All of it happens between runs of Ray
Train on the same place, which Ray restores from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fusion.errors import UserError
from workflows.console import log_progress

START_SECONDS = 60  # how long Ray Train waits for the resources of its workers
NOT_ENOUGH_CPUS = "the cluster has lost CPUs"


class InsufficientResources(Exception):
    """The cluster does not hold the workers of a run, or not now."""


@dataclass(frozen=True)
class WorkerResources:
    """What a worker takes, and the CPUs that must be `spare` beside all of them."""

    cpus: float
    gpu: bool
    spare: float = 0.0

    def max_workers(self) -> int:
        """How many workers the nodes that are alive hold, whatever else runs there."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        total = sum(node.get("CPU", 0) for node in nodes)
        held = sum(self._on(node) for node in nodes)
        while held and held * self.cpus + self.spare > total + 1e-6:
            held -= 1
        return held

    def _on(self, node: dict[str, float]) -> int:
        by_cpu = int(node.get("CPU", 0) / self.cpus + 1e-6)
        return min(by_cpu, int(node.get("GPU", 0))) if self.gpu else by_cpu


def largest_divisor_up_to(batch: int, most: int) -> int:
    """The most workers, `most` at most, that share a batch evenly; 0 for none."""
    return max((n for n in range(1, most + 1) if batch % n == 0), default=0)


def run_elastic(
    attempt: Callable[[int, WorkerResources], Any],
    workers: int,
    batch: int,
    share: Callable[[int], WorkerResources],
    patience: float,
) -> Any:
    """`attempt(workers, their share)` until the training is finished, with as many workers as the cluster holds.

    Returns the last result. A lost node is waited for, `patience` seconds, and an autoscaler asked for another one,
    because the workers that want it are asked for all the time. After that fewer workers go on; with none, UserError.
    """
    wanted, lost = workers, None
    while True:
        begin = time.monotonic()
        try:
            result = attempt(workers, share(workers))
            if result.return_value is None:
                return result
            if result.return_value == NOT_ENOUGH_CPUS:
                raise InsufficientResources(NOT_ENOUGH_CPUS)
            log_progress(result.return_value)
            workers, lost = wanted, None
        except InsufficientResources as reason:
            now = time.monotonic()
            if lost is None or now - begin > 3 * START_SECONDS:  # it has trained in between
                lost = now
            needed = share(workers)
            held = needed.max_workers()
            if held >= workers:
                log_progress(f"{reason}; the cluster has room for {workers} workers: trying again")
            elif (left := lost + patience - now) > 0:
                log_progress(
                    f"{reason}: room for {held} of {workers} workers. Waiting {left:.0f} s more for the others"
                )
            elif not (fewer := largest_divisor_up_to(batch, held)):
                raise UserError(
                    f"the cluster has no room left for a worker of {needed.cpus:g} CPUs"
                    f"{' and a GPU' if needed.gpu else ''}. When it has, the same command goes on."
                ) from None
            else:
                log_progress(
                    f"{reason}: going on with {fewer} instead of {workers} workers, by the same batch of {batch}"
                )
                workers = fewer


def check_cpus_left(config: dict[str, Any]) -> str | None:
    """Before the first epoch, on all workers alike: CROWDED where reading data would have no CPU beside them."""
    return NOT_ENOUGH_CPUS if _room(config) < config["workers"] else None


def early_stop_reason(config: dict[str, Any]) -> str | None:
    """Return why the workers should end after this epoch and be started again by `run_elastic`; None: go on.

    A node has got notice that it will be taken away, or there is room for more workers again. All workers return the
    same.
    """
    import ray.train

    if ray.train.get_preemption_info() is not None:
        return "a node is about to be taken away: its workers have ended with their checkpoint"
    if config["workers"] >= config["wanted"]:
        return None
    more = largest_divisor_up_to(config["batch"], min(config["wanted"], _room(config)))
    return f"there is room for {more} workers again" if more > config["workers"] else None


def _room(config: dict[str, Any]) -> int:
    """What the first worker sees; as one worker, so that all decide alike."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    first = ray.train.get_context().get_world_rank() == 0
    return broadcast_from_rank_zero(WorkerResources(**config["share"]).max_workers() if first else None)
