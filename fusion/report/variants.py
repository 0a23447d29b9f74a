"""AE-Netv2's study: what networks cost and how well they fuse, as tables and as a picture.

In the picture quality stands over time, and the size of a bubble for the size of a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from fusion.errors import UserError
from fusion.report.style import MUTED, PALETTE, plot_settings, save_figure
from fusion.report.tables import Cell, Column, PaperTable, Row, format_value

COLUMNS = ("block", "e2", "e2_sd", "ms", "size_mb")
GAP = 3.0  # points between a bubble and its label
STEPS = (0.0, 8.0, 16.0, 26.0, 40.0)  # points further away where there is no room
SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of the bubble: above, below, ...


def costs_table(costs: pd.DataFrame) -> PaperTable:
    """Return a row for each network: parameters, parameters x pixels, multiply-adds."""
    columns = (
        Column("parameters_x_pixels", "Parameters x pixels", "↓"),
        Column("multiply_adds", "Multiply-adds", "↓"),
    )
    rows = tuple(
        Row(one["network"], f"{one['parameters']:,}", tuple(_plain(f"{one[column.metric]:,}") for column in columns))
        for one in costs.to_dict("records")
    )
    return PaperTable("", "", columns, rows, 1, False, head="Network", counted="Parameters")


def quality_table(table: pd.DataFrame) -> PaperTable:
    """Return a row for each block of AE-Netv2: E2, its deviation over the seeds, time, size."""
    columns = (
        Column("e2", "E2", "↑"),
        Column("e2_sd", "deviation", ""),
        Column("ms", "ms, one CPU thread", "↓"),
        Column("size_mb", "MB with Adam's state", "↓"),
    )
    rows = tuple(
        Row(one["block"], f"{one['seeds']}", tuple(_plain(format_value(one[column.metric], 3)) for column in columns))
        for one in table.to_dict("records")
    )
    return PaperTable("", "", columns, rows, int(table["seeds"].max()), False, head="Block", counted="Seeds")


def _plain(text: str) -> Cell:
    return Cell(text, 0, False, "")


def bubbles(table: pd.DataFrame, *, format: str = "svg") -> bytes:
    """One bubble a row of `table`: block, e2, e2_sd (an error bar where it is a number), ms, size_mb (its area).

    Labels lie beside their bubbles where they hide nothing, further away, with a line, where it is crowded. Raises
    UserError for a table without these columns or rows.
    """
    absent = [name for name in COLUMNS if name not in table.columns]
    if absent or table.empty:
        what = f"has no column {', '.join(absent)}" if absent else "is empty"
        raise UserError(f"the table of variants {what}; it needs rows of {', '.join(COLUMNS)}.")
    area = 60 + 900 * table["size_mb"].to_numpy() / table["size_mb"].max()
    with plot_settings():
        figure = Figure(figsize=(7.5, 4.6), dpi=288, layout="constrained")  # fine, to measure letters
        FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(lw=0.7)
        axis.set_axisbelow(True)
        spread = np.nan_to_num(table["e2_sd"].to_numpy(float))
        axis.errorbar(table["ms"], table["e2"], spread, fmt="none", ecolor=MUTED, elinewidth=0.9)
        colours = np.array([PALETTE[i % len(PALETTE)] for i in range(len(table))])
        order = np.argsort(-area)  # small ones on top
        drawn = table.iloc[order]
        axis.scatter(drawn["ms"], drawn["e2"], s=area[order], c=colours[order], alpha=0.75, linewidths=0)
        axis.margins(0.12, 0.15)
        axis.set_xlabel("milliseconds at 400 x 400, plain PyTorch, one CPU thread")
        axis.set_ylabel("E2 (higher is better)")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # labels stay inside
        _label(axis, table, np.sqrt(area / np.pi), spread)
        return save_figure(figure, format)


def _label(axis: Axes, table: pd.DataFrame, radii: np.ndarray, spread: np.ndarray) -> None:
    """Return a label a bubble, at the first place where it covers no bubble, no label, and no error bar if that can be.

    All sizes in points.
    """
    unit = axis.figure.dpi / 72
    points = axis.transData.transform(table[["ms", "e2"]].to_numpy(float)) / unit
    ends = axis.transData.transform(np.stack([table["ms"], table["e2"] + spread], axis=1))[:, 1] / unit
    taken = [Bbox.from_extents(x - r, y - r, x + r, y + r) for (x, y), r in zip(points, radii, strict=True)]
    bars = [Bbox.from_extents(x - 1, 2 * y - end, x + 1, end) for (x, y), end in zip(points, ends, strict=True)]
    inside = Bbox(axis.get_window_extent().get_points() / unit)
    for row, point, radius in zip(table.to_dict("records"), points, radii, strict=True):
        text = axis.annotate(
            f"{row['block']} ({row['size_mb']:.3g} MB)", (row["ms"], row["e2"]), (0, 0), textcoords="offset points",
            ha="center", va="center", size=7.5,
        )  # fmt: skip
        extent = text.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2 / unit
        places = [place for place in _places(point, radius, half) if _within(place[2], inside)]
        free = [place for place in places if not place[2].count_overlaps(taken)]
        best = [place for place in free if not place[2].count_overlaps(bars)]
        offset, far, box = [*best, *free, *places, *_places(point, radius, half)][0]
        text.set_position(tuple(offset))
        taken.append(box)
        if far:
            start, end = offset * (radius / np.hypot(*offset)), offset - np.sign(offset) * half
            ways = axis.transData.inverted().transform([(point + start) * unit, (point + end) * unit])
            axis.plot(ways[:, 0], ways[:, 1], color=MUTED, lw=0.6, scalex=False, scaley=False)


def _places(point: np.ndarray, radius: float, half: np.ndarray) -> Iterator[tuple[np.ndarray, bool, Bbox]]:
    """(offset of the label's middle, whether it needs a line, its box), the nearest first."""
    for step in STEPS:
        for side in SIDES:
            way = np.array(side, float)
            reach = (radius + GAP + step) / np.hypot(*way)
            offset = way * (reach + half)
            yield offset, step > STEPS[1], _box(point + offset, half)


def _box(middle: Sequence[float], half: np.ndarray) -> Bbox:
    return Bbox([middle - half, middle + half])


def _within(box: Bbox, outer: Bbox) -> bool:
    return bool(outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1)
