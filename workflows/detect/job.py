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

from dataclasses import replace

from detection.load import find_detector, load_detector
from fusion import storage
from fusion.data.class_names import parse_aliases
from fusion.errors import UserError
from workflows.cluster.connect import connect
from workflows.console import log_progress
from workflows.detect.evaluate import score
from workflows.detect.labels import SOURCES, class_list, look_at, training_rows
from workflows.detect.options import Args, size_of
from workflows.detect.results import (
    write,
)
from workflows.inputs import parse_named_dirs
from workflows.outputs import require_own_output


def run(args: Args, command: list[str]) -> None:
    from workflows.detect import train as detector_training

    methods = parse_named_dirs(args.fused) if args.fused else {}
    clash = sorted(set(methods) & set(SOURCES))
    if clash:
        raise UserError(f"--fused {clash[0]}=...: the {clash[0]} images are scored anyway. Use another name.")
    if args.pairs is None and (args.corpus is None or args.weights is None):
        raise UserError("give --pairs, the labelled pairs (or --corpus and --weights, to score without training).")
    if args.split not in ("train", "val", "test", "all"):
        raise UserError(f"--split is {args.split!r}; it must be one of train, val, test, all")
    same = parse_aliases(args.class_aliases)
    require_own_output(args.out, "splits.csv" if args.pairs else "table.csv", "detections")
    connect()
    refs, problems, pairs = look_at(args, same)
    refs = [ref for ref in refs if ref.key in pairs]  # the others are among the problems
    classes = class_list(args, pairs, same)
    log_progress(f"classes: {', '.join(classes)}")
    if args.weights is None:
        if hasattr(args.recipe.model, "classes"):
            args = replace(args, recipe=replace(args.recipe, model=replace(args.recipe.model, classes=classes)))
        rows = training_rows(args, refs, methods)
        if args.corpus is None and args.split != "test":
            log_progress(
                f"--split {args.split}: the detector has seen some of what is scored, so its numbers are too good"
            )
        task = {"rows": rows, "classes": classes, "same": same}
        weights = detector_training.train(
            storage.join(args.out, "training"), args.recipe, task, args.start, ["detect", *command], args.workers
        )
    else:
        weights = find_detector(args.weights)
        detector = load_detector(weights, classes, same, size_of(args) or None, "cpu")  # a bad one fails here, once
        if detector.image_size is not None:
            log_progress(f"YOLO looks at images at {detector.image_size} pixels")
    storage.remove(storage.join(args.out, "detect.json"))  # from here to the end the folder is not complete
    found, more = score(args, refs, methods, weights, classes, same)
    write(args, command, weights, classes, methods, found, problems + more)
