"""How plots look: palette, line styles, panels, legends, and figures as bytes."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID = "#24292f", "#667079", "#e2e5e9"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7f85")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")  # 11 of them: no pair repeats before 77 names
Dashes = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
DARK = dict(  # ink on light paper -> ink on dark paper
    zip(
        (INK, MUTED, GRID, *PALETTE),
        ("#e3e6ea", "#9aa3ad", "#33393f", "#58a6dd", "#f07f3c", "#2fbf94", "#e3a0c5", "#f0b73f", "#9fd8f8", "#a9afb6"),
        strict=True,
    )
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MAX_LABEL_LETTERS = 40
MAX_CLEAR_LINES = 8  # methods up to which error bars and clean lines are drawn
CLEAN_DASHES = (0, (4, 3))
FULL_WIDTH, PANEL_WIDTH, PANEL_HEIGHT, MAX_COLUMNS = (
    11.48,
    2.6,
    1.75,
    5,
)  # inches (panel width at most), panels in a row


@dataclass(frozen=True)
class Style:
    """How a line of a plot looks. `dashes`: matplotlib's line style."""

    colour: str
    marker: str
    dashes: Dashes


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a line style per name, by its place: give the same names in the same order to every plot of a report."""
    return {
        name: Style(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], DASHES[i // len(PALETTE) % len(DASHES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def to_dark(svg: bytes) -> bytes:
    """Return the same SVG in the colours for dark paper; its background is transparent in both."""
    return re.sub(
        r"((?:fill|stroke): )(#[0-9a-f]{6})", lambda m: m[1] + DARK.get(m[2], m[2]), svg.decode("utf-8")
    ).encode("utf-8")


def css_width(svg: bytes) -> int:
    """Return the natural width of a plot in CSS pixels (matplotlib writes points, 4/3 pixels each)."""
    width = re.search(rb'<svg [^>]*\bwidth="([0-9.]+)pt"', svg)
    if width is None:
        raise ValueError("the SVG has no width in points")
    return round(float(width[1]) * 4 / 3)


def plot_settings() -> AbstractContextManager[None]:
    """Set matplotlib's settings while a plot is drawn; take them back afterwards. The salt makes SVG ids repeatable."""
    settings: AbstractContextManager[None] = mpl.rc_context(
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
    return settings


def panel_grid(
    count: int, keys: Sequence[Artist], share_y: bool, heading: float = 0.0
) -> tuple[Figure, list[Axes], int]:
    """Make a figure of `count` equal panels in even rows of at most five, with room for a legend at its foot.

    `heading`: inches kept free on top. Returns the figure, its panels and the number of panels in a row.
    """
    rows = math.ceil(count / MAX_COLUMNS)
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


def add_heading(figure: Figure, label: str, arrow: str) -> None:
    """Write the name of a metric above the panels, and which direction is better."""
    width, height = figure.get_size_inches()
    hint = {"↑": "↑ higher is better", "↓": "↓ lower is better"}.get(arrow, "")
    where = {"y": 1 - 0.1 / height, "va": "top"}
    figure.text(0.1 / width, s=label, weight="bold", size=10.5, **where)
    figure.text(1 - 0.15 / width, s=hint, ha="right", color=MUTED, **where)


def legend_key(name: str, look: Style, marker: bool = True) -> Line2D:
    """Return a line of this style for a legend."""
    mark = look.marker if marker else ""
    return Line2D([], [], color=look.colour, ls=look.dashes, marker=mark, lw=1.6, ms=4.5, mew=0, label=short_name(name))


def short_name(name: str) -> str:
    """Return the name, cut to `MAX_LABEL_LETTERS`."""
    return name if len(name) <= MAX_LABEL_LETTERS else name[: MAX_LABEL_LETTERS - 1] + "…"


def _legend_columns(keys: Sequence[Artist], width: float) -> int:
    longest = max(len(str(key.get_label())) for key in keys)
    return max(1, min(len(keys), int(width / (0.55 + 0.075 * longest))))


def add_legend(figure: Figure, keys: Sequence[Artist]) -> None:
    """Draw a legend at the foot of a figure of `panel_grid`."""
    columns = _legend_columns(keys, figure.get_figwidth())
    figure.legend(
        handles=keys, loc="lower center", ncols=columns, frameon=False, handlelength=2.4, columnspacing=1.6,
        labelspacing=0.3, borderaxespad=0.1,
    )  # fmt: skip


def save_figure(figure: Figure, format: str) -> bytes:
    """Return the figure as bytes without a date, a version or an address in them."""
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
