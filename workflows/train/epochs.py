"""The epochs of one training worker: resume, train, validate, report to Ray, stop early. All trainings share them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fusion import checkpoint
from fusion.legacy import upgrade_history
from fusion.training.engine import Engine, Numbers
from fusion.training.losses import Terms
from workflows.train.elastic import WorkerConfig, early_stop_reason

History = list[Numbers]  # the numbers of each finished epoch


class CheckpointFormat(Protocol):
    """How a training lays out the folder of a checkpoint: the state of the engine, and the history."""

    def save(self, folder: Path, engine: Engine, history: History) -> None:
        """Write both into the folder."""

    def load(self, folder: Path, engine: Engine) -> History:
        """Restore the engine and return the history."""


class EngineCheckpoint:
    """A checkpoint of `fusion.checkpoint`, with the history in its state.json."""

    def save(self, folder: Path, engine: Engine, history: History) -> None:
        """Write the engine's checkpoint."""
        engine.save(folder, {"history": history})

    def load(self, folder: Path, engine: Engine) -> History:
        """Restore the engine and return the history."""
        engine.resume(folder)
        return upgrade_history(checkpoint.read_state(folder)["history"])


@dataclass(frozen=True)
class EpochReport:
    """What the first worker prints and saves. `step_line` is printed every `step_seconds`, None: never.

    `speed`: the numbers of an epoch tell the workers, the images per second and the share of time spent waiting for
    data. The steps then are checked against those that the rows are enough for.
    """

    epoch_line: Callable[[Numbers], str]
    step_line: Callable[[Terms], str] | None = None
    step_seconds: float = 10.0
    speed: bool = True
    checkpoints: CheckpointFormat = field(default_factory=EngineCheckpoint)


def resume(engine: Engine, report: EpochReport, start: Callable[[], None] | None = None) -> History:
    """Restore the last checkpoint of this run and return its history; without one call `start` and return []."""
    import ray.train

    saved = ray.train.get_checkpoint()
    if saved is not None:
        with saved.as_directory() as folder:
            return report.checkpoints.load(Path(folder), engine)
    if start is not None:
        start()
    return []


def run_epochs(
    engine: Engine,
    history: History,
    make_batches: Callable[[int], Iterable[Any]],
    validate: Callable[[], Numbers],
    worker: WorkerConfig,
    report: EpochReport,
) -> str | None:
    """Train until the recipe's last epoch, each epoch ending in a report to Ray with a checkpoint.

    `make_batches(epoch)` gives this worker's batches; `validate()` the numbers of validation, {} for none. Returns why
    the workers ended before the last epoch (`elastic.early_stop_reason`); None: the training is finished.
    """
    import ray.train

    context = ray.train.get_context()
    is_first, size = context.get_world_rank() == 0, context.get_world_size()
    while engine.epoch < engine.recipe.epochs:
        epoch, begin = engine.epoch, time.perf_counter()
        on_step = _progress(engine, report) if is_first and report.step_line is not None else None
        numbers = {f"train/{name}": value for name, value in engine.train_epoch(make_batches(epoch), on_step).items()}
        if is_first and report.speed and (missing := engine.batches_per_epoch * size - numbers["train/steps"]) > 0:
            print(
                f"{engine.recipe.name}  epoch {epoch + 1}: {missing:.0f} steps less than there are rows for", flush=True
            )
        numbers |= {f"val/{name}": value for name, value in validate().items()}
        numbers |= {"epoch": engine.epoch, "seconds": time.perf_counter() - begin}
        numbers["batch_size"] = engine.effective_batch_size
        history.append(numbers | _speed(numbers, size) if report.speed else numbers)
        _report_to_ray(engine, history, report, is_first)
        if engine.epoch < engine.recipe.epochs and (reason := early_stop_reason(worker)):
            return reason
    return None


def _speed(numbers: Numbers, size: int) -> Numbers:
    """Return the number of workers, the share of time spent waiting for data, and images per second of all workers."""
    spent = max(numbers["train/data_time_s"] + numbers["train/step_time_s"], 1e-9)  # by all workers together
    return {
        "workers": size,
        "data_time_fraction": numbers["train/data_time_s"] / spent,
        "images_per_second": numbers["train/images"] * size / spent,
    }


def _report_to_ray(engine: Engine, history: History, report: EpochReport, is_first: bool) -> None:
    """Report the last epoch; the first worker saves a checkpoint and prints the line of the epoch."""
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        saved = None
        if is_first:
            report.checkpoints.save(Path(folder), engine, history)
            saved = ray.train.Checkpoint.from_directory(folder)
            print(report.epoch_line(history[-1]), flush=True)
        ray.train.report(history[-1], checkpoint=saved)


def _progress(engine: Engine, report: EpochReport) -> Callable[[int, Terms], None]:
    """Return a function that prints the latest losses every few seconds of this epoch."""
    last, recipe, epoch = time.perf_counter(), engine.recipe, engine.epoch

    def on_step(step: int, latest: Terms) -> None:
        nonlocal last
        if report.step_line is not None and time.perf_counter() - last > report.step_seconds:
            last = time.perf_counter()
            shown = report.step_line(latest)
            print(
                f"{recipe.name}  epoch {epoch + 1}/{recipe.epochs}  step {step}/{engine.batches_per_epoch}  {shown}",
                flush=True,
            )

    return on_step
