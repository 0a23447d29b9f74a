"""One worker of `duskfuse train`: its data, its engine, its validation. `workflows.train.epochs` runs the epochs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detection.moefusion.joint import JointEngine
from detection.moefusion.recipes import JointRecipe
from fusion import checkpoint
from fusion.data.corpus import Manifest, Sample, from_row, open_corpus, read_shard
from fusion.training.configs import worker_batch_size
from fusion.training.crops import training_batches, validation_batches
from fusion.training.engine import Engine, Numbers
from fusion.training.losses import Terms
from fusion.training.recipes import Recipe
from workflows.train.collectives import all_reduce_sum
from workflows.train.detection_metric import DetectionMetric
from workflows.train.elastic import WorkerConfig, check_cpus_left
from workflows.train.epochs import EpochReport, resume, run_epochs
from workflows.train.trainer import prepare_model, steps_per_epoch

if TYPE_CHECKING:
    from ray.data import DataIterator

NOT_LOSSES = ("images", "steps", "data_time_s", "step_time_s")  # numbers of an epoch


@dataclass(frozen=True)
class TrainSettings:
    """What a worker of `duskfuse train` needs. `rows`: of the train split; `start`: the stage-1 run to start from."""

    recipe: Recipe | JointRecipe
    corpus: str
    rows: int
    start: str | None = None
    detector: str | None = None
    verbose: bool = True


def train_loop(settings: TrainSettings, worker: WorkerConfig) -> str | None:
    """Train from where the last checkpoint stopped. Returns why it ended before the last epoch, if it did."""
    import ray.train

    if reason := check_cpus_left(worker):
        return reason
    if not settings.verbose:
        sys.stdout = open(os.devnull, "w")  # of this worker's own process
    recipe = settings.recipe
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    engine = (JointEngine if isinstance(recipe, JointRecipe) else Engine)(
        recipe,
        steps_per_epoch(settings.rows, recipe, size),
        ray.train.torch.get_device(),
        rank,
        size,
        wrap=prepare_model,
        reduce=all_reduce_sum(size),
    )
    report = EpochReport(lambda numbers: format_epoch(recipe, numbers), format_losses)

    def start() -> None:
        if settings.start is not None:
            engine.start_from(checkpoint.fetch(settings.start))

    if rank == 0:
        for note in engine.notes:
            print(note, flush=True)
    history = resume(engine, report, start)
    if rank == 0 and history:
        print(f"resumed after epoch {engine.epoch}", flush=True)

    samples = list(validation_samples(open_corpus(settings.corpus), recipe.validation.rows, rank, size))
    held_out = list(validation_batches(samples, engine.stage, recipe.validation.size, recipe.crops.box_attention))
    detected = None if settings.detector is None else DetectionMetric(settings.detector, samples, engine, size)
    del samples
    shard = ray.train.get_dataset_shard("train")

    def make_batches(epoch: int) -> Iterable[Any]:
        share = worker_batch_size(recipe.batch_size, size)
        for number in range(epoch * recipe.repeats, (epoch + 1) * recipe.repeats):
            yield from training_batches(rows_of(shard), engine.stage, recipe.crops, share, recipe.seed, number)

    def validate() -> Numbers:
        return engine.validate(held_out) | (detected() if detected is not None else {})

    return run_epochs(engine, history, make_batches, validate, worker, report)


def rows_of(shard: DataIterator) -> Iterator[Sample]:
    """Read samples out of Ray Data, a few rows at a time."""
    batches: Iterable[Any] = shard.iter_batches(batch_size=4, batch_format="pyarrow", prefetch_batches=2)
    for batch in batches:
        for row in batch.to_pylist():
            yield from_row(row)


def validation_samples(manifest: Manifest, rows: int, rank: int, size: int) -> Iterator[Sample]:
    """Read this worker's part of `rows` rows of the val split, evenly chosen; each shard is opened once."""
    total = manifest.rows("val")
    chosen = sorted({i * total // rows for i in range(min(rows, total))})[rank::size] if total else []
    first = 0
    for shard in manifest.shards("val"):
        inside = [i - first for i in chosen if first <= i < first + shard.rows]
        first += shard.rows
        if inside:
            rows_inside: Any = read_shard(manifest.path(shard)).take(inside)
            yield from (from_row(row) for row in rows_inside.to_pylist())


def format_losses(latest: Terms) -> str:
    """Return the loss terms of a step in one line."""
    return "  ".join(f"{name} {value.item():.4f}" for name, value in latest.items())


def format_epoch(recipe: Recipe, numbers: Numbers) -> str:
    """Return the line of an epoch: losses, validation, speed of all workers, share of time spent waiting for data."""
    losses, validation = (
        {name.partition("/")[2]: f"{value:.4g}" for name, value in numbers.items() if name.startswith(f"{split}/")}
        for split in ("train", "val")
    )
    terms = ", ".join(f"{name} {value}" for name, value in losses.items() if name not in ("loss", *NOT_LOSSES))
    parts = [f"{recipe.name}  epoch {numbers['epoch']}/{recipe.epochs} done in {numbers['seconds']:.0f} s"]
    parts += [f"loss {losses['loss']}" + (f" ({terms})" if terms else "")]
    parts += ["val " + ", ".join(f"{name} {value}" for name, value in validation.items())] if validation else []
    parts += [f"{numbers['images_per_second']:.1f} images/s", f"data wait {numbers['data_time_fraction']:.0%}"]
    return "  ".join(parts)
