"""Running one detector on every method's images, in Ray actors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from detection.average_precision import MOST_DETECTIONS
from detection.boxes import Detections, Truth, truth
from detection.load import load_detector
from fusion import storage
from fusion.data.finding import PairRef
from fusion.errors import UserError
from workflows.cluster.connect import resources
from workflows.cluster.parallel import ActorPool, in_actors
from workflows.detect.labels import SOURCES
from workflows.detect.options import Args, size_of
from workflows.inputs import (
    Item,
    PairUnit,
    Problem,
    Unit,
    check_size,
    open_source,
    pair_units,
    read_fused_image,
    read_items,
)


@dataclass(frozen=True)
class BoxLists:
    """Boxes (x1, y1, x2, y2), their classes, and scores of detections, for JSON."""

    boxes: list[list[float]]
    classes: list[int]
    scores: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one method's version of an image. height, width: pixels; truth: the labelled boxes."""

    method: str
    image: str
    degradation: str
    level: str
    height: int
    width: int
    truth: BoxLists
    found: BoxLists

    @property
    def name(self) -> str:
        """Degradation, level and key: the name of the image among all that were scored."""
        return f"{self.degradation}/{self.level}/{self.image}"

    def to_truth(self) -> Truth:
        """Return the labelled boxes."""
        return Truth(np.array(self.truth.boxes), np.array(self.truth.classes), self.height, self.width)

    def to_detections(self) -> Detections:
        """Return the detections."""
        return Detections(np.array(self.found.boxes), np.array(self.found.scores), np.array(self.found.classes))


@dataclass(frozen=True)
class ImageResult:
    """What was found in all versions of one image, and which versions could not be scored."""

    detections: tuple[ImageDetections, ...] = ()
    problems: tuple[Problem, ...] = ()


def detect_all(
    args: Args,
    refs: Sequence[PairRef],
    methods: Mapping[str, str],
    weights: str,
    classes: Sequence[str],
    class_aliases: Mapping[str, str],
) -> tuple[list[ImageDetections], list[Problem]]:
    """Run the detector on every image of every method. Return what it found, and what could not be scored.

    UserError: no pairs of the split.
    """
    if args.corpus is not None:
        source = open_source(None, args.corpus, args.split)
        units, images = source.units, source.images
    else:
        chosen = [ref for ref in refs if args.split in ("all", ref.split)]
        if not chosen:
            raise UserError(f"{args.pairs} has no pairs of split {args.split!r}. Choose another --split.")
        units, images = list(pair_units(chosen)), len(chosen)
    cpus, gpus = resources()
    workers = int(gpus) or max(1, int(cpus))
    pool = ActorPool(workers, cpus=min(1, cpus / workers), gpus=1 if gpus else 0)
    settings = DetectorActorSettings(
        weights=storage.absolute(weights),
        classes=tuple(classes),
        class_aliases=dict(class_aliases),
        methods={name: storage.absolute(folder) for name, folder in methods.items()},
        size=size_of(args),
        threads=max(1, int(cpus / workers)),
    )
    detections: list[ImageDetections] = []
    problems: list[Problem] = []
    with tqdm(total=images, unit="image", desc="detect", mininterval=1) as bar:
        for result in in_actors(units, DetectorActor, settings, (ImageResult,), pool):
            detections += result.detections
            problems += result.problems
            bar.update(1)
    return detections, problems


@dataclass(frozen=True)
class DetectorActorSettings:
    """A detector, the classes it is scored on, and the folders of fused images by method. size: see `size_of`."""

    weights: str
    classes: tuple[str, ...]
    class_aliases: dict[str, str]
    methods: dict[str, str]
    size: int
    threads: int


class DetectorActor:
    """A Ray actor that holds the detector."""

    def __init__(self, settings: DetectorActorSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.settings = settings
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        classes, class_aliases = settings.classes, settings.class_aliases
        self.detect = load_detector(settings.weights, classes, class_aliases, settings.size or None, device).detect

    def __call__(self, unit: Unit) -> list[ImageResult]:
        """Return the result of each image of the unit."""
        return [
            self.process_item(item)
            if isinstance(item, Item)
            else ImageResult(problems=(Problem("", item.key, item.reason),))
            for item in read_items(unit)
        ]

    def process_item(self, item: Item) -> ImageResult:
        """Run the detector on all methods' versions of an image."""
        height, width = item.infrared.shape
        labelled = truth(item.boxes, item.classes, self.settings.classes, height, width, self.settings.class_aliases)
        images, problems = {}, []
        for method in (*SOURCES, *self.settings.methods):
            try:
                image = image_of(item, method, self.settings.methods)
                check_size(image, item.infrared)
                images[method] = image
            except storage.StoreError:
                raise
            except UserError as error:
                problems.append(Problem(method, item.name, str(error)))
        condition = (item.degradation or "clean", item.level or "0")
        true_boxes = BoxLists(labelled.boxes.tolist(), labelled.classes.tolist())
        detections = tuple(
            ImageDetections(method, item.key, *condition, height, width, true_boxes, to_lists(found))
            for method, found in zip(images, self.detect(list(images.values())), strict=True)
        )
        return ImageResult(detections, tuple(problems))


def to_lists(detections: Detections) -> BoxLists:
    """Return the best detections of each class, all that AP reads, for JSON."""
    keep = np.ones(len(detections.boxes), bool)
    order = np.argsort(-detections.scores, kind="stable")
    for index in np.unique(detections.classes):
        keep[order[detections.classes[order] == index][MOST_DETECTIONS:]] = False
    arrays = (detections.boxes, detections.classes, detections.scores)
    return BoxLists(*(array[keep].tolist() for array in arrays))


def find_items(args: Args, keys: set[str]) -> Iterator[Item]:
    """Yield the items with these keys among those that were scored."""
    for unit in open_source(None if args.corpus else args.pairs, args.corpus, args.split).units:
        if isinstance(unit, PairUnit):
            unit = replace(unit, refs=tuple(ref for ref in unit.refs if ref.key in keys))
        yield from (item for item in read_items(unit) if isinstance(item, Item) and item.key in keys)


def image_of(item: Item, method: str, methods: Mapping[str, str]) -> np.ndarray:
    """Return a method's version of an item: uint8 (H, W, 3) or (H, W). UserError: it cannot be read."""
    sources = {"visible": item.degraded_visible, "infrared": item.degraded_infrared}
    return sources[method] if method in sources else read_fused_image(methods[method], item)
