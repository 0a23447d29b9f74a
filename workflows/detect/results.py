"""From what a detector found in every image to tables and pictures. No Ray here."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from detection.average_precision import match
from detection.boxes import Detections, Truth
from detection.drawing import draw
from detection.protocol import compare, table
from fusion import storage
from fusion.images.colour import to_rgb
from fusion.images.png import encode_png
from fusion.report.sheets import side_by_side
from fusion.report.tables import degradation_order, level_order
from workflows.console import log_progress
from workflows.detect.evaluate import find_items, image_of
from workflows.detect.labels import SOURCES
from workflows.detect.options import Args, name_of
from workflows.outputs import write_json
from workflows.provenance import provenance


def write_pictures(args: Args, found: list[dict], names: list[str], classes: tuple[str, ...], methods: dict) -> None:
    """OUT/pictures: one sheet an image, every method's version side by side, with what was found."""

    rows = {(name_of_image(row), row["method"]): row for row in found}
    wanted = set(choose(found, args.num_images))
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


def write(
    args: Args, command: list[str], weights: str, classes, methods: dict, found: list[dict], problems: list[dict]
) -> None:
    """Tables, detections, pictures, and detect.json last."""
    import pandas as pd

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
        "provenance": provenance(["detect", *command]),
        "detector": name_of(args.recipe) if args.weights is None else storage.absolute(args.weights),
        "weights": storage.absolute(weights),
        "train_on": args.train_on if args.weights is None else None,
        "classes": list(classes),
        "methods": {name: storage.absolute(folder) for name, folder in methods.items()},
        "resamples": args.resamples,
        "problems": len(problems),
    }
    write_json(storage.join(args.out, "detect.json"), about)
    show(table, classes)
    for item in problems[:5]:
        log_progress(f"problem: {item['method']} {item['image']}: {item['problem']}")
    if len(problems) > 5:
        log_progress(f"{len(problems)} problems in all, see problems.csv")
    counts = table[table["degradation"] == "all"]["images"]
    if counts.nunique() > 1:
        log_progress("the methods have different numbers of images: their rows are over different sets, see table.csv")
    print(f"{args.out}: {len(names)} methods on {counts.max()} images, {len(classes)} classes")


if TYPE_CHECKING:
    import pandas as pd

    from detection.protocol import Comparison

ALL = "all"
SEEN = 8  # boxes in a picture
WIDTH = 640  # pixels of a picture, at least
Condition = tuple[str, str]  # degradation, level


def name_of_image(row: dict) -> str:
    return "/".join([row["degradation"], row["level"], row["image"]])


def true_of(row: dict) -> Truth:
    return Truth(row["true"]["boxes"], row["true"]["classes"], row["height"], row["width"])


def found_of(row: dict) -> Detections:
    return Detections(row["found"]["boxes"], row["found"]["scores"], row["found"]["classes"])


def tables(
    found: list[dict], methods: Sequence[str], classes: Sequence[str], resamples: int, seed: int
) -> tuple[pd.DataFrame, dict[Condition, Comparison]]:
    """AP of every method over all images and, where there are several, in each degradation at each level."""
    import pandas as pd

    matches = {}
    for method in methods:
        rows = sorted((row for row in found if row["method"] == method), key=name_of_image)
        if rows:
            keys = [name_of_image(row) for row in rows]
            matches[method] = match([true_of(r) for r in rows], [found_of(r) for r in rows], classes, keys)
    conditions = sorted(
        {(row["degradation"], row["level"]) for row in found},
        key=lambda what: (degradation_order(what[0]), level_order(what[1])),
    )
    compared: dict[Condition, Comparison] = {}
    parts = []
    for condition in [(ALL, ALL), *(conditions if len(conditions) > 1 else ())]:
        start = "" if condition[0] == ALL else "/".join(condition) + "/"
        chosen = {name: one.select([key for key in one.keys if key.startswith(start)]) for name, one in matches.items()}
        chosen = {name: one for name, one in chosen.items() if one.keys}
        # an image under several degradations is one image: it is drawn, or not, as a whole
        compared[condition] = compare(chosen, resamples, seed, group=lambda key: key.rpartition("/")[2])
        part = table(compared[condition].scores)
        part.insert(1, "degradation", condition[0])
        part.insert(2, "level", condition[1])
        parts.append(part)
    return pd.concat(parts, ignore_index=True), compared


def differences(compared: dict[Condition, Comparison]) -> pd.DataFrame:
    """The best method of each condition less every other one."""
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


def boxes_table(found: list[dict], classes: Sequence[str]) -> pd.DataFrame:
    """Every detection and, as method "truth", every labelled box: one row each."""
    import pandas as pd

    columns = ["method", "image", "degradation", "level", "class", "score", "x1", "y1", "x2", "y2"]
    rows = []
    seen = set()
    for one in found:
        where = (one["image"], one["degradation"], one["level"])
        sets = [(one["method"], one["found"])] + ([("truth", one["true"])] if where not in seen else [])
        seen.add(where)
        for method, boxes in sets:
            scores = boxes.get("scores", [1.0] * len(boxes["boxes"]))
            for box, place, value in zip(boxes["boxes"], boxes["classes"], scores, strict=True):
                rows.append((method, *where, classes[place], value, *box))
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:4], kind="stable", ignore_index=True)


def choose(found: list[dict], count: int) -> list[str]:
    """Images to show: those with most labelled boxes of which one can still see each, one of a key first."""
    boxes = {}
    for row in found:
        number = len(row["true"]["boxes"])
        boxes[name_of_image(row)] = (number > SEEN, number if number > SEEN else -number, row["image"])
    ranked = sorted(boxes, key=lambda name: (boxes[name], name))
    first, again, keys = [], [], set()
    for name in ranked:
        (again if boxes[name][2] in keys else first).append(name)
        keys.add(boxes[name][2])
    return sorted((first + again)[:count])


def picture(image: np.ndarray, row: dict, classes: Sequence[str], threshold: float) -> np.ndarray:
    """An image (uint8, H W 3 or H W) with what was found in it; small ones are enlarged, for letters need room."""

    colour = to_rgb(image)
    times = max(1, math.ceil(WIDTH / image.shape[1]))
    true, found = true_of(row), found_of(row)
    if times > 1:
        colour = cv2.resize(colour, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
        true = replace(true, boxes=true.boxes * times, height=true.height * times, width=true.width * times)
        found = replace(found, boxes=found.boxes * times)
    return draw(colour, true, found, classes, threshold)


def show(table: pd.DataFrame, classes: Sequence[str]) -> None:
    """The rows over all images, AP in per cent."""
    heads = " ".join(f"{name[:9]:>9}" for name in classes)
    log_progress(f"{'method':20} {'images':>6} {heads}     mAP50 (95 % interval)  mAP50-95")
    for row in table[table["degradation"] == ALL].to_dict("records"):
        values = " ".join(f"{100 * row[f'ap50_{name}']:9.1f}" for name in classes)
        interval = f"({100 * row['map50_low']:.1f} to {100 * row['map50_high']:.1f})"
        means = f"{100 * row['map50']:9.1f} {interval:16} {100 * row['map50_95']:8.1f}"
        log_progress(f"{row['method']:20} {row['images']:6} {values} {means}")
