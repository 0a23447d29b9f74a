"""What every training with Ray Train shares: how many workers, and the run itself, which Ray restores by its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from fusion import checkpoint, storage
from fusion.errors import UserError
from workflows.cluster.connect import resources
from workflows.train.elastic import WorkerResources, run_elastic
from workflows.train.failures import FailFastCallback, restore_checkpoint_index, to_user_error, worker_entry

if TYPE_CHECKING:
    from torch import nn

MOST_WORKERS = 8  # without GPUs
PATIENCE = 300.0  # seconds that a lost node is waited for


def batch_norm_workers(batch_size: int, wanted: int = 0) -> int:
    """How many workers train a network with batch norm: `wanted`, or as many as change nothing of its statistics.

    Those are of the whole batch on GPUs (`prepare_model`), but of each worker's share on CPUs, so that one worker with
    all threads is the default there.
    """
    if wanted and batch_size % wanted:
        raise UserError(f"a batch of {batch_size} cannot be shared by {wanted} workers. Change --workers.")
    return wanted or (default_num_workers(batch_size) if resources()[1] else 1)


def prepare_model(network: nn.Module) -> nn.Module:
    """The network for Ray Train; its batch norm is over the batch of all workers where they have GPUs."""
    import ray.train

    if ray.train.get_context().get_world_size() > 1 and ray.train.torch.get_device().type == "cuda":
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return ray.train.torch.prepare_model(network)


def default_num_workers(batch_size: int, most: int | None = None) -> int:
    """The most workers that share a batch evenly: at most `most`, and one per GPU (without GPUs: per CPU, and 8)."""
    cpus, gpus = resources()
    limit = gpus or min(int(cpus), MOST_WORKERS)
    limit = limit if most is None else min(limit, most)
    return max(n for n in range(1, max(limit, 1) + 1) if batch_size % n == 0)


def cpus_per_worker(workers: int) -> float:
    """The CPUs of each worker: one with a GPU, else its share of the cluster, on one node."""
    cpus, gpus = resources()
    return min(1.0, cpus / workers) if gpus else max(0.5, min(cpus / workers, largest_node() - 0.5))


def largest_node() -> float:
    """The CPUs of the node that has most: what one worker can have at most."""
    import ray

    return max((float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1.0)


def steps_per_epoch(rows: int, recipe: Any, workers: int) -> int:
    """Steps of an epoch; every worker gets as many rows."""
    return rows // workers * recipe.crops.per_image // (recipe.batch_size // workers)


def fit(
    out: str,
    loop: Callable[[dict[str, Any]], str | None],
    config: dict[str, Any],
    workers: int,
    cpus: Callable[[int], float],
    *,
    batch: int,
    patience: float = PATIENCE,
    spare: float = 0.0,
    max_failures: int = 3,
    threads: int = 0,
    callbacks: Sequence[Any] = (),
    **data: Any,
):
    """Run `loop` on every worker, with checkpoints in OUT; a run of the same place is restored by Ray itself.

    A worker of n takes `cpus(n)` CPUs, and a GPU where the cluster has some; `spare` CPUs are left to others. When
    nodes are lost, the same is done with fewer workers that share the `batch` evenly (`elastic`), `patience` seconds
    later. A lost worker is replaced `max_failures` times; what no second try mends ends the run (`train_faults`).

    `config` reaches `loop` with "threads" added: those given, or all of the cluster, shared evenly (one with a GPU);
    and with what `elastic.leave` reads, whose answer `loop` returns. `callbacks` are Ray Train's UserCallbacks, `data`
    datasets and dataset_config of the trainer. Returns Ray's result; its `checkpoint` is the last one.
    """

    restore_checkpoint_index(out)
    gpu = bool(resources()[1])
    config = config | {"wanted": workers, "batch": batch}

    def attempt(number: int, share: WorkerResources):
        few = max(1, int(min(resources()[0] / number, largest_node())))
        ready = config | {"threads": threads or (1 if gpu else few), "share": asdict(share)}
        ready |= {"workers": number}
        return _fit(out, loop, ready, number, share, max_failures, callbacks, data)

    return run_elastic(attempt, workers, batch, lambda number: WorkerResources(cpus(number), gpu, spare), patience)


def _fit(out, loop, config, workers, share, max_failures, callbacks, data):
    """One run of Ray Train."""
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    place, inner = storage.resolve(out)
    parent, _, name = inner.rstrip("/").rpartition("/")
    trainer = TorchTrainer(
        worker_entry,
        train_loop_config=config | {"loop": loop},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=share.gpu,
            resources_per_worker={"CPU": share.cpus} | ({"GPU": 1} if share.gpu else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=parent or "/",
            storage_filesystem=place if storage.is_uri(out) else None,
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=0),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[*callbacks, FailFastCallback(out)],
        ),
        **data,
    )
    try:
        return trainer.fit()
    except SystemExit:  # how Ray ends a run that was interrupted
        raise KeyboardInterrupt from None
    except TrainingFailedError as error:
        known = to_user_error(error, out)
        if known is error:
            raise
        raise known from error


def copy_checkpoint(folder: str, out: str) -> None:
    """Copy a checkpoint, without its optimiser, to OUT; state.json, which makes it one, last."""

    for name in checkpoint.ALL_FILES:
        if storage.exists(storage.join(folder, name)):
            storage.write_bytes(storage.join(out, name), storage.read_bytes(storage.join(folder, name)))
