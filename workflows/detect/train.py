"""Training the detectors that score fused images, with Ray Train.

A training is a folder: settings.json claims it, Ray keeps its checkpoints there, `detector/` is what came out (yolo.pt,
or a Faster R-CNN's checkpoint), run.json with the history is written last. The same command goes on where it stopped.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from workflows.cluster.connect import connect, silence_ray_logs
from workflows.console import log_progress
from workflows.detect.options import Recipe, name_of
from workflows.inputs import item_of, read_fused_image
from workflows.outputs import claim_output
from workflows.provenance import provenance
from workflows.train import trainer
from workflows.train.collectives import all_reduce_sum
from workflows.train.elastic import early_stop_reason
from workflows.train.tracking.callbacks import logger_callbacks
from workflows.train.trainer import prepare_model

MEMORY = 2**31  # bytes of decoded images a worker keeps
TICK_SECONDS = 20


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
        image = known[row["image"]] if row["image"] in known else read_fused_image(row["image"], item_of(pair))
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
    config = {"recipe": to_dict(recipe), "yolo": isinstance(recipe, YoloConfig), "task": task, "start": start}
    log_progress(f"{name_of(recipe)}: {recipe.epochs} epochs of {images} images, {workers} workers")
    begin = time.time()
    watching = logger_callbacks(out, settings, recipe.epochs)
    result = trainer.fit(out, loop, config, workers, trainer.cpus_per_worker, batch=batch, callbacks=watching)
    with result.checkpoint.as_directory() as folder:
        found = Path(folder) / FOLDER
        for path in sorted(found.iterdir()):  # state.json, which makes a checkpoint one, comes last
            storage.write_bytes(storage.join(model, path.name), path.read_bytes())
        history = json.loads((Path(folder) / "history.json").read_text())
    about = {"provenance": provenance(command), "settings": settings, "workers": workers, "history": history}
    storage.write_text(storage.join(out, "run.json"), json.dumps(about, indent=1) + "\n")
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


def loop(config: dict[str, Any]) -> str | None:
    """A worker of Ray Train. Returns why it ended early, if it did."""

    silence_ray_logs()
    torch.set_num_threads(config["threads"])
    examples = Examples(config["task"]["rows"], config["task"]["classes"], config["task"]["same"])
    return (yolo_loop if config["yolo"] else faster_rcnn_loop)(config, examples)


def faster_rcnn_loop(config: dict[str, Any], examples: Examples) -> str | None:
    import ray.train

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    recipe = from_dict(DetectorRecipe, config["recipe"], "recipe")
    train = [place for place, row in enumerate(examples.rows) if row["split"] == "train"]
    engine = DetectorEngine(
        recipe,
        len(train) // recipe.batch_size,
        ray.train.torch.get_device(),
        rank,
        wrap=prepare_model,
        reduce=all_reduce_sum(size),
    )
    history: list[dict] = []
    saved = ray.train.get_checkpoint()
    if saved is not None:
        with saved.as_directory() as folder:
            engine.resume(Path(folder) / FOLDER)
            history = json.loads((Path(folder) / "history.json").read_text())
    elif config["start"] is not None:
        engine.start_from(checkpoint.fetch(config["start"]))
    if rank == 0:
        for note in engine.notes if config["start"] is None else ():
            print(note, flush=True)
    while engine.epoch < recipe.epochs:
        tick = ticker(recipe, engine.epoch, engine.batches_per_epoch) if rank == 0 else None
        begin = time.perf_counter()
        made = batches(train, examples, recipe, engine.epoch, rank, size)
        numbers = {f"train/{name}": value for name, value in engine.train_epoch(made, tick).items()}
        numbers |= {"epoch": engine.epoch, "seconds": time.perf_counter() - begin}
        history.append(numbers)
        with tempfile.TemporaryDirectory() as folder:
            kept = None
            if rank == 0:
                engine.save(Path(folder) / FOLDER, {})
                (Path(folder) / "history.json").write_text(json.dumps(history))
                kept = ray.train.Checkpoint.from_directory(folder)
                tell(recipe, numbers, recipe.epochs)
            ray.train.report(numbers, checkpoint=kept)
        if engine.epoch < recipe.epochs and (why := early_stop_reason(config)):
            return why
    return None


def yolo_loop(config: dict[str, Any], examples: Examples) -> None:
    import ray.train

    recipe = begun = from_dict(YoloConfig, config["recipe"], "recipe")
    history: list[dict] = []

    def report(numbers: dict) -> None:
        folder = Path(numbers.pop("checkpoint"))
        numbers = {named(key): value for key, value in numbers.items()}
        history.append(numbers)
        (folder / "history.json").write_text(json.dumps(history))
        tell(recipe, numbers, numbers["epochs"])
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
            history += json.loads((resume / "history.json").read_text())
        data = write_dataset(home / "data", rows(), examples.classes)
        device = "0" if torch.cuda.is_available() else "cpu"
        if config["start"] is not None:
            begun = replace(recipe, model=str(download_weights(config["start"], home)))
        done = train_yolo(data, begun, home / "run", device=device, resume_from=resume, on_epoch=report)
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


def ticker(recipe: Recipe, epoch: int, steps: int):
    last = time.perf_counter()

    def tick(step: int, latest: dict) -> None:
        nonlocal last
        if time.perf_counter() - last > TICK_SECONDS:
            last = time.perf_counter()
            loss = latest["loss"].item()
            print(
                f"{name_of(recipe)}  epoch {epoch + 1}/{recipe.epochs}  step {step}/{steps}  loss {loss:.3f}",
                flush=True,
            )

    return tick


def tell(recipe: Recipe, numbers: dict, epochs: int) -> None:
    shown = "  ".join(
        f"{name} {numbers[name]:.4f}"
        for name in ("train/loss", "train/box_loss", "train/cls_loss", "val/map50", "val/map50_95")
        if name in numbers
    )
    print(
        f"{name_of(recipe)}  epoch {numbers['epoch']}/{epochs} done in {numbers['seconds']:.0f} s  {shown}", flush=True
    )
