"""Elastic training: wait for a lost node, continue with fewer workers, and with more again.

All workers that there is room for are used. They share the batch of the recipe, or the next larger one that they can
share (`fusion.training.configs.worker_batch_size`), and the learning rate follows it. All of it happens between runs of
Ray Train on the same folder, which Ray restores from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fusion.errors import UserError
from fusion.training.configs import worker_batch_size
from workflows.console import log_progress

START_SECONDS = 60  # how long Ray Train waits for the resources of its workers
NOT_ENOUGH_CPUS = "the cluster has lost CPUs"


class TrainResult(Protocol):
    """What Ray Train returns of a run: the answer of the first worker's loop, and the last checkpoint."""

    return_value: str | None
    checkpoint: Any


class InsufficientResources(Exception):
    """The cluster does not hold the workers of a run, or not now."""


@dataclass(frozen=True)
class WorkerResources:
    """What a worker takes, and the CPUs that must be `spare` beside all of them."""

    cpus: float
    gpu: bool
    spare: float = 0.0

    def max_workers(self) -> int:
        """Return how many workers the nodes that are alive hold, whatever else runs there."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        total = sum(node.get("CPU", 0) for node in nodes)
        workers = sum(self._on(node) for node in nodes)
        while workers and workers * self.cpus + self.spare > total + 1e-6:
            workers -= 1
        return workers

    def _on(self, node: dict[str, float]) -> int:
        by_cpu = int(node.get("CPU", 0) / self.cpus + 1e-6)
        return min(by_cpu, int(node.get("GPU", 0))) if self.gpu else by_cpu


@dataclass(frozen=True)
class WorkerConfig:
    """What every worker of a run knows of all: their number, what was asked for at first, and what each takes."""

    workers: int
    workers_wanted: int
    threads: int  # of each
    resources: WorkerResources


def run_elastic(
    attempt: Callable[[int, WorkerResources], TrainResult],
    workers: int,
    batch_size: int,
    resources_of: Callable[[int], WorkerResources],
    node_timeout: float,
) -> TrainResult:
    """Call `attempt(workers, resources of each)` until the training is finished, with as many workers as possible.

    Returns the last result. A lost node is waited for, `node_timeout` seconds, and an autoscaler asked for another
    one, because the workers that want it are asked for all the time. After that fewer workers continue. Raises
    UserError where there is no room for one.
    """
    wanted, lost_since = workers, None
    while True:
        begin = time.monotonic()
        try:
            result = attempt(workers, resources_of(workers))
            if result.return_value is None:
                return result
            if result.return_value == NOT_ENOUGH_CPUS:
                raise InsufficientResources(NOT_ENOUGH_CPUS)
            log_progress(result.return_value)
            workers, lost_since = wanted, None
        except InsufficientResources as reason:
            now = time.monotonic()
            if lost_since is None or now - begin > 3 * START_SECONDS:  # it has trained in between
                lost_since = now
            needed = resources_of(workers)
            possible = needed.max_workers()
            if possible >= workers:
                log_progress(f"{reason}; the cluster has room for {workers} workers: trying again")
            elif (left := lost_since + node_timeout - now) > 0:
                log_progress(
                    f"{reason}: room for {possible} of {workers} workers. Waiting {left:.0f} s more for the others"
                )
            elif not possible:
                raise UserError(
                    f"the cluster has no room left for a worker of {needed.cpus:g} CPUs"
                    f"{' and a GPU' if needed.gpu else ''}. When it has, the same command goes on."
                ) from None
            else:
                batch = possible * worker_batch_size(batch_size, possible)
                log_progress(f"{reason}: going on with {possible} instead of {workers} workers, by a batch of {batch}")
                workers = possible


def check_cpus_left(worker: WorkerConfig) -> str | None:
    """Return NOT_ENOUGH_CPUS if no CPU is left for data loading. All workers return the same value."""
    return NOT_ENOUGH_CPUS if _max_workers(worker) < worker.workers else None


def early_stop_reason(worker: WorkerConfig) -> str | None:
    """Return why the workers should end after this epoch and be started again by `run_elastic`; None: continue.

    A node has got notice that it will be taken away, or there is room for more workers again. All workers return the
    same value.
    """
    import ray.train

    if ray.train.get_preemption_info() is not None:
        return "a node is about to be taken away: its workers have ended with their checkpoint"
    if worker.workers >= worker.workers_wanted:
        return None
    possible = min(worker.workers_wanted, _max_workers(worker))
    return f"there is room for {possible} workers again" if possible > worker.workers else None


def _max_workers(worker: WorkerConfig) -> int:
    """Return what the first worker sees of the cluster, so that all decide alike."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    is_first = ray.train.get_context().get_world_rank() == 0
    workers: int = broadcast_from_rank_zero(worker.resources.max_workers() if is_first else None)
    return workers
