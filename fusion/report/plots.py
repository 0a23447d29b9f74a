"""Plots as SVG or PNG bytes: a metric over the degradation level, and training curves.

Drawn with matplotlib's object API, so no global figure is left behind; the same input gives the same bytes.
The palette is Okabe and Ito's (2008), which stays apart for colour-blind readers, without its yellow and black, which
do not show on white or on dark paper. Markers, then dashes, tell apart what shares a colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from fusion.errors import UserError
from fusion.report.style import (
    CLEAN_DASHES,
    MAX_CLEAR_LINES,
    MUTED,
    Style,
    add_heading,
    add_legend,
    legend_key,
    panel_grid,
    plot_settings,
    save_figure,
    short_name,
    styles,
)
from fusion.report.tables import ALL, Metrics, degradation_order, level_order, metric_arrow, metric_label, metric_table


def level_families(summary: pd.DataFrame) -> list[str]:
    """Return the degradations with at least two levels, in printing order: those that `metric_over_level` can draw."""
    levels = summary[~summary["degradation"].isin(["clean", ALL])].groupby("degradation")["level"].nunique()
    return sorted((name for name, count in levels.items() if count > 1), key=degradation_order)


def metric_over_level(
    summary: pd.DataFrame, metric: str, *, metrics: Metrics | None = None, format: str = "svg"
) -> bytes:
    """One panel per degradation with levels, one line per method: mean and standard error of the mean (std / sqrt n).

    The mean on clean input, if it was scored, is a dashed line. More than eight methods are drawn as bare lines, which
    can still be followed. Raises UserError if no degradation has two levels.
    """
    part = summary[summary["metric"] == metric]
    families = level_families(part)
    if not families:
        raise UserError(f"{metric} cannot be drawn over the level: no degradation was scored at two levels or more.")
    table = metric_table(metrics)
    look = styles(summary["method"])
    methods = [name for name in look if name in set(part["method"])]
    found = {(row["method"], row["degradation"], row["level"]): row for row in part.to_dict("records")}
    few = len(methods) <= MAX_CLEAR_LINES
    clean = {m: row["mean"] for (m, d, _), row in found.items() if d == "clean" and math.isfinite(row["mean"]) and few}
    keys = [legend_key(name, look[name]) for name in methods]
    if clean:
        keys.append(Line2D([], [], color=MUTED, lw=0.9, ls=CLEAN_DASHES, label="on clean input"))
    with plot_settings():
        figure, axes, columns = panel_grid(len(families), keys, share_y=True, heading=0.32)
        for axis, family in zip(axes, families, strict=True):
            levels = sorted({level for _, degradation, level in found if degradation == family}, key=level_order)
            for place, method in enumerate(methods):
                rows = [found.get((method, family, level), {}) for level in levels]
                mean = np.array([row.get("mean", math.nan) for row in rows])
                error = np.array([row["std"] / math.sqrt(row["count"]) if row.get("count") else 0.0 for row in rows])
                # Error bars of methods that lie close together are kept apart by a small step to the side.
                shift = (place - (len(methods) - 1) / 2) * 0.07 if few else 0.0
                x = np.arange(len(levels)) + shift
                _line(axis, x, mean, look[method], error=np.nan_to_num(error) if few else None)
            colours = [look[method].colour for method in clean]
            reach = (-0.4, len(levels) - 0.6)
            axis.hlines(list(clean.values()), *reach, colors=colours, lw=0.9, ls=CLEAN_DASHES, alpha=0.6, zorder=1)
            axis.set_title(family)
            axis.set_xticks(range(len(levels)), levels, size=7 if max(map(len, levels)) > 4 else 8.5)
            axis.set_xlim(*reach)
        for axis in axes[-columns:]:
            axis.set_xlabel("level")
        add_heading(figure, metric_label(metric, table), metric_arrow(metric, table))
        add_legend(figure, keys)
        return save_figure(figure, format)


def training_curves(log: pd.DataFrame, *, order: Sequence[str] = (), format: str = "svg") -> bytes:
    """One panel per quantity of a log with columns `run, epoch, name, value`; the runs are lines.

    `train/l1` and `val/l1` share the panel `l1`: training is thin, validation is bold. A panel whose positive values
    span more than two decades has a logarithmic axis; values that are not finite are gaps. `order` names the runs (or
    methods) whose colours are already given away in the same report. Raises UserError for an empty log or one
    without these columns.
    """
    absent = [name for name in ("run", "epoch", "name", "value") if name not in log.columns]
    if absent or log.empty:
        what = f"has no column {', '.join(absent)}" if absent else "is empty"
        raise UserError(f"the training log {what}; it needs rows of run, epoch, name, value.")
    log = log.assign(run=log["run"].astype(str), name=log["name"].astype(str), value=log["value"].astype(float))
    splits = [name.partition("/") for name in log["name"]]
    log["split"] = [head if head in ("train", "val") and tail else "" for head, _, tail in splits]
    log["panel"] = [t if s else name for (_, _, t), s, name in zip(splits, log["split"], log["name"], strict=True)]
    panels = list(dict.fromkeys(log["panel"]))
    runs = list(dict.fromkeys(log["run"]))
    look = styles([*order, *runs])
    keys = [legend_key(run, look[run], marker=False) for run in runs]
    if {"train", "val"} <= set(log["split"]):
        keys += [Line2D([], [], color=MUTED, lw=0.9, alpha=0.75, label="training")]
        keys += [Line2D([], [], color=MUTED, lw=2.0, label="validation")]
    with plot_settings():
        figure, axes, columns = panel_grid(len(panels), keys, share_y=False)
        for axis, panel in zip(axes, panels, strict=True):
            part = log[log["panel"] == panel]
            for (run, split), rows in part.groupby(["run", "split"], sort=False):
                rows = rows.sort_values("epoch", kind="stable")
                values = rows["value"].where(np.isfinite(rows["value"])).to_numpy()
                _line(axis, rows["epoch"].to_numpy(), values, look[run], thin=split == "train")
            finite = part["value"][np.isfinite(part["value"])]
            if finite.empty:
                axis.text(0.5, 0.5, "no finite value", ha="center", va="center", color=MUTED, transform=axis.transAxes)
            elif finite.min() > 0 and finite.max() / finite.min() > 100:
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the default writes TeX
                axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_title(short_name(panel))
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axis in axes[-columns:]:
            axis.set_xlabel("epoch")
        add_legend(figure, keys)
        return save_figure(figure, format)


def _line(
    axis: Axes, x: np.ndarray, y: np.ndarray, look: Style, *, error: np.ndarray | None = None, thin: bool = False
) -> None:
    marker = look.marker if len(x) <= 12 else ""
    width, size, alpha = (0.9, 2.5, 0.75) if thin else (1.6, 4.0, 1.0)
    axis.plot(x, y, color=look.colour, ls=look.dashes, lw=width, marker=marker, ms=size, mew=0, alpha=alpha)
    if error is not None:
        axis.vlines(x, y - error, y + error, colors=look.colour, lw=1.0)
