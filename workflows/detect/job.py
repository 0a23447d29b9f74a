"""duskfuse detect: how well objects are detected in visible, infrared and fused images, by one detector for all.

    duskfuse detect --pairs DIR --fused NAME=DIR ... --detector yolo --out DIR
    duskfuse detect --pairs DIR --corpus CORPUS --fused NAME=DIR ... --out DIR      degraded images, by level
    duskfuse detect --pairs DIR --fused ... --weights OTHER --out DIR      the detector of another run

The protocol of MoE-Fusion's Table 3: a detector is trained once, on the visible and infrared images of the training
split together, and then run unchanged on every method's images of the test split. OUT/table.csv has AP per class and
its means by COCO's 101 points, and AP50 by VOC's 11 points (voc2007_...) and all points (voc_...), with 95 % intervals
(bootstrap over images), OUT/differences.csv how sure one method is better than another, OUT/detections.parquet every
box, OUT/problems.csv what is wrong with labels and images, OUT/pictures examples; OUT/detect.json is written last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from detection.faster_rcnn.recipes import DetectorRecipe
from detection.load import find_detector, load_detector
from fusion import storage
from fusion.data.class_names import parse_aliases
from fusion.errors import UserError
from workflows.cluster.connect import connect
from workflows.console import log_progress
from workflows.detect.evaluate import detect_all
from workflows.detect.labels import (
    SOURCES,
    LabelledPairs,
    TrainingData,
    choose_classes,
    choose_training_images,
    validate_pairs,
)
from workflows.detect.options import Args, size_of
from workflows.detect.results import Evaluation, write_results
from workflows.detect.train import train
from workflows.inputs import parse_named_dirs
from workflows.outputs import require_own_output


def run(args: Args, command: list[str]) -> None:
    """Train a detector where none is given, run it on every method's images, and write the results."""
    methods = check_options(args)
    class_aliases = parse_aliases(args.class_aliases)
    require_own_output(args.out, "splits.csv" if args.pairs else "table.csv", "detections")
    connect()
    pairs = validate_pairs(args, class_aliases)
    classes = choose_classes(args, pairs, class_aliases)
    log_progress(f"classes: {', '.join(classes)}")
    if args.weights is None:
        weights = train_detector(args, command, pairs, methods, classes, class_aliases)
    else:
        weights = find_detector(args.weights)
        detector = load_detector(weights, classes, class_aliases, size_of(args) or None, "cpu")  # a bad one fails here
        if detector.image_size is not None:
            log_progress(f"YOLO looks at images at {detector.image_size} pixels")
    storage.remove(storage.join(args.out, "detect.json"))  # from here to the end the folder is not complete
    detections, problems = detect_all(args, pairs.refs, methods, weights, classes, class_aliases)
    evaluation = Evaluation(weights, classes, methods, detections, [*pairs.problems, *problems])
    write_results(args, command, evaluation)


def check_options(args: Args) -> dict[str, str]:
    """Return the folders of fused images by method. UserError: options that do not go together."""
    methods = parse_named_dirs(args.fused) if args.fused else {}
    clash = sorted(set(methods) & set(SOURCES))
    if clash:
        raise UserError(f"--fused {clash[0]}=...: the {clash[0]} images are scored anyway. Use another name.")
    if args.pairs is None and (args.corpus is None or args.weights is None):
        raise UserError("give --pairs, the labelled pairs (or --corpus and --weights, to score without training).")
    if args.split not in ("train", "val", "test", "all"):
        raise UserError(f"--split is {args.split!r}; it must be one of train, val, test, all")
    return methods


def train_detector(
    args: Args,
    command: list[str],
    pairs: LabelledPairs,
    methods: Mapping[str, str],
    classes: tuple[str, ...],
    class_aliases: dict[str, str],
) -> str:
    """Train the detector on the training pairs; return its folder."""
    recipe = args.recipe
    if isinstance(recipe, DetectorRecipe):
        recipe = replace(recipe, model=replace(recipe.model, classes=classes))
    data = TrainingData(choose_training_images(args, pairs.refs, methods), classes, class_aliases)
    if args.corpus is None and args.split != "test":
        log_progress(f"--split {args.split}: the detector has seen some of what is scored, so its numbers are too good")
    out = storage.join(args.out, "training")
    return train(out, recipe, data, args.start, ["detect", *command], args.workers)
