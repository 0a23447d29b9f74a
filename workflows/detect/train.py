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
from detection.faster_rcnn.recipes import DetectorRecipe
from detection.faster_rcnn.train import DetectorEngine, Example, batches
from detection.load import FOLDER, download_weights, find_detector, load_faster_rcnn
from detection.yolo.config import YoloConfig
from detection.yolo.data import LabelledImage, write_dataset
from detection.yolo.train import train as train_yolo
from fusion import checkpoint, storage
from fusion.config import fingerprint, to_dict
from fusion.data.pairs import BadPair, read_pair
from fusion.errors import UserError
from fusion.legacy import upgrade_history
from fusion.training.configs import worker_batch_size
from fusion.training.engine import Engine, Numbers
from workflows.cache import ImageCache
from workflows.cluster.connect import connect
from workflows.console import log_progress
from workflows.detect.labels import TrainingData
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


class Examples:
    """The images of a TrainingData by their indices, with their boxes; those that fit into memory are read once."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data
        self._cache = ImageCache(self.read, lambda example: example.image.nbytes)

    def __getitem__(self, index: int) -> Example:
        return self._cache[index]

    def indices(self, split: str) -> list[int]:
        """Return the indices of the images of a split."""
        return [index for index, image in enumerate(self.data.images) if image.split == split]

    def read(self, index: int) -> Example:
        """Read an image and its boxes. UserError: it cannot be read, or the fused image has another size."""
        chosen = self.data.images[index]
        try:
            pair = read_pair(chosen.ref)
        except BadPair as error:
            raise UserError(f"{chosen.ref.visible}: {error}") from error
        sources = {"visible": pair.visible, "infrared": pair.infrared}
        if chosen.image in sources:
            image = sources[chosen.image]
        else:
            image = read_fused_image(chosen.image, item_of_pair(pair))
        height, width = pair.infrared.shape
        if image.shape[:2] != (height, width):
            raise UserError(f"{chosen.image}: the fused image of {pair.key} has another size than the pair")
        boxes = truth(pair.boxes, pair.classes, self.data.classes, height, width, self.data.class_aliases)
        return Example(chosen.key, image, boxes)


def train(out: str, recipe: Recipe, data: TrainingData, start: str | None, command: list[str], workers: int = 0) -> str:
    """Train a detector, or continue its training; return the folder of the finished detector.

    UserError: `start` is not a detector of these classes, or there are fewer images than a batch has.
    """
    images = sum(image.split == "train" for image in data.images)
    if isinstance(recipe, DetectorRecipe) and images < recipe.batch_size:
        raise UserError(f"{images} images to learn from are less than a batch of {recipe.batch_size}. Lower it.")
    start = start and storage.absolute(start)  # workers may run in another folder
    settings: dict[str, Any] = {
        "recipe": to_dict(recipe) | {"name": name_of(recipe)},
        "classes": list(data.classes),
        "examples": data.fingerprint(),
        "init_checkpoint": start and fingerprint(start),
    }
    claim_output(out, "settings.json", settings, "detector")
    model = storage.join(out, FOLDER)
    if storage.exists(storage.join(out, "run.json")):
        log_progress(f"{out}: the detector is there")
        return model
    if start is not None:
        start = find_detector(start)
        check_start(recipe, start, data.classes)
    connect()
    if isinstance(recipe, YoloConfig):  # one worker, which alone knows its batch
        workers, batch, plan = 1, 1, None
    else:
        batch = recipe.batch_size
        workers = trainer.batch_norm_workers(batch, workers)
        plan = trainer.plan_batch(batch, recipe.optim, workers)
    words = [f"{recipe.epochs} epochs of {images} images", f"{workers} worker{'s' if workers > 1 else ''}"]
    log_progress(f"{name_of(recipe)}: " + ", ".join([*words, str(plan)] if plan else words))
    begin = time.time()
    job = trainer.TrainJob(
        out=out,
        loop=train_loop,
        settings=DetectorSettings(recipe, data, start),
        workers=workers,
        batch_size=batch,
        worker_cpus=trainer.cpus_per_worker,
        callbacks=tuple(logger_callbacks(out, settings, recipe.epochs)),
    )
    saved = trainer.fit(job)
    with saved.as_directory() as folder:
        for path in sorted((Path(folder) / FOLDER).iterdir()):  # state.json, which makes a checkpoint one, comes last
            storage.write_bytes(storage.join(model, path.name), path.read_bytes())
        history = json.loads((Path(folder) / "history.json").read_text())
    about = {"provenance": provenance(command), "settings": settings, "workers": workers, "history": history}
    if plan is not None:
        about["batch"] = to_dict(plan)
    write_json(storage.join(out, "run.json"), about)
    log_progress(f"{name_of(recipe)}: trained {len(history)} epochs in {time.time() - begin:.0f} s")
    return model


def check_start(recipe: Recipe, start: str, classes: Sequence[str]) -> None:
    """Raise UserError where a training cannot start from there: now, and not in every worker.

    YOLO takes a detector of any classes.
    """
    if isinstance(recipe, YoloConfig):
        with tempfile.TemporaryDirectory() as folder:
            download_weights(start, Path(folder))
        return
    known = load_faster_rcnn(start).config.classes
    if tuple(known) != tuple(classes):
        raise UserError(
            f"{start} knows the classes {', '.join(known)}, in this order; here they are {', '.join(classes)}. "
            "Give a detector of the same classes, or --classes."
        )


@dataclass(frozen=True)
class DetectorSettings:
    """What a worker needs. start: a detector to start from."""

    recipe: DetectorRecipe | YoloConfig
    data: TrainingData
    start: str | None = None


def train_loop(settings: DetectorSettings, worker: WorkerConfig) -> str | None:
    """Train a detector in a worker of Ray Train. Returns why it ended early, if it did."""
    examples = Examples(settings.data)
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
    train_indices = examples.indices("train")
    engine = DetectorEngine(
        recipe,  # type: ignore[arg-type]  # `Engine` declares a Recipe, of which a DetectorRecipe has what is read
        len(train_indices) // (worker_batch_size(recipe.batch_size, size) * size),
        ray.train.torch.get_device(),
        rank,
        size,
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
        return batches(train_indices, examples.__getitem__, recipe, epoch, rank, size)

    return run_epochs(engine, history, make_batches, dict, worker, report)


def yolo_loop(recipe: YoloConfig, start: str | None, examples: Examples) -> None:
    """Train a YOLO with Ultralytics, whose epochs are reported to Ray."""
    import ray.train

    history: History = []

    def report(numbers: dict[str, Any]) -> None:
        folder = Path(numbers.pop("checkpoint"))
        numbers = {history_key(key): value for key, value in numbers.items()}
        history.append(numbers)
        (folder / "history.json").write_text(json.dumps(history))
        print(format_epoch(recipe, numbers, numbers["epochs"]), flush=True)
        ray.train.report(numbers, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def labelled_images() -> Iterator[LabelledImage]:
        for index, image in enumerate(examples.data.images):
            yield LabelledImage(image.split, *examples.read(index))

    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        resume = None
        saved = ray.train.get_checkpoint()
        if saved is not None:
            resume = home / "resume"
            saved.to_directory(resume)
            if (resume / FOLDER).exists():  # it was trained to the end, and killed before the result was copied
                return
            history += upgrade_history(json.loads((resume / "history.json").read_text()))
        data = write_dataset(home / "data", labelled_images(), examples.data.classes)
        device = "0" if torch.cuda.is_available() else "cpu"
        config = recipe if start is None else replace(recipe, model=str(download_weights(start, home)))
        trained = train_yolo(data, config, home / "run", device=device, resume_from=resume, on_epoch=report)
        for note in trained.notes:
            print(note, flush=True)
        final = home / "final"
        (final / FOLDER).mkdir(parents=True)
        (final / FOLDER / "yolo.pt").write_bytes(trained.weights.read_bytes())
        (final / "history.json").write_text(json.dumps(history))
        ray.train.report({"epoch": len(history)}, checkpoint=ray.train.Checkpoint.from_directory(final))


def history_key(key: str) -> str:
    """Return the name that a number reported by YOLO has in histories."""
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
