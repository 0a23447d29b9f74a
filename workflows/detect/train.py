"""Training the detectors that score fused images, with Ray Train.

A training is a folder: settings.json claims it, Ray keeps its checkpoints there, `detector/` is what came out (yolo.pt,
or a Faster R-CNN's checkpoint), run.json with the history is written last. The same command goes on where it stopped.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detection.boxes import truth
from detection.faster_rcnn.model import DETECTORS
from detection.faster_rcnn.recipes import DetectorRecipe
from detection.faster_rcnn.train import DetectorEngine, batches
from detection.load import FOLDER, download_weights, find_detector
from detection.yolo.config import YoloConfig
from detection.yolo.data import write_dataset
from detection.yolo.train import train as train_yolo
from fusion import checkpoint, storage
from fusion.config import fingerprint, from_dict, to_dict
from fusion.data.finding import PairRef
from fusion.data.pairs import BadPair, read_pair
from fusion.errors import UserError
from fusion.legacy import upgrade_history
from fusion.training.engine import Engine, Numbers
from workflows.cluster.connect import connect
from workflows.console import log_progress
from workflows.detect.options import Recipe, name_of
from workflows.inputs import item_of_pair, read_fused_image
from workflows.outputs import claim_output, write_json
from workflows.provenance import provenance
from workflows.train import trainer
from workflows.train.collectives import all_reduce_sum
from workflows.train.elastic import WorkerConfig
from workflows.train.epochs import EpochReport, History, resume, run_epochs
from workflows.train.tracking.callbacks import logger_callbacks
from workflows.train.trainer import prepare_model

MEMORY = 2**31  # bytes of decoded images a worker keeps


class Examples:
    """Labelled images by place in a list; each is read once and kept while there is room.

    A row says which pair, which split, and which of its images: "visible", "infrared", or a folder of fused ones.
    """

    def __init__(self, rows: Sequence[dict], classes: Sequence[str], same: dict[str, str]) -> None:
        self.rows, self.classes, self.same = rows, classes, same
        self.kept: dict[int, Any] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, place: int):
        if place not in self.kept:
            example = self.read(self.rows[place])
            if self.bytes + example[1].nbytes > MEMORY:
                return example
            self.kept[place] = example
            self.bytes += example[1].nbytes
        return self.kept[place]

    def read(self, row: dict):

        try:
            pair = read_pair(from_dict(PairRef, row["ref"]))
        except BadPair as error:
            raise UserError(f"{row['ref']['visible']}: {error}") from error
        known = {"visible": pair.visible, "infrared": pair.infrared}
        image = known[row["image"]] if row["image"] in known else read_fused_image(row["image"], item_of_pair(pair))
        height, width = pair.infrared.shape
        if image.shape[:2] != (height, width):
            raise UserError(f"{row['image']}: the fused image of {pair.key} has another size than the pair")
        return row["key"], image, truth(pair.boxes, pair.classes, self.classes, height, width, self.same)


def train(out: str, recipe: Recipe, task: dict, start: str | None, command: list[str], workers: int = 0) -> str:
    """Train, or go on; returns where the finished detector is. `task`: rows of `Examples`, their classes, `same`.

    UserError: `start` is no detector of these classes, or there are fewer images than a batch has.
    """

    images = sum(row["split"] == "train" for row in task["rows"])
    if isinstance(recipe, DetectorRecipe) and images < recipe.batch_size:
        raise UserError(f"{images} images to learn from are less than a batch of {recipe.batch_size}. Lower it.")
    start = start and storage.absolute(start)  # workers may run in another folder
    settings = {"recipe": to_dict(recipe) | {"name": name_of(recipe)}, "classes": list(task["classes"])}
    settings |= {"examples": fingerprint(task), "init_checkpoint": start and fingerprint(start)}
    claim_output(out, "settings.json", settings, "detector")
    model = storage.join(out, FOLDER)
    if storage.exists(storage.join(out, "run.json")):
        log_progress(f"{out}: the detector is there")
        return model
    if start is not None:
        start = find_detector(start)
        check_start(recipe, start, task["classes"])
    connect()
    batch = 1 if isinstance(recipe, YoloConfig) else recipe.batch_size  # YOLO's is not shared
    workers = trainer.batch_norm_workers(batch, 0 if isinstance(recipe, YoloConfig) else workers)
    log_progress(f"{name_of(recipe)}: {recipe.epochs} epochs of {images} images, {workers} workers")
    begin = time.time()
    job = trainer.TrainJob(
        out=out,
        loop=train_loop,
        settings=DetectorSettings(recipe, tuple(task["rows"]), tuple(task["classes"]), task["same"], start),
        workers=workers,
        batch_size=batch,
        worker_cpus=trainer.cpus_per_worker,
        callbacks=tuple(logger_callbacks(out, settings, recipe.epochs)),
    )
    saved = trainer.fit(job)
    with saved.as_directory() as folder:
        found = Path(folder) / FOLDER
        for path in sorted(found.iterdir()):  # state.json, which makes a checkpoint one, comes last
            storage.write_bytes(storage.join(model, path.name), path.read_bytes())
        history = json.loads((Path(folder) / "history.json").read_text())
    about = {"provenance": provenance(command), "settings": settings, "workers": workers, "history": history}
    write_json(storage.join(out, "run.json"), about)
    log_progress(f"{name_of(recipe)}: trained {len(history)} epochs in {time.time() - begin:.0f} s")
    return model


def check_start(recipe: Recipe, start: str, classes: Sequence[str]) -> None:
    """UserError where a training cannot start from there: by now, and not in every worker. YOLO takes any classes."""

    if isinstance(recipe, YoloConfig):
        with tempfile.TemporaryDirectory() as folder:
            download_weights(start, Path(folder))
        return
    known = checkpoint.load(checkpoint.fetch(start), models=DETECTORS).model.config.classes
    if tuple(known) != tuple(classes):
        raise UserError(
            f"{start} knows the classes {', '.join(known)}, in this order; here they are {', '.join(classes)}. "
            "Give a detector of the same classes, or --classes."
        )


@dataclass(frozen=True)
class DetectorSettings:
    """What a worker needs: rows of `Examples`, their classes and other names of these, a detector to start from."""

    recipe: DetectorRecipe | YoloConfig
    rows: tuple[dict[str, Any], ...]
    classes: tuple[str, ...]
    same: dict[str, str]
    start: str | None = None


def train_loop(settings: DetectorSettings, worker: WorkerConfig) -> str | None:
    """Train a detector in a worker of Ray Train. Returns why it ended early, if it did."""
    examples = Examples(settings.rows, settings.classes, settings.same)
    if isinstance(settings.recipe, YoloConfig):
        yolo_loop(settings.recipe, settings.start, examples)
        return None
    return faster_rcnn_loop(settings.recipe, settings.start, examples, worker)


class DetectorCheckpoint:
    """The detector in its own folder, so that it can be taken away alone, and the history beside it."""

    def save(self, folder: Path, engine: Engine, history: History) -> None:
        """Write both into the folder."""
        engine.save(folder / FOLDER, {})
        (folder / "history.json").write_text(json.dumps(history))

    def load(self, folder: Path, engine: Engine) -> History:
        """Restore the engine and return the history."""
        engine.resume(folder / FOLDER)
        return upgrade_history(json.loads((folder / "history.json").read_text()))


def faster_rcnn_loop(recipe: DetectorRecipe, start: str | None, examples: Examples, worker: WorkerConfig) -> str | None:
    """Train a Faster R-CNN. Returns why it ended early, if it did."""
    import ray.train

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    train_places = [place for place, row in enumerate(examples.rows) if row["split"] == "train"]
    engine = DetectorEngine(
        recipe,
        len(train_places) // recipe.batch_size,
        ray.train.torch.get_device(),
        rank,
        wrap=prepare_model,
        reduce=all_reduce_sum(size),
    )
    report = EpochReport(
        epoch_line=lambda numbers: format_epoch(recipe, numbers, recipe.epochs),
        step_line=lambda latest: f"loss {latest['loss'].item():.3f}",
        step_seconds=20,
        speed=False,
        checkpoints=DetectorCheckpoint(),
    )

    def start_from() -> None:
        if start is not None:
            engine.start_from(checkpoint.fetch(start))

    history = resume(engine, report, start_from)
    if rank == 0 and start is None:
        for note in engine.notes:
            print(note, flush=True)

    def make_batches(epoch: int) -> Iterable[Any]:
        return batches(train_places, examples, recipe, epoch, rank, size)

    return run_epochs(engine, history, make_batches, dict, worker, report)


def yolo_loop(recipe: YoloConfig, start: str | None, examples: Examples) -> None:
    """Train a YOLO with Ultralytics, whose epochs are reported to Ray."""
    import ray.train

    history: History = []

    def report(numbers: dict[str, Any]) -> None:
        folder = Path(numbers.pop("checkpoint"))
        numbers = {named(key): value for key, value in numbers.items()}
        history.append(numbers)
        (folder / "history.json").write_text(json.dumps(history))
        print(format_epoch(recipe, numbers, numbers["epochs"]), flush=True)
        ray.train.report(numbers, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def rows() -> Iterator:
        for row in examples.rows:
            key, image, truth = examples.read(row)
            yield row["split"], key, image, truth

    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        resume = None
        saved = ray.train.get_checkpoint()
        if saved is not None:
            resume = home / "resume"
            saved.to_directory(resume)
            if (resume / FOLDER).exists():  # it was trained to the end, and killed before the result was taken away
                return
            history += upgrade_history(json.loads((resume / "history.json").read_text()))
        data = write_dataset(home / "data", rows(), examples.classes)
        device = "0" if torch.cuda.is_available() else "cpu"
        if start is not None:
            recipe_from_start = replace(recipe, model=str(download_weights(start, home)))
        else:
            recipe_from_start = recipe
        done = train_yolo(data, recipe_from_start, home / "run", device=device, resume_from=resume, on_epoch=report)
        for note in done.notes:
            print(note, flush=True)
        final = home / "final"
        (final / FOLDER).mkdir(parents=True)
        (final / FOLDER / "yolo.pt").write_bytes(done.weights.read_bytes())
        (final / "history.json").write_text(json.dumps(history))
        ray.train.report({"epoch": len(history)}, checkpoint=ray.train.Checkpoint.from_directory(final))


def named(key: str) -> str:
    """What YOLO reports, by the names that curves have."""
    if key in ("epoch", "epochs", "seconds", "lr"):
        return key
    validation = key.startswith("val_") or key in ("precision", "recall", "map50", "map50_95")
    return f"val/{key.removeprefix('val_')}" if validation else f"train/{key}"


def format_epoch(recipe: Recipe, numbers: Numbers, epochs: int) -> str:
    """Return the line of an epoch: its losses and mean average precision."""
    shown = "  ".join(
        f"{name} {numbers[name]:.4f}"
        for name in ("train/loss", "train/box_loss", "train/cls_loss", "val/map50", "val/map50_95")
        if name in numbers
    )
    return f"{name_of(recipe)}  epoch {numbers['epoch']}/{epochs} done in {numbers['seconds']:.0f} s  {shown}"
