"""Score tables: means per method and condition, ranks, and rows ready to print.

A score table is long: one row per `method, image, degradation, level, metric, value`. A *condition* is a
degradation at a level; one method makes one fused image per image and condition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from fusion.errors import UserError
from fusion.metrics import METRICS

COLUMNS = ("method", "image", "degradation", "level", "metric", "value")
FAMILIES = ("noise", "haze", "defocus", "stripes")  # the order in which they are printed, singles before combinations
ALL = "all"
DECIMALS = 4  # printed, and also what a tie is: numbers printed alike share their rank
KEYS = ["method", "degradation", "level", "metric"]


class MetricInfo(Protocol):
    """What a report needs to know of a metric; `fusion.metrics.METRICS` holds such objects by name."""

    @property
    def label(self) -> str:
        """Return the name in print."""

    @property
    def higher_is_better(self) -> bool | None:
        """Return the direction, None where it is not known."""


Metrics = Mapping[str, MetricInfo]


def metric_table(metrics: Metrics | None) -> Metrics:
    """Return `metrics`, or the project's own table for None."""
    return METRICS if metrics is None else metrics


def metric_label(name: str, metrics: Metrics) -> str:
    """Return the name of a metric in print."""
    return metrics[name].label if name in metrics else name.upper()


def metric_arrow(name: str, metrics: Metrics) -> str:
    """Return '↑' if higher is better, '↓' if lower is, '' if that is unknown."""
    better = metrics[name].higher_is_better if name in metrics else None
    return "" if better is None else "↑" if better else "↓"


def format_value(value: float, decimals: int = DECIMALS) -> str:
    """Return `0.5123`; NaN is `n/a`, infinities are `inf` and `-inf`, and there is no `-0.0000`."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}"


def degradation_order(name: str) -> tuple[int, int, tuple[int, ...], str]:
    """Return a sort key: clean, the families, other single names, combinations (short ones first), `all`."""
    parts = name.split("+")
    places = tuple(FAMILIES.index(part) if part in FAMILIES else len(FAMILIES) for part in parts)
    group = {"clean": 0, ALL: 3}.get(name, 1 if len(parts) == 1 else 2)
    return (group, len(parts), places, name)


def level_order(level: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key: by number, part by part ("2+3" after "2+1"); what is not a number comes last."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in level.split("+"))


def check_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the six columns with text keys and float values.

    Raises UserError for missing columns, empty keys, values that are no numbers, a degradation called `all`,
    and for the same score given twice (which would weigh double in a mean).
    """
    absent = [name for name in COLUMNS if name not in scores.columns]
    if absent:
        raise UserError(f"the score table has no column {', '.join(absent)}; it needs {', '.join(COLUMNS)}.")
    frame = scores.loc[:, list(COLUMNS)].reset_index(drop=True)
    for name in COLUMNS[:-1]:
        if frame[name].isna().any():
            row = int(frame[name].isna().to_numpy().argmax())
            raise UserError(f"row {row} of the score table has no {name}; fill it in or drop the row.")
        # A level column read back from CSV may hold 1 or 1.0 where "1" was written.
        frame[name] = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in frame[name].tolist()]
    try:
        frame["value"] = frame["value"].astype(float)
    except (TypeError, ValueError) as error:
        raise UserError(f"the value column of the score table must hold numbers: {error}.") from error
    if (frame["degradation"] == ALL).any():
        raise UserError(f"a degradation in the score table is called '{ALL}', the name of the total; rename it.")
    twice = frame.duplicated(list(COLUMNS[:-1])).to_numpy()
    if twice.any():
        key = " / ".join(frame.loc[int(twice.argmax()), list(COLUMNS[:-1])])
        raise UserError(f"the score table holds {int(twice.sum())} scores twice, first {key}; keep one of each.")
    return frame


def metric_names(frame: pd.DataFrame, metrics: Metrics) -> list[str]:
    """Return the metrics in a table, in the order of `metrics`; unknown ones after them, as they first appear."""
    found = list(dict.fromkeys(frame["metric"]))
    return [name for name in metrics if name in found] + [name for name in found if name not in metrics]


def summarise(scores: pd.DataFrame, metrics: Metrics | None = None) -> pd.DataFrame:
    """Mean, standard deviation (n - 1), `count` and `missing` per method, degradation, level and metric.

    NaN and infinite values never enter a mean: they are counted in `missing`; `count` is the number of images
    the mean is over, and the mean is NaN where that is 0. Rows with degradation and level `all` are over every
    image and condition. Rows: methods as they first appear, then `degradation_order`, `level_order`, and the
    metrics in table order. Raises UserError as `check_scores` does.
    """
    frame = check_scores(scores)
    names = metric_names(frame, metric_table(metrics))
    frame["value"] = frame["value"].where(np.isfinite(frame["value"]))
    both = pd.concat([frame, frame.assign(degradation=ALL, level=ALL)], ignore_index=True)
    grouped = both.groupby(KEYS, sort=False)["value"]
    table = grouped.agg(mean="mean", std="std", count="count").reset_index()
    table["missing"] = grouped.size().to_numpy() - table["count"].to_numpy()
    methods = {name: place for place, name in enumerate(dict.fromkeys(frame["method"]))}
    places = {name: place for place, name in enumerate(names)}
    order = sorted(
        range(len(table)),
        key=lambda i: (
            methods[table["method"].iat[i]],
            degradation_order(table["degradation"].iat[i]),
            level_order(table["level"].iat[i]),
            places[table["metric"].iat[i]],
        ),
    )
    return table.iloc[order].reset_index(drop=True)


def ranking(summary: pd.DataFrame, metrics: Metrics | None = None) -> dict[tuple[str, str, str, str], int]:
    """Ranks 1, 2, 3 by (method, degradation, level, metric), among the methods under one condition.

    Means that print alike (4 decimals) share a rank and the next one is skipped: 1, 1, 3. No rank for metrics without
    a known direction, for missing means and means over fewer images than another method's, and where only one is left.
    """
    table = metric_table(metrics)
    marks: dict[tuple[str, str, str, str], int] = {}
    for (degradation, level, metric), group in summary.groupby(["degradation", "level", "metric"], sort=False):
        better = table[metric].higher_is_better if metric in table else None
        whole = group[group["count"] == group["count"].max()]
        means = {m: round(v, DECIMALS) for m, v in zip(whole["method"], whole["mean"], strict=True) if math.isfinite(v)}
        if better is None or len(means) < 2:
            continue
        for method, mean in means.items():
            rank = 1 + sum(other > mean if better else other < mean for other in means.values())
            if rank <= 3:
                marks[(method, degradation, level, metric)] = rank
    return marks


@dataclass(frozen=True)
class Column:
    """A metric of a printed table. `arrow`: whether higher or lower is better."""

    metric: str
    label: str
    arrow: str


@dataclass(frozen=True)
class Cell:
    """One mean, printed.

    rank    1 to 3, or 0
    short   the mean is over fewer images than another method's
    detail  a sentence with the spread and the counts
    """

    text: str
    rank: int
    short: bool
    detail: str


@dataclass(frozen=True)
class Row:
    """A method of a printed table. `images`: how many its means are over, as text."""

    method: str
    images: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class PaperTable:
    """Methods x metrics under one condition.

    images         the largest number of images a mean is over
    uneven         some mean is over fewer images than another in the same column
    head, counted  titles of the first two columns of print
    """

    degradation: str
    level: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    images: int
    uneven: bool
    head: str = "Method"
    counted: str = "Images"


def paper_table(
    summary: pd.DataFrame, degradation: str = ALL, level: str = ALL, metrics: Metrics | None = None
) -> PaperTable:
    """Return the rows of a printed table for one condition, or over everything.

    Its columns are those of the whole summary, so that the tables of all conditions line up; its rows are the methods
    scored under this condition.
    """
    table = metric_table(metrics)
    names = metric_names(summary, table)
    part = summary[(summary["degradation"] == degradation) & (summary["level"] == level)]
    marks = ranking(part, table)
    entries = {(row["method"], row["metric"]): row for row in part.to_dict("records")}
    most = part.groupby("metric")["count"].max().to_dict()
    rows = []
    for method in dict.fromkeys(part["method"]):
        found = [entries.get((method, name)) for name in names]
        cells = tuple(
            _cell(entry, most.get(name, 0), marks.get((method, degradation, level, name), 0))
            for name, entry in zip(names, found, strict=True)
        )
        counts = [entry["count"] for entry in found if entry is not None]
        images = f"{max(counts)}" if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"
        rows.append(Row(method, images, cells))
    columns = tuple(Column(name, metric_label(name, table), metric_arrow(name, table)) for name in names)
    uneven = any(cell.short for row in rows for cell in row.cells)
    return PaperTable(degradation, level, columns, tuple(rows), max(most.values(), default=0), uneven)


def _cell(entry: dict[str, Any] | None, most: int, rank: int) -> Cell:
    """`entry` is a row of the summary, or None where the method was not scored by the metric."""
    if entry is None:
        return Cell("–", 0, most > 0, "not scored")
    count, missing = entry["count"], entry["missing"]
    spread = "" if math.isnan(entry["std"]) else f"standard deviation {format_value(entry['std'])}, "
    detail = f"{spread}{count} image{'s' * (count != 1)}" + (f", {missing} not finite" if missing else "")
    return Cell(format_value(entry["mean"]), rank, count < most, detail)


def missing_notes(scores: pd.DataFrame, metrics: Metrics | None = None) -> list[str]:
    """One sentence per method and group of metrics that stand over other images than the rest: how many, which first.

    The yardstick of a metric is every image and condition for which any method has a row of it.
    """
    table = metric_table(metrics)
    frame = check_scores(scores)
    frame["key"] = list(zip(frame["image"], frame["degradation"], frame["level"], strict=True))
    gaps: dict[tuple[str, tuple[Any, ...], tuple[Any, ...], int], list[str]] = {}
    methods = list(dict.fromkeys(frame["method"]))
    for metric in metric_names(frame, table):
        part = frame[frame["metric"] == metric]
        wanted = list(dict.fromkeys(part["key"]))
        for method in methods:
            values = dict(
                zip(part["key"][part["method"] == method], part["value"][part["method"] == method], strict=True)
            )
            unscored = tuple(key for key in wanted if key not in values)
            broken = tuple(key for key in wanted if key in values and not math.isfinite(values[key]))
            if unscored or broken:
                gaps.setdefault((method, unscored, broken, len(wanted)), []).append(metric_label(metric, table))
    notes = []
    for (method, unscored, broken, total), labels in gaps.items():
        ways = [f"{len(broken)} not finite"] * bool(broken) + [f"{len(unscored)} not scored"] * bool(unscored)
        image, degradation, level = (broken + unscored)[0]
        where = f"{image}, {degradation}" + ("" if degradation == "clean" else f", level {level}")
        notes.append(
            f"{method}, {', '.join(labels)}: {' and '.join(ways)} of {total} fused images "
            f"(first: {where}); left out of the mean."
        )
    return notes
