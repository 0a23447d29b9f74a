from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from detection.average_precision import MOST_DETECTIONS
from detection.boxes import truth
from detection.load import load_detector
from fusion import storage
from fusion.errors import UserError
from workflows.cluster.connect import resources
from workflows.cluster.parallel import ActorPool, in_actors
from workflows.detect.labels import SOURCES
from workflows.detect.options import Args, size_of
from workflows.inputs import Item, PairUnit, Unit, check_size, open_source, pair_units, read_fused_image, read_items


def score(
    args: Args, refs: list, methods: dict[str, str], weights: str, classes, same
) -> tuple[list[dict], list[dict]]:
    """(what was found in every image of every method, what could not be scored)."""
    if args.corpus is not None:
        source = open_source(None, args.corpus, args.split)
        units, images = source.units, source.images
    else:
        chosen = [ref for ref in refs if args.split in ("all", ref.split)]
        if not chosen:
            raise UserError(f"{args.pairs} has no pairs of split {args.split!r}. Choose another --split.")
        units = list(pair_units(chosen))
        images = len(chosen)
    cpus, gpus = resources()
    workers = gpus or max(1, int(cpus))
    pool = ActorPool(workers, cpus=min(1, cpus / workers), gpus=1 if gpus else 0)
    settings = FinderSettings(
        weights=storage.absolute(weights),
        classes=tuple(classes),
        same=same,
        methods={name: storage.absolute(folder) for name, folder in methods.items()},
        size=size_of(args),
        threads=max(1, int(cpus / workers)),
    )
    found: list[dict] = []
    problems: list[dict] = []
    with tqdm(total=images, unit="image", desc="detect", mininterval=1) as bar:
        for row in in_actors(units, Finder, settings, (dict,), pool):
            found += row["found"]
            problems += row["problems"]
            bar.update(1)
    return found, problems


@dataclass(frozen=True)
class FinderSettings:
    """A detector, the classes it is scored on, and the folders of fused images by method."""

    weights: str
    classes: tuple[str, ...]
    same: dict[str, str]
    methods: dict[str, str]
    size: int
    threads: int


class Finder:
    """A Ray actor that holds the detector."""

    def __init__(self, settings: FinderSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.classes, self.same, self.methods = settings.classes, settings.same, settings.methods
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.detect = load_detector(settings.weights, self.classes, self.same, settings.size or None, device).detect

    def __call__(self, unit: Unit) -> list[dict]:

        results = []
        for item in read_items(unit):
            if isinstance(item, Item):
                results.append(self.one(item))
            else:
                results.append({"found": [], "problems": [{"method": "", "image": item.key, "problem": item.reason}]})
        return results

    def one(self, item) -> dict:

        height, width = item.infrared.shape
        true = truth(item.boxes, item.classes, self.classes, height, width, self.same)
        images, problems = {}, []
        for name in (*SOURCES, *self.methods):
            try:
                image = image_of(item, name, self.methods)
                check_size(image, item.infrared)
                images[name] = image
            except storage.StoreError:
                raise
            except UserError as error:
                problems.append({"method": name, "image": item.name, "problem": str(error)})
        what = {"image": item.key, "degradation": item.degradation or "clean", "level": item.level or "0"}
        what |= {"height": height, "width": width, "true": lists(true)}
        found = [
            what | {"method": name, "found": lists(one)}
            for name, one in zip(images, self.detect(list(images.values())), strict=True)
        ]
        return {"found": found, "problems": problems}


def lists(boxes) -> dict:
    """Truth or Detections as plain lists, for JSON; of detections the best of each class, all that AP looks at."""

    keep = np.ones(len(boxes.boxes), bool)
    if hasattr(boxes, "scores"):
        order = np.argsort(-boxes.scores, kind="stable")
        for place in np.unique(boxes.classes):
            keep[order[boxes.classes[order] == place][MOST_DETECTIONS:]] = False
    names = (name for name in ("boxes", "classes", "scores") if hasattr(boxes, name))
    return {name: getattr(boxes, name)[keep].tolist() for name in names}


def find_items(args: Args, keys: set[str]) -> Iterator:
    """The items with these keys among what was scored."""

    for unit in open_source(None if args.corpus else args.pairs, args.corpus, args.split).units:
        if isinstance(unit, PairUnit):
            unit = replace(unit, refs=tuple(ref for ref in unit.refs if ref.key in keys))
        yield from (item for item in read_items(unit) if isinstance(item, Item) and item.key in keys)


def image_of(item, method: str, methods: dict[str, str]):

    known = {"visible": item.degraded_visible, "infrared": item.degraded_infrared}
    return known[method] if method in known else read_fused_image(methods[method], item)
