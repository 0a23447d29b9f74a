from __future__ import annotations

from dataclasses import dataclass

from fusion.errors import UserError
from workflows.cluster.connect import resources
from workflows.train.trainer import largest_node
from workflows.tune.options import Args

READING_CPUS = 1.0  # of each trial
DRIVER_CPUS = 0.01  # its own process only waits for its training
CROWD = 2  # on one machine: reading needs little of its CPU


@dataclass(frozen=True)
class Room:
    """How the cluster is shared out: trials at once, CPUs and threads of each of their workers."""

    at_once: int
    cpus: float
    threads: int


def room(args: Args, crowd: int) -> Room:
    """As many trials as there is room for; CPUs are counted `crowd` times. UserError where not even one has room.

    Each trial has a CPU of its own for reading. Ray Data would share out what all trials leave free, rounded down to
    whole CPUs on every node, which is none for each where there are more trials than free CPUs.
    """

    cpus, gpus = resources()
    if gpus:
        at_once = args.at_once or min(gpus // args.workers, int(cpus // (1 + args.workers)))
    else:
        at_once = args.at_once or int(cpus // (1 + args.workers))
    share = (cpus / max(at_once, 1) - READING_CPUS - DRIVER_CPUS) / args.workers
    each = args.cpus_per_worker or min(share, 1.0 if gpus else largest_node() - READING_CPUS - DRIVER_CPUS)
    if not at_once or each <= 0 or each > share or (gpus and at_once * args.workers > gpus):
        there = f"{cpus:g} CPUs" + (f" and {gpus} GPUs" if gpus else "")
        raise UserError(
            f"no room for {max(at_once, 1)} trials at once of {args.workers} workers and a CPU for reading each: the "
            f"cluster has {there}. Lower --at-once, --workers or --cpus-per-worker."
        )
    threads = 1 if gpus else max(1, int(cpus / crowd / (at_once * args.workers)))
    return Room(at_once, each, threads)
