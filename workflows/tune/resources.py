"""How a search shares the cluster out among its trials."""

from __future__ import annotations

from dataclasses import dataclass

from fusion.errors import UserError
from workflows.cluster.connect import resources
from workflows.train.trainer import largest_node
from workflows.tune.options import Args

READING_CPUS = 1.0  # of each trial
DRIVER_CPUS = 0.01  # its own process only waits for its training
CPU_OVERSUBSCRIPTION = 2  # on one machine: reading needs little of its CPU


@dataclass(frozen=True)
class TrialResources:
    """How the cluster is shared out: trials at once, CPUs and threads of each of their workers."""

    max_concurrent: int
    cpus: float
    threads: int


def plan_resources(args: Args, oversubscription: int) -> TrialResources:
    """Plan as many trials as there is room for. Raises UserError where not even one has room.

    Ray counts every CPU `oversubscription` times.

    Each trial has a CPU of its own for reading. Ray Data would share out what all trials leave free, rounded down to
    whole CPUs on every node, which is none for each where there are more trials than free CPUs.
    """
    cpus, gpus = resources()
    if gpus:
        max_concurrent = args.max_concurrent or min(gpus // args.workers, int(cpus // (1 + args.workers)))
    else:
        max_concurrent = args.max_concurrent or int(cpus // (1 + args.workers))
    most_each = (cpus / max(max_concurrent, 1) - READING_CPUS - DRIVER_CPUS) / args.workers
    each = args.cpus_per_worker or min(most_each, 1.0 if gpus else largest_node() - READING_CPUS - DRIVER_CPUS)
    if not max_concurrent or each <= 0 or each > most_each or (gpus and max_concurrent * args.workers > gpus):
        available = f"{cpus:g} CPUs" + (f" and {gpus} GPUs" if gpus else "")
        raise UserError(
            f"no room for {max(max_concurrent, 1)} trials at once of {args.workers} workers and a CPU for reading "
            f"each: the cluster has {available}. Lower --max-concurrent, --workers or --cpus-per-worker."
        )
    threads = 1 if gpus else max(1, int(cpus / oversubscription / (max_concurrent * args.workers)))
    return TrialResources(max_concurrent, each, threads)
