"""Plots as SVG or PNG bytes: a metric over the degradation level, and training curves.

Drawn with matplotlib's object API, so no global figure is left behind; the same input gives the same bytes.
The palette is Okabe and Ito's (2008), which stays apart for colour-blind readers, without its yellow and black, which
do not show on white or on dark paper. Markers, then dashes, tell apart what shares a colour.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from fusion.errors import UserError
from fusion.report.tables import ALL, Metrics, degradation_order, level_order, metric_arrow, metric_label, metric_table

INK, MUTED, GRID = "#24292f", "#667079", "#e2e5e9"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7f85")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")  # 11 of them: no pair repeats before 77 names
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
DARK = dict(  # ink on light paper -> ink on dark paper
    zip(
        (INK, MUTED, GRID, *PALETTE),
        ("#e3e6ea", "#9aa3ad", "#33393f", "#58a6dd", "#f07f3c", "#2fbf94", "#e3a0c5", "#f0b73f", "#9fd8f8", "#a9afb6"),
        strict=True,
    )
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LABEL_LENGTH = 40
FEW = 8  # methods up to which error bars and clean lines are drawn
CLEAN_DASHES = (0, (4, 3))
FULL_WIDTH, PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 11.48, 2.6, 1.75, 5  # inches (panel width at most), panels in a row


@dataclass(frozen=True)
class Style:
    colour: str
    marker: str
    dashes: str | tuple


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a line style per name, by its place: give the same names in the same order to every plot of a report."""
    return {
        name: Style(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], DASHES[i // len(PALETTE) % len(DASHES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


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
    few = len(methods) <= FEW
    clean = {m: row["mean"] for (m, d, _), row in found.items() if d == "clean" and math.isfinite(row["mean"]) and few}
    keys = [_key(name, look[name]) for name in methods]
    if clean:
        keys.append(Line2D([], [], color=MUTED, lw=0.9, ls=CLEAN_DASHES, label="on clean input"))
    with _settings():
        figure, axes, columns = _panels(len(families), keys, share_y=True, heading=0.32)
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
        _heading(figure, metric_label(metric, table), metric_arrow(metric, table))
        _legend(figure, keys)
        return _save(figure, format)


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
    keys = [_key(run, look[run], marker=False) for run in runs]
    if {"train", "val"} <= set(log["split"]):
        keys += [Line2D([], [], color=MUTED, lw=0.9, alpha=0.75, label="training")]
        keys += [Line2D([], [], color=MUTED, lw=2.0, label="validation")]
    with _settings():
        figure, axes, columns = _panels(len(panels), keys, share_y=False)
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
            axis.set_title(_short(panel))
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axis in axes[-columns:]:
            axis.set_xlabel("epoch")
        _legend(figure, keys)
        return _save(figure, format)


def to_dark(svg: bytes) -> bytes:
    """Return the same SVG in the colours for dark paper; its background is transparent in both."""
    return re.sub(
        r"((?:fill|stroke): )(#[0-9a-f]{6})", lambda m: m[1] + DARK.get(m[2], m[2]), svg.decode("utf-8")
    ).encode("utf-8")


def css_width(svg: bytes) -> int:
    """Return the natural width of a plot in CSS pixels (matplotlib writes points, 4/3 pixels each)."""
    return round(float(re.search(rb'<svg [^>]*\bwidth="([0-9.]+)pt"', svg)[1]) * 4 / 3)


def _settings():
    """Matplotlib's settings while a plot is drawn; taken back afterwards. The salt makes SVG ids repeatable."""
    return mpl.rc_context(
        {
            **{key: INK for key in ("text.color", "axes.titlecolor")},
            **{key: MUTED for key in ("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")},
            **{key: GRID for key in ("axes.edgecolor", "xtick.color", "ytick.color", "grid.color")},
            "font.size": 8.5,
            "font.family": "DejaVu Sans",  # comes with matplotlib: the same measures everywhere
            "axes.titlesize": 9.5,
            "axes.unicode_minus": True,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "svg.fonttype": "none",  # real text: small, searchable, and any script a browser has
            "svg.hashsalt": "duskfuse",
            "text.parse_math": False,  # a name may hold a dollar sign
        }
    )


def _panels(count: int, keys: Sequence[Line2D], share_y: bool, heading: float = 0.0) -> tuple[Figure, list[Axes], int]:
    """Make a figure of `count` equal panels in even rows of at most five.

    There is room for a heading and for the legend at
    its foot, and the number of panels in a row. Sizes in inches.
    """
    rows = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows)
    left, right, top, bottom = 0.6, 0.15, 0.3 + heading, 0.45
    gap_x, gap_y = (0.2, 0.55) if share_y else (0.5, 0.6)
    panel = min(PANEL_WIDTH, (FULL_WIDTH - left - right - (columns - 1) * gap_x) / columns)
    width = left + columns * panel + (columns - 1) * gap_x + right
    foot = 0.12 + 0.2 * math.ceil(len(keys) / _legend_columns(keys, width))
    height = top + rows * PANEL_HEIGHT + (rows - 1) * gap_y + bottom + foot
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        rows,
        columns,
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=(bottom + foot) / height,
        wspace=gap_x / panel,
        hspace=gap_y / PANEL_HEIGHT,
    )
    axes: list[Axes] = []
    for i in range(count):
        axis = figure.add_subplot(grid[divmod(i, columns)], sharey=axes[0] if share_y and axes else None)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="y", lw=0.7)
        axis.set_axisbelow(True)
        axis.tick_params(length=0)
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.tick_params(labelleft=not share_y or i % columns == 0)
        axes.append(axis)
    return figure, axes, columns


def _heading(figure: Figure, label: str, arrow: str) -> None:
    width, height = figure.get_size_inches()
    hint = {"↑": "↑ higher is better", "↓": "↓ lower is better"}.get(arrow, "")
    where = {"y": 1 - 0.1 / height, "va": "top"}
    figure.text(0.1 / width, s=label, weight="bold", size=10.5, **where)
    figure.text(1 - 0.15 / width, s=hint, ha="right", color=MUTED, **where)


def _line(axis: Axes, x: np.ndarray, y: np.ndarray, look: Style, *, error=None, thin: bool = False) -> None:
    marker = look.marker if len(x) <= 12 else ""
    width, size, alpha = (0.9, 2.5, 0.75) if thin else (1.6, 4.0, 1.0)
    axis.plot(x, y, color=look.colour, ls=look.dashes, lw=width, marker=marker, ms=size, mew=0, alpha=alpha)
    if error is not None:
        axis.vlines(x, y - error, y + error, colors=look.colour, lw=1.0)


def _key(name: str, look: Style, marker: bool = True) -> Line2D:
    mark = look.marker if marker else ""
    return Line2D([], [], color=look.colour, ls=look.dashes, marker=mark, lw=1.6, ms=4.5, mew=0, label=_short(name))


def _short(name: str) -> str:
    return name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 1] + "…"


def _legend_columns(keys: Sequence[Line2D], width: float) -> int:
    longest = max(len(key.get_label()) for key in keys)
    return max(1, min(len(keys), int(width / (0.55 + 0.075 * longest))))


def _legend(figure: Figure, keys: list[Line2D]) -> None:
    columns = _legend_columns(keys, figure.get_figwidth())
    figure.legend(
        handles=keys, loc="lower center", ncols=columns, frameon=False, handlelength=2.4, columnspacing=1.6,
        labelspacing=0.3, borderaxespad=0.1,
    )  # fmt: skip


def _save(figure: Figure, format: str) -> bytes:
    """Bytes without a date, a version or an address in them."""
    buffer = io.BytesIO()
    if format == "png":
        figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
        return buffer.getvalue()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", buffer.getvalue().decode(), flags=re.S)
    # A hundredth of a point is fine enough, and a third smaller.
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text)
    # Measured in DejaVu, which is wide; shown in the reader's own font, as the page around it.
    return re.sub(r"'DejaVu Sans'[^;\"]*", FONT, text).encode("utf-8")
