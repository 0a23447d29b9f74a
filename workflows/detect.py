"""duskfuse detect: how well objects are detected in visible, infrared and fused images, by one detector for all.

    duskfuse detect --pairs DIR --fused NAME=DIR ... --detector yolo --out DIR
    duskfuse detect --pairs DIR --corpus CORPUS --fused NAME=DIR ... --out DIR      degraded images, by level
    duskfuse detect --pairs DIR --fused ... --weights OTHER --out DIR      the detector of another run

The protocol of MoE-Fusion's Table 3: a detector is trained once, on the visible and infrared images of the training
split together, and then run unchanged on every method's images of the test split. OUT/table.csv has AP per class and
its means with 95 % intervals (bootstrap over images), OUT/differences.csv how sure one method is better than another,
OUT/detections.parquet every box, OUT/problems.csv what is wrong with labels and images, OUT/pictures examples;
OUT/detect.json is written last.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, make_dataclass, replace

import numpy as np
import tyro

from fusion.errors import UserError
from workflows.cluster import connect, in_parallel, resources, say
from workflows.detect_labels import SOURCES, class_list, look_at, training_rows
from workflows.detectors import Recipe, name_of
from workflows.options import Repeated


@dataclass(frozen=True)
class Args:
    recipe: Recipe
    """The detector's training; any field can be set, as in --recipe.epochs 30."""
    out: str
    """Folder or s3://bucket/path of the tables and the detector."""
    pairs: str | None = None
    """Labelled pairs; their training split trains the detector, their test split is scored."""
    corpus: str | None = None
    """Score the degraded rows of this corpus instead of the pairs' test split."""
    split: str = "test"
    """What is scored of the pairs or the corpus: train, val, test, all."""
    fused: Repeated = ()
    """Folders of fused images, each NAME=DIR; visible and infrared are always scored."""
    detector: str = "yolo"
    """One of: yolo, yolo-small, faster-rcnn, faster-rcnn-small."""
    weights: str | None = None
    """A trained detector (--out of another run, its training/detector, or a YOLO .pt file) instead of training one.
    YOLO looks at images at the size it was trained with, unless --recipe.size is another."""
    train_on: str = "visible+infrared"
    """Images to train on: visible, infrared, names of --fused, several joined by +."""
    start: str | None = None
    """A trained detector that the training starts from, given as for --weights; Faster R-CNN's of the same classes."""
    classes: str = ""
    """Classes to detect, separated by commas; by default those that occur in the training split."""
    same: str = ""
    """Class names to be taken for one, such as people=person,van=car."""
    splits: str = ""
    """A split file of a corpus; by default the folders' splits, and a draw where they have none."""
    sequences: bool = True
    """Keep near-duplicates in one split when it is drawn."""
    val_share: float = 0.1
    """Share of the training pairs that validates (YOLO keeps its best epoch)."""
    test_share: float = 0.2
    """Share of the pairs drawn for testing where the folders have no test split."""
    seed: int = 0
    """Of drawn splits and of the bootstrap."""
    resamples: int = 1000
    """Bootstrap draws."""
    pictures: int = 6
    """Images shown with their boxes."""
    threshold: float = 0.5
    """Score from which a box is shown in pictures."""
    workers: int = 0
    """Training workers of a Faster R-CNN; 0: one per GPU, or one with all CPUs of a node."""
    max_rejected: float = 0.01
    """Fail when more than this share of the pairs cannot be read."""


def recipes() -> dict[str, Recipe]:
    from detection import training
    from detection.yolo import YoloConfig

    small = YoloConfig(size=320, epochs=30, batch=8)
    return {"yolo": YoloConfig(), "yolo-small": small} | {name: make() for name, make in training.RECIPES.items()}


def main(arguments: list[str]) -> None:
    from workflows.cli import parse

    name = detector_named(arguments)
    known = recipes()
    if name not in known:
        raise UserError(f"unknown detector {name!r}. Known: {', '.join(known)}.")
    options = make_dataclass(Args.__name__, [("recipe", type(known[name]))], bases=(Args,), frozen=True)
    default = options(recipe=known[name], out=tyro.MISSING)
    run(parse(options, "detect", arguments, default=default, config=(tyro.conf.AvoidSubcommands,)), arguments)


def detector_named(arguments: list[str]) -> str:
    """The value of --detector, which the recipe's own options depend on; the last one counts."""
    name = "yolo"
    for word, following in itertools.pairwise([*arguments, name]):
        if word == "--detector":
            name = following
        elif word.startswith("--detector="):
            name = word.partition("=")[2]
    return name


def run(args: Args, command: list[str]) -> None:
    from fusion import storage
    from fusion.class_names import parse_same
    from workflows import detectors
    from workflows.folders import own_folder
    from workflows.score import named_folders

    methods = named_folders(args.fused) if args.fused else {}
    clash = sorted(set(methods) & set(SOURCES))
    if clash:
        raise UserError(f"--fused {clash[0]}=...: the {clash[0]} images are scored anyway. Use another name.")
    if args.pairs is None and (args.corpus is None or args.weights is None):
        raise UserError("give --pairs, the labelled pairs (or --corpus and --weights, to score without training).")
    if args.split not in ("train", "val", "test", "all"):
        raise UserError(f"--split is {args.split!r}; it must be one of train, val, test, all")
    same = parse_same(args.same)
    own_folder(args.out, "splits.csv" if args.pairs else "table.csv", "detections")
    connect()
    refs, problems, pairs = look_at(args, same)
    refs = [ref for ref in refs if ref.key in pairs]  # the others are among the problems
    classes = class_list(args, pairs, same)
    say(f"classes: {', '.join(classes)}")
    if args.weights is None:
        if hasattr(args.recipe.model, "classes"):
            args = replace(args, recipe=replace(args.recipe, model=replace(args.recipe.model, classes=classes)))
        rows = training_rows(args, refs, methods)
        if args.corpus is None and args.split != "test":
            say(f"--split {args.split}: the detector has seen some of what is scored, so its numbers are too good")
        task = {"rows": rows, "classes": classes, "same": same}
        weights = detectors.train(
            storage.join(args.out, "training"), args.recipe, task, args.start, ["detect", *command], args.workers
        )
    else:
        weights = detectors.detector_in(args.weights)
        found = load(weights, classes, same, size_of(args), "cpu")  # a bad one is told here, once
        if weights_of_yolo(weights):
            say(f"YOLO looks at images at {found.size} pixels")
    storage.remove(storage.join(args.out, "detect.json"))  # from here to the end the folder is not complete
    found, more = score(args, refs, methods, weights, classes, same)
    write(args, command, weights, classes, methods, found, problems + more)


def score(
    args: Args, refs: list, methods: dict[str, str], weights: str, classes, same
) -> tuple[list[dict], list[dict]]:
    """(what was found in every image of every method, what could not be scored)."""
    from ray.data import ActorPoolStrategy
    from tqdm import tqdm

    from fusion import storage
    from workflows.sources import PAIRS_A_TASK, open_source

    if args.corpus is not None:
        source = open_source(None, args.corpus, args.split)
        units, images = source.units, source.images
    else:
        chosen = [asdict(ref) for ref in refs if args.split in ("all", ref.split)]
        if not chosen:
            raise UserError(f"{args.pairs} has no pairs of split {args.split!r}. Choose another --split.")
        units = [{"refs": chosen[i : i + PAIRS_A_TASK]} for i in range(0, len(chosen), PAIRS_A_TASK)]
        images = len(chosen)
    cpus, gpus = resources()
    workers = gpus or max(1, int(cpus))
    options = {"num_cpus": min(1, cpus / workers)} | ({"num_gpus": 1} if gpus else {})
    make = {"weights": storage.absolute(weights), "classes": list(classes), "same": same}
    make |= {"methods": {name: storage.absolute(folder) for name, folder in methods.items()}}
    make |= {"size": size_of(args), "threads": max(1, int(cpus / workers))}
    found: list[dict] = []
    problems: list[dict] = []
    pool = ActorPoolStrategy(size=min(workers, len(units)))
    with tqdm(total=images, unit="image", desc="detect", mininterval=1) as bar:
        for row in in_parallel(units, Finder, make=make, compute=pool, **options):
            found += row["found"]
            problems += row["problems"]
            bar.update(1)
    return found, problems


class Finder:
    """A Ray actor that holds the detector."""

    def __init__(self, weights: str, classes: list[str], same: dict, methods: dict, size: int, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.classes, self.same, self.methods = tuple(classes), same, methods
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.find = load(weights, self.classes, same, size, device)

    def __call__(self, unit: dict) -> list[dict]:
        from workflows.sources import items

        results = []
        for item in items(unit):
            if isinstance(item, tuple):
                results.append({"found": [], "problems": [{"method": "", "image": item[0], "problem": item[1]}]})
            else:
                results.append(self.one(item))
        return results

    def one(self, item) -> dict:
        from detection.boxes import truth
        from fusion import storage

        height, width = item.infrared.shape
        true = truth(item.boxes, item.classes, self.classes, height, width, self.same)
        images, problems = {}, []
        for name in (*SOURCES, *self.methods):
            try:
                image = image_of(item, name, self.methods)
                if image.shape[:2] != (height, width):
                    sizes = [f"{shape[1]}x{shape[0]}" for shape in (image.shape, item.infrared.shape)]
                    raise UserError(f"size differs: fused {sizes[0]}, pair {sizes[1]}")
                images[name] = image
            except storage.StoreError:
                raise
            except UserError as error:
                where = f"{item.folder}/{item.key}".lstrip("/")
                problems.append({"method": name, "image": where, "problem": str(error)})
        what = {"image": item.key, "degradation": item.degradation or "clean", "level": item.level or "0"}
        what |= {"height": height, "width": width, "true": lists(true)}
        found = [
            what | {"method": name, "found": lists(one)}
            for name, one in zip(images, self.find(list(images.values())), strict=True)
        ]
        return {"found": found, "problems": problems}


def load(weights: str, classes: tuple[str, ...], same: dict, size: int, device: str):
    """A trained detector as a function of images: YOLO weights, or a Faster R-CNN's checkpoint. UserError: neither."""
    import tempfile
    from functools import partial
    from pathlib import Path

    from fusion import checkpoint
    from fusion.class_names import standard_name
    from workflows.detectors import local

    if weights_of_yolo(weights):
        from detection.yolo import Yolo

        with tempfile.TemporaryDirectory() as folder:
            return Yolo(local(weights, Path(folder)), device, size or None, classes=classes, same=same)
    from detection.faster_rcnn import DETECTORS, detect

    loaded = checkpoint.load(checkpoint.fetch(weights), models=DETECTORS)
    known = [standard_name(name, same) for name in loaded.model.config.classes]
    missing = [name for name in classes if name not in known]
    if missing:
        raise UserError(f"{weights} does not know {', '.join(missing)}: its classes are {', '.join(known)}.")
    places = [classes.index(name) if name in classes else -1 for name in known]
    return partial(detect, loaded.model.to(device), places=places)


def weights_of_yolo(weights: str) -> bool:
    from fusion import storage
    from workflows.detectors import is_file_of_weights

    return is_file_of_weights(weights) or storage.exists(storage.join(weights, "yolo.pt"))


def size_of(args: Args) -> int:
    """YOLO's image size where it was asked for; 0: that of its training."""
    size = getattr(args.recipe, "size", 0)
    return 0 if size == getattr(recipes()[args.detector], "size", 0) else size


def lists(boxes) -> dict:
    """Truth or Detections as plain lists, for JSON; of detections the best of each class, all that AP looks at."""
    from detection.average_precision import MOST_DETECTIONS

    keep = np.ones(len(boxes.boxes), bool)
    if hasattr(boxes, "scores"):
        order = np.argsort(-boxes.scores, kind="stable")
        for place in np.unique(boxes.classes):
            keep[order[boxes.classes[order] == place][MOST_DETECTIONS:]] = False
    names = (name for name in ("boxes", "classes", "scores") if hasattr(boxes, name))
    return {name: getattr(boxes, name)[keep].tolist() for name in names}


def write_pictures(args: Args, found: list[dict], names: list[str], classes: tuple[str, ...], methods: dict) -> None:
    """OUT/pictures: one sheet an image, every method's version side by side, with what was found."""
    from fusion import storage
    from fusion.images import encode_png
    from fusion.report.sheets import side_by_side
    from workflows.detect_results import WIDTH, choose, name_of_image, picture

    rows = {(name_of_image(row), row["method"]): row for row in found}
    wanted = set(choose(found, args.pictures))
    folder = storage.join(args.out, "pictures")
    for old in storage.list_files(folder):  # of an earlier run, perhaps of other images
        if old.endswith(".png"):
            storage.remove(storage.join(folder, old))
    if not wanted:
        return
    for item in find_items(args, {name.rpartition("/")[2] for name in wanted}):
        name = "/".join([item.degradation or "clean", item.level or "0", item.key])
        if name not in wanted:
            continue
        cells = []
        for method in names:
            if (name, method) in rows:
                image = image_of(item, method, methods)
                cells.append((method, picture(image, rows[name, method], classes, args.threshold)))
        lines = [cells[i : i + 3] for i in range(0, len(cells), 3)]
        path = storage.join(folder, f"{name.replace('/', '-')}.png")
        storage.write_bytes(path, encode_png(side_by_side(lines, WIDTH)))
        wanted.remove(name)
        if not wanted:  # a corpus would be read to its end
            return


def find_items(args: Args, keys: set[str]) -> Iterator:
    """The items with these keys among what was scored."""
    from workflows.sources import items, open_source

    for unit in open_source(None if args.corpus else args.pairs, args.corpus, args.split).units:
        if "refs" in unit:
            unit = unit | {"refs": [ref for ref in unit["refs"] if ref["key"] in keys]}
        yield from (item for item in items(unit) if not isinstance(item, tuple) and item.key in keys)


def image_of(item, method: str, methods: dict[str, str]):
    from workflows.score import read_fused

    known = {"visible": item.degraded_visible, "infrared": item.degraded_infrared}
    return known[method] if method in known else read_fused(methods[method], item)


def write(
    args: Args, command: list[str], weights: str, classes, methods: dict, found: list[dict], problems: list[dict]
) -> None:
    """Tables, detections, pictures, and detect.json last."""
    import pandas as pd

    from fusion import storage
    from workflows.detect_results import boxes_table, differences, show, tables
    from workflows.stamps import stamp

    names = [*SOURCES, *methods]
    table, compared = tables(found, names, classes, args.resamples, args.seed)
    storage.write_text(storage.join(args.out, "table.csv"), table.to_csv(index=False))
    storage.write_text(storage.join(args.out, "differences.csv"), differences(compared).to_csv(index=False))
    faults = pd.DataFrame(problems, columns=["method", "image", "problem"])
    storage.write_text(storage.join(args.out, "problems.csv"), faults.to_csv(index=False))
    buffer = io.BytesIO()
    boxes_table(found, classes).to_parquet(buffer, index=False)
    storage.write_bytes(storage.join(args.out, "detections.parquet"), buffer.getvalue())
    write_pictures(args, found, names, classes, methods)
    about = {
        "stamp": stamp(["detect", *command]),
        "detector": name_of(args.recipe) if args.weights is None else storage.absolute(args.weights),
        "weights": storage.absolute(weights),
        "train_on": args.train_on if args.weights is None else None,
        "classes": list(classes),
        "methods": {name: storage.absolute(folder) for name, folder in methods.items()},
        "resamples": args.resamples,
        "problems": len(problems),
    }
    storage.write_text(storage.join(args.out, "detect.json"), json.dumps(about, indent=1) + "\n")
    show(table, classes)
    for item in problems[:5]:
        say(f"problem: {item['method']} {item['image']}: {item['problem']}")
    if len(problems) > 5:
        say(f"{len(problems)} problems in all, see problems.csv")
    counts = table[table["degradation"] == "all"]["images"]
    if counts.nunique() > 1:
        say("the methods have different numbers of images: their rows are over different sets, see table.csv")
    print(f"{args.out}: {len(names)} methods on {counts.max()} images, {len(classes)} classes")


if __name__ == "__main__":
    import sys

    from workflows.cli import main as cli

    sys.exit(cli(["detect", *sys.argv[1:]]))
