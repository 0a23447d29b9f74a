"""From what a detector found in every image to tables and pictures. No Ray here."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from detection.average_precision import match
from detection.drawing import draw
from detection.protocol import compare
from detection.tables import scores_table
from fusion import storage
from fusion.images.colour import to_rgb
from fusion.images.png import encode_png
from fusion.report.sheets import side_by_side
from fusion.report.tables import degradation_order, level_order
from workflows.console import log_progress
from workflows.detect.evaluate import ImageDetections, find_items, image_of
from workflows.detect.labels import SOURCES
from workflows.detect.options import Args, name_of
from workflows.inputs import Problem
from workflows.outputs import write_json
from workflows.provenance import provenance

if TYPE_CHECKING:
    import pandas as pd

    from detection.protocol import Comparison

ALL = "all"
MAX_BOXES_SHOWN = 8  # in a picture, where others are to choose from
MIN_PICTURE_WIDTH = 640  # pixels
MAX_PROBLEMS_SHOWN = 5
PICTURES_PER_ROW = 3
Condition = tuple[str, str]  # degradation, level


@dataclass(frozen=True)
class Evaluation:
    """A detector run on all methods' images.

    weights       the detector
    classes       those it was scored on
    methods       folders of fused images
    detections    what it found
    problems      what could not be scored
    """

    weights: str
    classes: tuple[str, ...]
    methods: Mapping[str, str]
    detections: Sequence[ImageDetections]
    problems: Sequence[Problem]

    @property
    def names(self) -> tuple[str, ...]:
        """The methods in the order in which they are shown."""
        return (*SOURCES, *self.methods)


def write_results(args: Args, command: list[str], evaluation: Evaluation) -> None:
    """Write tables, detections, pictures, and detect.json last; print the table."""
    import pandas as pd

    scores, compared = tables(evaluation.detections, evaluation.names, evaluation.classes, args.resamples, args.seed)
    storage.write_text(storage.join(args.out, "table.csv"), scores.to_csv(index=False))
    storage.write_text(storage.join(args.out, "differences.csv"), differences(compared).to_csv(index=False))
    problems = pd.DataFrame(map(asdict, evaluation.problems), columns=["method", "image", "problem"])
    storage.write_text(storage.join(args.out, "problems.csv"), problems.to_csv(index=False))
    buffer = io.BytesIO()
    boxes_table(evaluation.detections, evaluation.classes).to_parquet(buffer, index=False)
    storage.write_bytes(storage.join(args.out, "detections.parquet"), buffer.getvalue())
    write_pictures(args, evaluation)
    result = {
        "provenance": provenance(["detect", *command]),
        "detector": name_of(args.recipe) if args.weights is None else storage.absolute(args.weights),
        "weights": storage.absolute(evaluation.weights),
        "train_on": args.train_on if args.weights is None else None,
        "classes": list(evaluation.classes),
        "methods": {name: storage.absolute(folder) for name, folder in evaluation.methods.items()},
        "resamples": args.resamples,
        "problems": len(evaluation.problems),
    }
    write_json(storage.join(args.out, "detect.json"), result)
    print_summary(args.out, scores, evaluation)


def print_summary(out: str, scores: pd.DataFrame, evaluation: Evaluation) -> None:
    """Print the table over all images, and what is wrong with some of them."""
    print_table(scores, evaluation.classes)
    for problem in evaluation.problems[:MAX_PROBLEMS_SHOWN]:
        log_progress(f"problem: {problem.method} {problem.image}: {problem.problem}")
    if len(evaluation.problems) > MAX_PROBLEMS_SHOWN:
        log_progress(f"{len(evaluation.problems)} problems in all, see problems.csv")
    counts = scores[scores["degradation"] == ALL]["images"]
    if counts.nunique() > 1:
        log_progress("the methods have different numbers of images: their rows are over different sets, see table.csv")
    print(f"{out}: {len(evaluation.names)} methods on {counts.max()} images, {len(evaluation.classes)} classes")


def write_pictures(args: Args, evaluation: Evaluation) -> None:
    """Write OUT/pictures: one sheet per image, every method's version side by side, with what was found."""
    by_name = {(row.name, row.method): row for row in evaluation.detections}
    remaining = set(choose_images(evaluation.detections, args.num_images))
    folder = storage.join(args.out, "pictures")
    for old in storage.list_files(folder):  # of an earlier run, perhaps of other images
        if old.endswith(".png"):
            storage.remove(storage.join(folder, old))
    if not remaining:
        return
    for item in find_items(args, {name.rpartition("/")[2] for name in remaining}):
        name = "/".join([item.degradation or "clean", item.level or "0", item.key])
        if name not in remaining:
            continue
        cells = []
        for method in evaluation.names:
            if (name, method) in by_name:
                image = image_of(item, method, evaluation.methods)
                cells.append((method, picture(image, by_name[name, method], evaluation.classes, args.threshold)))
        rows = [cells[i : i + PICTURES_PER_ROW] for i in range(0, len(cells), PICTURES_PER_ROW)]
        path = storage.join(folder, f"{name.replace('/', '-')}.png")
        storage.write_bytes(path, encode_png(side_by_side(rows, MIN_PICTURE_WIDTH)))
        remaining.remove(name)
        if not remaining:  # a corpus would be read to its end
            return


def tables(
    detections: Sequence[ImageDetections], methods: Sequence[str], classes: Sequence[str], resamples: int, seed: int
) -> tuple[pd.DataFrame, dict[Condition, Comparison]]:
    """Score every method over all images and, where there are several, in each degradation at each level."""
    import pandas as pd

    matches = {}
    for method in methods:
        rows = sorted((row for row in detections if row.method == method), key=lambda row: row.name)
        if rows:
            truths, found = [row.to_truth() for row in rows], [row.to_detections() for row in rows]
            matches[method] = match(truths, found, classes, [row.name for row in rows])
    conditions = sorted(
        {(row.degradation, row.level) for row in detections},
        key=lambda condition: (degradation_order(condition[0]), level_order(condition[1])),
    )
    compared: dict[Condition, Comparison] = {}
    parts = []
    for condition in [(ALL, ALL), *(conditions if len(conditions) > 1 else ())]:
        start = "" if condition[0] == ALL else "/".join(condition) + "/"
        chosen = {name: one.select([key for key in one.keys if key.startswith(start)]) for name, one in matches.items()}
        chosen = {name: one for name, one in chosen.items() if one.keys}
        # an image under several degradations is one image: it is drawn, or not, as a whole
        compared[condition] = compare(chosen, resamples, seed, group=lambda key: key.rpartition("/")[2])
        part = scores_table(compared[condition].scores)
        part.insert(1, "degradation", condition[0])
        part.insert(2, "level", condition[1])
        parts.append(part)
    return pd.concat(parts, ignore_index=True), compared


def differences(compared: dict[Condition, Comparison]) -> pd.DataFrame:
    """Return the differences of the best method of each condition and every other one."""
    import pandas as pd

    rows = [
        {"degradation": condition[0], "level": condition[1], "measure": one.measure, "best": one.first}
        | {"other": one.second, "images": one.images, "difference": one.difference.value}
        | {"low": one.difference.low, "high": one.difference.high, "above_zero": one.above_zero, "p": one.p}
        for condition, comparison in compared.items()
        for one in comparison.differences
    ]
    columns = ["degradation", "level", "measure", "best", "other", "images", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "above_zero", "p"])


def boxes_table(detections: Sequence[ImageDetections], classes: Sequence[str]) -> pd.DataFrame:
    """Return one row for every detection and, as method "truth", for every labelled box."""
    import pandas as pd

    columns = ["method", "image", "degradation", "level", "class", "score", "x1", "y1", "x2", "y2"]
    rows = []
    labelled = set()  # images whose labelled boxes are in the table
    for row in detections:
        image = (row.image, row.degradation, row.level)
        sets = [(row.method, row.found, row.found.scores)]
        if image not in labelled:
            sets.append(("truth", row.truth, [1.0] * len(row.truth.boxes)))
        labelled.add(image)
        for method, lists, scores in sets:
            for box, index, score in zip(lists.boxes, lists.classes, scores, strict=True):
                rows.append((method, *image, classes[index], score, *box))
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:4], kind="stable", ignore_index=True)


def choose_images(detections: Sequence[ImageDetections], count: int) -> list[str]:
    """Return the names of images to show.

    Those with most labelled boxes are preferred, up to MAX_BOXES_SHOWN, so that each box can be seen; of images that
    differ in their degradation alone, one comes first.
    """
    order: dict[str, tuple[bool, int, str]] = {}
    for row in detections:
        boxes = len(row.truth.boxes)
        crowded = boxes > MAX_BOXES_SHOWN
        order[row.name] = (crowded, boxes if crowded else -boxes, row.image)
    first: list[str] = []
    again: list[str] = []
    keys = set()
    for name in sorted(order, key=lambda name: (order[name], name)):
        key = order[name][2]
        (again if key in keys else first).append(name)
        keys.add(key)
    return sorted((first + again)[:count])


def picture(image: np.ndarray, row: ImageDetections, classes: Sequence[str], threshold: float) -> np.ndarray:
    """Draw what was found into an image, uint8 H W 3 or H W; small ones are enlarged, for letters need room."""
    colour_HW3 = to_rgb(image)
    scale = max(1, math.ceil(MIN_PICTURE_WIDTH / image.shape[1]))
    labelled, found = row.to_truth(), row.to_detections()
    if scale > 1:
        colour_HW3 = cv2.resize(colour_HW3, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        height, width = labelled.height * scale, labelled.width * scale
        labelled = replace(labelled, boxes=labelled.boxes * scale, height=height, width=width)
        found = replace(found, boxes=found.boxes * scale)
    return draw(colour_HW3, labelled, found, classes, threshold)


def print_table(table: pd.DataFrame, classes: Sequence[str]) -> None:
    """Print the rows over all images, AP in per cent; the last two are mAP50 by the curves of VOC."""
    heads = " ".join(f"{name[:9]:>9}" for name in classes)
    log_progress(f"{'method':20} {'images':>6} {heads}     mAP50 (95 % interval)  mAP50-95  VOC 2007     VOC")
    for row in table[table["degradation"] == ALL].to_dict("records"):
        values = " ".join(f"{100 * row[f'ap50_{name}']:9.1f}" for name in classes)
        interval = f"({100 * row['map50_low']:.1f} to {100 * row['map50_high']:.1f})"
        means = f"{100 * row['map50']:9.1f} {interval:16} {100 * row['map50_95']:8.1f}"
        means += f"  {100 * row['voc2007_map50']:8.1f} {100 * row['voc_map50']:7.1f}"
        log_progress(f"{row['method']:20} {row['images']:6} {values} {means}")
