"""What every training with Ray Train shares: how many workers, and the run itself, which Ray restores by its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch

from fusion import checkpoint, storage
from fusion.config import from_dict, to_dict
from fusion.errors import UserError
from fusion.training.configs import OptimConfig, scale_for_batch, worker_batch_size
from workflows.cluster.connect import resources, silence_ray_logs
from workflows.train.elastic import TrainResult, WorkerConfig, WorkerResources, run_elastic
from workflows.train.failures import FailFastCallback, restore_checkpoint_index, to_user_error

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from ray.data import Dataset
    from ray.train import Checkpoint, DataConfig, UserCallback
    from torch import nn

MAX_CPU_WORKERS = 8  # without GPUs
NODE_TIMEOUT = 300.0  # seconds that a lost node is waited for

S = TypeVar("S", bound="DataclassInstance")


class BatchSettings(Protocol):
    """The settings of a recipe that tell how many batches there are."""

    @property
    def batch_size(self) -> int: ...

    @property
    def crops(self) -> Any: ...

    @property
    def repeats(self) -> int: ...


@dataclass(frozen=True)
class TrainJob(Generic[S]):
    """A training for Ray Train: `loop(settings, worker)` on every worker, with checkpoints in `out`.

    out             a folder or URI; a run of the same folder is restored by Ray itself
    loop            a function of an importable module. It returns None when the training is finished, else why the
                    workers should be started again (`elastic.early_stop_reason`)
    settings        a dataclass, for the workers: it goes to them as JSON, with absolute paths, as they run elsewhere
    batch_size      of the recipe; the workers share it, see `fusion.training.configs.worker_batch_size`
    worker_cpus     the CPUs of each of n workers; each has a GPU where the cluster has some
    spare_cpus      CPUs that are left to others
    node_timeout    seconds that a lost node is waited for
    max_failures    how often a lost worker is replaced
    threads         of each worker; 0: all of the cluster, shared evenly (one with a GPU)
    datasets        of Ray Data, by the names that the loop asks for
    """

    out: str
    loop: Callable[[S, WorkerConfig], str | None]
    settings: S
    workers: int
    batch_size: int
    worker_cpus: Callable[[int], float]
    spare_cpus: float = 0.0
    node_timeout: float = NODE_TIMEOUT
    max_failures: int = 3
    threads: int = 0
    callbacks: tuple[UserCallback, ...] = ()
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    dataset_config: DataConfig | None = None


def batch_norm_workers(batch_size: int, wanted: int = 0) -> int:
    """Return how many workers train a network with batch norm: `wanted`, or as many as keep its statistics the same.

    Those are of the whole batch on GPUs (`prepare_model`), but of each worker's share on CPUs, so that one worker with
    all threads is the default there.
    """
    return wanted or (default_num_workers(batch_size) if resources()[1] else 1)


def prepare_model(network: nn.Module) -> nn.Module:
    """Wrap the network for Ray Train; its batch norm is over the batch of all workers where they have GPUs."""
    import ray.train

    if ray.train.get_context().get_world_size() > 1 and ray.train.torch.get_device().type == "cuda":
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return ray.train.torch.prepare_model(network)


def default_num_workers(batch_size: int) -> int:
    """Return one worker per GPU; without GPUs the most that divide the batch, at most one per CPU, and 8."""
    cpus, gpus = resources()
    most = max(min(int(cpus), MAX_CPU_WORKERS), 1)
    return gpus or next(workers for workers in range(most, 0, -1) if batch_size % workers == 0)


def cpus_per_worker(workers: int) -> float:
    """Return the CPUs of each worker: one with a GPU, else its share of the cluster, on one node."""
    cpus, gpus = resources()
    return min(1.0, cpus / workers) if gpus else max(0.5, min(cpus / workers, largest_node() - 0.5))


def largest_node() -> float:
    """Return the CPUs of the node that has most: what one worker can have at most."""
    import ray

    return max((float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1.0)


def steps_per_epoch(rows: int, recipe: BatchSettings, workers: int) -> int:
    """Return the steps of an epoch; every worker gets as many rows."""
    share = worker_batch_size(recipe.batch_size, workers)
    return recipe.repeats * (rows // workers * recipe.crops.per_image // share)


@dataclass(frozen=True)
class BatchPlan:
    """How a recipe's batch is shared: a line of run.json.

    batch_size      of all workers together; `recipe_batch_size` is the recipe's
    learning_rate   the highest one, as scaled for that batch; `recipe_learning_rate` is the recipe's
    """

    workers: int
    batch_size: int
    recipe_batch_size: int
    learning_rate: float
    recipe_learning_rate: float

    def __str__(self) -> str:
        """Return what is printed at the start of a training."""
        each = self.batch_size // self.workers
        text = f"batch {self.batch_size}" + (f" = {self.workers} x {each}" if self.workers > 1 else "")
        if self.batch_size != self.recipe_batch_size:
            text += f" (the recipe's {self.recipe_batch_size} is not shared evenly)"
        text += f", learning rate {self.learning_rate:.4g}"
        if self.learning_rate != self.recipe_learning_rate:
            text += f" (the recipe's {self.recipe_learning_rate:.4g}, scaled)"
        return text


def plan_batch(batch_size: int, optim: OptimConfig, workers: int) -> BatchPlan:
    """Return how so many workers share a recipe's batch, and the learning rate for it."""
    effective = workers * worker_batch_size(batch_size, workers)
    rate = optim.lr * scale_for_batch(optim, batch_size, effective)
    return BatchPlan(workers, effective, batch_size, rate, optim.lr)


def fit(job: TrainJob[S]) -> Checkpoint:
    """Run a training to its end, on fewer workers where nodes are lost; return its last checkpoint.

    Raises UserError for what no second try mends (`failures`).
    """
    restore_checkpoint_index(job.out)
    gpu = bool(resources()[1])

    def attempt(workers: int, worker_resources: WorkerResources) -> TrainResult:
        shared = max(1, int(min(resources()[0] / workers, largest_node())))
        threads = job.threads or (1 if gpu else shared)
        return _fit_once(job, WorkerConfig(workers, job.workers, threads, worker_resources))

    def resources_of(workers: int) -> WorkerResources:
        return WorkerResources(float(job.worker_cpus(workers)), gpu, job.spare_cpus)

    checkpoint: Checkpoint = run_elastic(
        attempt, job.workers, job.batch_size, resources_of, job.node_timeout
    ).checkpoint
    return checkpoint


def _fit_once(job: TrainJob[S], worker: WorkerConfig) -> TrainResult:
    """Run Ray Train once. KeyboardInterrupt: it was interrupted."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    filesystem, path = storage.resolve(job.out)
    parent, _, name = path.rstrip("/").rpartition("/")
    config = {
        "loop": job.loop,
        "settings_class": type(job.settings),
        "settings": to_dict(job.settings),
        "worker": asdict(worker),
    }
    run_config: Any = RunConfig(  # Ray's hints are those of its older version
        name=name,
        storage_path=parent or "/",
        storage_filesystem=filesystem if storage.is_uri(job.out) else None,
        failure_config=FailureConfig(max_failures=job.max_failures, controller_failure_limit=0),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
        logging_config=LoggingConfig(log_level="WARNING"),
        callbacks=[*job.callbacks, FailFastCallback(job.out)],
    )
    trainer = TorchTrainer(
        worker_entry,  # type: ignore[arg-type]  # Ray's hint knows no loop that returns something; it is in the result
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=worker.workers,
            use_gpu=worker.resources.gpu,
            resources_per_worker={"CPU": worker.resources.cpus} | ({"GPU": 1} if worker.resources.gpu else {}),
        ),
        run_config=run_config,
        datasets=dict(job.datasets) or None,
        dataset_config=job.dataset_config,
    )
    try:
        result: Any = trainer.fit()
        return result
    except SystemExit:  # how Ray ends a run that was interrupted
        raise KeyboardInterrupt from None
    except TrainingFailedError as error:
        known = to_user_error(error, job.out)
        if known is error:
            raise
        raise known from error


def worker_entry(config: dict[str, Any]) -> str | None:
    """Run the loop of a `TrainJob` in a worker; Ray prints no traceback of a UserError."""
    silence_ray_logs()
    try:
        worker = from_dict(WorkerConfig, config["worker"], "worker")
        torch.set_num_threads(worker.threads)
        loop: Callable[[Any, WorkerConfig], str | None] = config["loop"]
        return loop(from_dict(config["settings_class"], config["settings"], "settings"), worker)
    except UserError:
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)
        raise


def copy_checkpoint(folder: str, out: str) -> None:
    """Copy a checkpoint, without its optimiser, to `out`; state.json, which makes it a checkpoint, last."""
    for name in checkpoint.ALL_FILES:
        if storage.exists(storage.join(folder, name)):
            storage.write_bytes(storage.join(out, name), storage.read_bytes(storage.join(folder, name)))
