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

from detection.training import DetectorRecipe
from detection.yolo import YoloConfig
from fusion.errors import UserError
from workflows.cluster import connect, quiet, resources, say

MEMORY = 2**31  # bytes of decoded images a worker keeps
MODEL = "detector"
TICK_SECONDS = 20
Recipe = DetectorRecipe | YoloConfig


class Examples:
    """Labelled images by place in a list; pairs are read once and kept while they fit in memory.

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
        from detection.boxes import truth
        from fusion.config import from_dict
        from fusion.pairs import BadPair, PairRef, read_pair
        from workflows.score import read_fused
        from workflows.sources import item_of

        try:
            pair = read_pair(from_dict(PairRef, row["ref"]))
        except BadPair as error:
            raise UserError(f"{row['ref']['visible']}: {error}") from error
        known = {"visible": pair.visible, "infrared": pair.infrared}
        image = known[row["image"]] if row["image"] in known else read_fused(row["image"], item_of(pair))
        height, width = pair.infrared.shape
        if image.shape[:2] != (height, width):
            raise UserError(f"{row['image']}: the fused image of {pair.key} has another size than the pair")
        return row["key"], image, truth(pair.boxes, pair.classes, self.classes, height, width, self.same)


def train(out: str, recipe: Recipe, task: dict, start: str | None, command: list[str]) -> str:
    """Train, or go on; returns where the finished detector is. `task`: rows of `Examples`, their classes, `same`."""
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from fusion import storage
    from fusion.config import fingerprint, to_dict
    from workflows.folders import claim
    from workflows.stamps import stamp

    settings = {"recipe": to_dict(recipe) | {"name": name_of(recipe)}, "classes": list(task["classes"])}
    settings |= {"examples": fingerprint(task), "from": start and fingerprint(start)}
    claim(out, "settings.json", settings, "detector")
    model = storage.join(out, MODEL)
    if storage.exists(storage.join(out, "run.json")):
        say(f"{out}: the detector is there")
        return model
    connect()
    workers, each, use_gpu = plan(recipe)
    config = {"recipe": to_dict(recipe), "yolo": isinstance(recipe, YoloConfig), "task": task, "start": start}
    config["threads"] = 1 if use_gpu else max(1, int(resources()[0] / workers))
    place, inner = storage.resolve(out)
    parent, _, name = inner.rstrip("/").rpartition("/")
    images = sum(row["split"] == "train" for row in task["rows"])
    say(f"{name}: {name_of(recipe)}, {recipe.epochs} epochs of {images} images, {workers} workers")
    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": each} | ({"GPU": 1} if use_gpu else {})
        ),
        run_config=RunConfig(
            name=name,
            storage_path=parent or "/",
            storage_filesystem=place if storage.is_uri(out) else None,
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    begin = time.time()
    try:
        result = trainer.fit()
    except SystemExit:  # how Ray ends a run that was interrupted
        raise KeyboardInterrupt from None
    with result.checkpoint.as_directory() as folder:
        found = Path(folder) / MODEL
        for path in sorted(found.iterdir()):
            storage.write_bytes(storage.join(model, path.name), path.read_bytes())
        history = json.loads((Path(folder) / "history.json").read_text())
    about = {"stamp": stamp(command), "settings": settings, "workers": workers, "history": history}
    storage.write_text(storage.join(out, "run.json"), json.dumps(about, indent=1) + "\n")
    say(f"{name}: trained {len(history)} epochs in {time.time() - begin:.0f} s")
    return model


def name_of(recipe: Recipe) -> str:
    return recipe.model.rpartition("/")[2] if isinstance(recipe, YoloConfig) else recipe.name


def plan(recipe: Recipe) -> tuple[int, float, bool]:
    """(workers, CPUs of each, whether each has a GPU). YOLO trains in one process."""
    cpus, gpus = resources()
    if isinstance(recipe, YoloConfig):
        return 1, 1.0 if gpus else max(1.0, cpus - 1), bool(gpus)
    most = gpus or min(int(cpus), 8)
    workers = max(n for n in range(1, max(most, 1) + 1) if recipe.batch_size % n == 0)
    return workers, 1.0 if not gpus else min(1.0, cpus / workers), bool(gpus)


def loop(config: dict[str, Any]) -> None:
    """A worker of Ray Train."""
    import torch

    quiet()
    torch.set_num_threads(config["threads"])
    examples = Examples(config["task"]["rows"], config["task"]["classes"], config["task"]["same"])
    (yolo_loop if config["yolo"] else faster_rcnn_loop)(config, examples)


def faster_rcnn_loop(config: dict[str, Any], examples: Examples) -> None:
    import ray.train

    from detection.training import DetectorEngine, batches
    from fusion import checkpoint
    from fusion.config import from_dict
    from workflows.train import sum_over

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    recipe = from_dict(DetectorRecipe, config["recipe"], "recipe")
    train = [place for place, row in enumerate(examples.rows) if row["split"] == "train"]
    engine = DetectorEngine(
        recipe,
        len(train) // recipe.batch_size,
        ray.train.torch.get_device(),
        rank,
        wrap=ray.train.torch.prepare_model,
        reduce=sum_over(size),
    )
    history: list[dict] = []
    saved = ray.train.get_checkpoint()
    if saved is not None:
        with saved.as_directory() as folder:
            engine.resume(Path(folder) / MODEL)
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
                engine.save(Path(folder) / MODEL, {})
                (Path(folder) / "history.json").write_text(json.dumps(history))
                kept = ray.train.Checkpoint.from_directory(folder)
                tell(recipe, numbers, recipe.epochs)
            ray.train.report(numbers, checkpoint=kept)


def yolo_loop(config: dict[str, Any], examples: Examples) -> None:
    import ray.train
    import torch

    from detection import yolo
    from detection.yolo_data import write_dataset
    from fusion.config import from_dict

    recipe = from_dict(YoloConfig, config["recipe"], "recipe")
    start: dict[str, str] = {}
    history: list[dict] = []

    def report(numbers: dict) -> None:
        folder = Path(numbers.pop("checkpoint"))
        numbers = {key if key in ("epoch", "epochs", "seconds") else named(key): v for key, v in numbers.items()}
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
        data = write_dataset(home / "data", rows(), examples.classes)
        device = "0" if torch.cuda.is_available() else "cpu"
        if config["start"] is not None:
            start = {"model": str(local(config["start"], home))}
        resume = None
        saved = ray.train.get_checkpoint()
        if saved is not None:
            resume = home / "resume"
            saved.to_directory(resume)
            history += json.loads((resume / "history.json").read_text())
        done = yolo.train(
            data, replace(recipe, **start), home / "run", device=device, resume_from=resume, on_epoch=report
        )
        for note in done.notes:
            print(note, flush=True)
        final = home / "final"
        (final / MODEL).mkdir(parents=True)
        (final / MODEL / "yolo.pt").write_bytes(done.weights.read_bytes())
        (final / "history.json").write_text(json.dumps(history))
        ray.train.report({"epoch": len(history)}, checkpoint=ray.train.Checkpoint.from_directory(final))


def named(key: str) -> str:
    return key if key in ("lr",) else f"val/{key.removeprefix('val_')}" if _validation(key) else f"train/{key}"


def _validation(key: str) -> bool:
    return key.startswith("val_") or key in ("precision", "recall", "map50", "map50_95")


def local(where: str, home: Path) -> Path:
    """A local copy of the weights of a trained YOLO, given as its folder or its file."""
    from fusion import storage

    path = where if where.endswith(".pt") else storage.join(where, "yolo.pt")
    copy = home / "start.pt"
    try:
        copy.write_bytes(storage.read_bytes(path))
    except FileNotFoundError as error:
        raise UserError(f"no YOLO weights at {path}. Give what `duskfuse detect` trained, or a .pt file.") from error
    return copy


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
