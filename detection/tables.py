"""Scores of detection as tables: for CSV files and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from detection.protocol import MEASURES, Scores
from fusion.errors import UserError
from fusion.report.tables import ALL, PaperTable, format_value, paper_table

if TYPE_CHECKING:
    import pandas as pd

VOC = {"voc2007": "11 points", "voc": "all points"}  # how columns of VOC's curves begin, and how they are told in print


def scores_table(scores: Sequence[Scores]) -> pd.DataFrame:
    """Return one row per method.

    Columns: method, images; ap50_CLASS of each class, map50 and map50_95, each with the limits of its interval as
    ap50_CLASS_low, ap50_CLASS_high ...; likewise voc2007_ap50_CLASS, voc2007_map50, voc_ap50_CLASS and voc_map50 by the
    curves of VOC; boxes and detections of all classes together, boxes_CLASS of each class.
    """
    import pandas as pd

    rows = []
    for one in scores:
        row: dict[str, object] = {"method": one.method, "images": one.images}
        estimates = (*one.ap50, one.map50, one.map50_95)
        estimates += (*one.voc2007.ap50, one.voc2007.map50, *one.voc.ap50, one.voc.map50)
        labels = column_labels(one.classes) | voc_labels(one.classes)
        for name, estimate in zip(labels, estimates, strict=True):
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= {"boxes": sum(one.boxes), "detections": sum(one.detections)}
        rows.append(row | {f"boxes_{name}": count for name, count in zip(one.classes, one.boxes, strict=True)})
    return pd.DataFrame(rows)


def column_labels(classes: Sequence[str]) -> dict[str, str]:
    """Return the columns of AP in `scores_table`, and what each is called in print."""
    return {f"ap50_{name}": f"AP50 {name}" for name in classes} | MEASURES


def voc_labels(classes: Sequence[str]) -> dict[str, str]:
    """Return the columns of AP by VOC's curves in `scores_table`, and what each is called in print."""
    labels: dict[str, str] = {}
    for curve, points in VOC.items():
        labels |= {f"{curve}_ap50_{name}": f"AP50 {name}, {points}" for name in classes}
        labels[f"{curve}_map50"] = f"mAP50, {points}"
    return labels


@dataclass(frozen=True)
class _Measure:
    label: str
    higher_is_better: bool = True


def ranked_voc_table(frame: pd.DataFrame) -> PaperTable | None:
    """Return AP50 by both curves of VOC for print, as `ranked_table` does; None for an old table without them."""
    if any(f"{curve}_map50" not in frame for curve in VOC):
        return None
    return _ranked_table(frame, voc_labels(_class_names(frame)))


def ranked_table(frame: pd.DataFrame) -> PaperTable:
    """Return what `scores_table` made for print, with AP50 of each class and both means, and the best three ranked.

    Values that print alike (4 decimals) share a rank; a method with fewer images than another has none and is `short`.
    A cell's detail has the interval, the images and the boxes.

    Raises:
        UserError: No method, or one given twice.
    """
    return _ranked_table(frame, column_labels(_class_names(frame)))


def _class_names(frame: pd.DataFrame) -> list[str]:
    return [name.removeprefix("boxes_") for name in frame.columns if name.startswith("boxes_")]


def _ranked_table(frame: pd.DataFrame, labels: Mapping[str, str]) -> PaperTable:
    """Return the columns of `labels` for print."""
    import pandas as pd

    twice = sorted(set(frame["method"][frame["method"].duplicated()])) if len(frame) else []
    if twice or not len(frame):
        raise UserError(f"methods scored twice: {', '.join(twice)}" if twice else "no method was scored.")
    rows, details = [], {}
    for one in frame.to_dict("records"):
        for name in labels:
            count = f"boxes_{name.partition('ap50_')[2]}" if "_ap50_" in f"_{name}" else "boxes"
            row = {"method": one["method"], "degradation": ALL, "level": ALL, "metric": name, "mean": one[name]}
            rows.append(row | {"std": np.nan, "count": one["images"], "missing": 0})
            interval = f"95 % interval {format_value(one[f'{name}_low'])} to {format_value(one[f'{name}_high'])}"
            details[one["method"], name] = f"{interval}, {one['images']} images, {one[count]} boxes"
    plain = paper_table(pd.DataFrame(rows), metrics={name: _Measure(label) for name, label in labels.items()})
    detailed_rows = []
    for printed in plain.rows:
        pairs = zip(plain.columns, printed.cells, strict=True)
        cells = tuple(replace(cell, detail=details[printed.method, column.metric]) for column, cell in pairs)
        detailed_rows.append(replace(printed, cells=cells))
    return replace(plain, rows=tuple(detailed_rows))
