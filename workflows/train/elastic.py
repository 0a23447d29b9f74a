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
from workflows.console import say

START_SECONDS = 60  # how long Ray Train waits for the resources of its workers
CROWDED = "the cluster has lost CPUs"


class NoRoom(Exception):
    """The cluster does not hold the workers of a run, or not now."""


@dataclass(frozen=True)
class Share:
    """What a worker takes, and the CPUs that must be `spare` beside all of them."""

    cpus: float
    gpu: bool
    spare: float = 0.0

    def room(self) -> int:
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


def even(batch: int, most: int) -> int:
    """The most workers, `most` at most, that share a batch evenly; 0 for none."""
    return max((n for n in range(1, most + 1) if batch % n == 0), default=0)


def go_on(
    attempt: Callable[[int, Share], Any],
    workers: int,
    batch: int,
    share: Callable[[int], Share],
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
            if result.return_value == CROWDED:
                raise NoRoom(CROWDED)
            say(result.return_value)
            workers, lost = wanted, None
        except NoRoom as reason:
            now = time.monotonic()
            if lost is None or now - begin > 3 * START_SECONDS:  # it has trained in between
                lost = now
            needed = share(workers)
            held = needed.room()
            if held >= workers:
                say(f"{reason}; the cluster has room for {workers} workers: trying again")
            elif (left := lost + patience - now) > 0:
                say(f"{reason}: room for {held} of {workers} workers. Waiting {left:.0f} s more for the others")
            elif not (fewer := even(batch, held)):
                raise UserError(
                    f"the cluster has no room left for a worker of {needed.cpus:g} CPUs"
                    f"{' and a GPU' if needed.gpu else ''}. When it has, the same command goes on."
                ) from None
            else:
                say(f"{reason}: going on with {fewer} instead of {workers} workers, by the same batch of {batch}")
                workers = fewer


def crowded(config: dict[str, Any]) -> str | None:
    """Before the first epoch, on all workers alike: CROWDED where reading data would have no CPU beside them."""
    return CROWDED if _room(config) < config["workers"] else None


def leave(config: dict[str, Any]) -> str | None:
    """At the end of an epoch, on all workers alike: why they should end here, and `go_on` begin anew; None: go on.

    A node has got notice that it will be taken away, or there is room for more workers again.
    """
    import ray.train

    if ray.train.get_preemption_info() is not None:
        return "a node is about to be taken away: its workers have ended with their checkpoint"
    if config["workers"] >= config["wanted"]:
        return None
    more = even(config["batch"], min(config["wanted"], _room(config)))
    return f"there is room for {more} workers again" if more > config["workers"] else None


def _room(config: dict[str, Any]) -> int:
    """What the first worker sees; as one worker, so that all decide alike."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    first = ray.train.get_context().get_world_rank() == 0
    return broadcast_from_rank_zero(Share(**config["share"]).room() if first else None)
