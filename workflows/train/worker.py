"""One worker of `duskfuse train`: its epochs, its data, what it reports. `fusion.engine` does the learning."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from detection.moefusion.joint import JointEngine
from detection.moefusion.recipes import JointRecipe
from fusion import checkpoint
from fusion.data.corpus import from_row, open_corpus, read_shard
from fusion.legacy import upgrade_history
from fusion.training.crops import training_batches, validation_batches
from fusion.training.engine import Engine
from fusion.training.recipes import Recipe
from workflows.cluster.connect import silence_ray_logs
from workflows.train.collectives import all_reduce_sum
from workflows.train.detection_metric import Detected
from workflows.train.elastic import check_cpus_left, early_stop_reason
from workflows.train.recipes import read_recipe
from workflows.train.trainer import prepare_model, steps_per_epoch

TICK_SECONDS = 10
UNSHOWN = ("images", "steps", "data_time_s", "step_time_s")  # numbers of an epoch that are no losses


def train_loop(config: dict[str, Any]) -> str | None:
    """One worker: epochs from where the last checkpoint stopped, each ending in a report to Ray.

    Returns why it ended before the last one, if it did.
    """
    import ray.train

    silence_ray_logs()  # the lines below say the same, shorter
    if why := check_cpus_left(config):
        return why
    torch.set_num_threads(config["threads"])
    if config["quiet"]:
        sys.stdout = open(os.devnull, "w")  # of this worker's own process
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    recipe = read_recipe(config["recipe"])
    device = ray.train.torch.get_device()
    batches_an_epoch = steps_per_epoch(config["rows"], recipe, size)
    engine_of = JointEngine if isinstance(recipe, JointRecipe) else Engine
    engine = engine_of(recipe, batches_an_epoch, device, rank, wrap=prepare_model, reduce=all_reduce_sum(size))
    if rank == 0:
        for note in engine.notes:
            print(note, flush=True)
    history: list[dict[str, float]] = []
    saved = ray.train.get_checkpoint()
    if saved is not None:
        with saved.as_directory() as folder:
            engine.resume(Path(folder))
            history = upgrade_history(checkpoint.read_state(Path(folder))["history"])
        if rank == 0:
            print(f"resumed after epoch {engine.epoch}", flush=True)
    elif config["start"] is not None:
        engine.start_from(checkpoint.fetch(config["start"]))

    samples = list(validation_samples(open_corpus(config["corpus"]), recipe.validation.rows, rank, size))
    held_out = list(validation_batches(samples, engine.stage, recipe.validation.size))
    detected = None if config["detector"] is None else Detected(config["detector"], samples, engine, size)
    del samples
    shard = ray.train.get_dataset_shard("train")
    while engine.epoch < recipe.epochs:
        epoch = engine.epoch
        begin = time.perf_counter()
        batches = training_batches(
            rows_of(shard), engine.stage, recipe.crops, recipe.batch_size // size, recipe.seed, epoch
        )
        tick = progress(recipe, epoch, batches_an_epoch) if rank == 0 else None
        numbers = {f"train/{k}": v for k, v in engine.train_epoch(batches, tick).items()}
        if rank == 0 and (missing := batches_an_epoch * size - numbers["train/steps"]) > 0:
            print(f"{recipe.name}  epoch {epoch + 1}: {missing:.0f} steps less than there are rows for", flush=True)
        numbers |= {f"val/{name}": value for name, value in engine.validate(held_out).items()}
        if detected is not None:
            numbers |= {f"val/{name}": value for name, value in detected().items()}
        end_epoch(engine, numbers, begin, history, rank)
        if engine.epoch < recipe.epochs and (why := early_stop_reason(config)):
            return why
    return None


def end_epoch(engine, numbers: dict[str, float], begin: float, history: list[dict[str, float]], rank: int) -> None:
    """Complete the numbers of an epoch that began at `begin`, add them to the history, and report to Ray.

    The first worker saves a checkpoint and prints the line of the epoch.
    """
    import ray.train

    size = ray.train.get_context().get_world_size()
    numbers |= {"epoch": engine.epoch, "seconds": time.perf_counter() - begin, "workers": size}
    spent = max(numbers["train/data_time_s"] + numbers["train/step_time_s"], 1e-9)  # by all workers together
    numbers["data_time_fraction"] = numbers["train/data_time_s"] / spent
    numbers["images_per_second"] = numbers["train/images"] * size / spent
    history.append(numbers)
    with tempfile.TemporaryDirectory() as folder:
        kept = None
        if rank == 0:
            engine.save(Path(folder), {"history": history})
            kept = ray.train.Checkpoint.from_directory(folder)
            print(line(engine.recipe, numbers), flush=True)
        ray.train.report(numbers, checkpoint=kept)


def rows_of(shard) -> Iterator:
    """Samples out of Ray Data, a few rows at a time."""

    for batch in shard.iter_batches(batch_size=4, batch_format="pyarrow", prefetch_batches=2):
        for row in batch.to_pylist():
            yield from_row(row)


def validation_samples(manifest, rows: int, rank: int, size: int) -> Iterator:
    """This worker's part of `rows` rows of the val split, evenly chosen; each shard is opened once."""

    total = manifest.rows("val")
    chosen = sorted({i * total // rows for i in range(min(rows, total))})[rank::size] if total else []
    first = 0
    for shard in manifest.shards("val"):
        inside = [i - first for i in chosen if first <= i < first + shard.rows]
        first += shard.rows
        if inside:
            yield from (from_row(row) for row in read_shard(manifest.path(shard)).take(inside).to_pylist())


def progress(recipe: Recipe, epoch: int, steps: int):
    """Prints a line every few seconds."""
    last = time.perf_counter()

    def tick(step: int, latest: dict) -> None:
        nonlocal last
        if time.perf_counter() - last > TICK_SECONDS:
            last = time.perf_counter()
            shown = "  ".join(f"{name} {value.item():.4f}" for name, value in latest.items())
            print(f"{recipe.name}  epoch {epoch + 1}/{recipe.epochs}  step {step}/{steps}  {shown}", flush=True)

    return tick


def line(recipe: Recipe, numbers: dict[str, float]) -> str:
    """One line per epoch: losses, validation, speed of all workers, share of the time spent waiting for data."""
    losses, validation = (
        {name.partition("/")[2]: f"{value:.4g}" for name, value in numbers.items() if name.startswith(f"{split}/")}
        for split in ("train", "val")
    )
    terms = ", ".join(f"{name} {value}" for name, value in losses.items() if name not in ("loss", *UNSHOWN))
    shown = [f"{recipe.name}  epoch {numbers['epoch']}/{recipe.epochs} done in {numbers['seconds']:.0f} s"]
    shown += [f"loss {losses['loss']}" + (f" ({terms})" if terms else "")]
    shown += ["val " + ", ".join(f"{name} {value}" for name, value in validation.items())] if validation else []
    shown += [f"{numbers['images_per_second']:.1f} images/s", f"data wait {numbers['data_time_fraction']:.0%}"]
    return "  ".join(shown)
