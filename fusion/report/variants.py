"""The bubble picture of AE-Netv2's study: quality over time, the size of a bubble for the size of a network."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fusion.errors import UserError
from fusion.report.plots import MUTED, PALETTE, _save, _settings

COLUMNS = ("block", "e2", "e2_sd", "ms", "size_mb")


def bubbles(table: pd.DataFrame, *, format: str = "svg") -> bytes:
    """One bubble a row of `table`: block, e2, e2_sd (an error bar where it is a number), ms, size_mb (its area).

    Raises UserError for a table without these columns or rows.
    """
    absent = [name for name in COLUMNS if name not in table.columns]
    if absent or table.empty:
        what = f"has no column {', '.join(absent)}" if absent else "is empty"
        raise UserError(f"the table of variants {what}; it needs rows of {', '.join(COLUMNS)}.")
    area = 60 + 900 * table["size_mb"].to_numpy() / table["size_mb"].max()
    with _settings():
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axis = figure.add_subplot()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(lw=0.7)
        axis.set_axisbelow(True)
        spread = np.nan_to_num(table["e2_sd"].to_numpy(float))
        axis.errorbar(table["ms"], table["e2"], spread, fmt="none", ecolor=MUTED, elinewidth=0.9)
        colours = [PALETTE[i % len(PALETTE)] for i in range(len(table))]
        axis.scatter(table["ms"], table["e2"], s=area, c=colours, alpha=0.75, linewidths=0)
        for row, size in zip(table.to_dict("records"), area, strict=True):
            text = f"{row['block']} ({row['size_mb']:.3g} MB)"
            offset = (0, np.sqrt(size / np.pi) + 3)
            axis.annotate(text, (row["ms"], row["e2"]), offset, textcoords="offset points", ha="center", size=7.5)
        axis.margins(0.12, 0.15)
        axis.set_xlabel("milliseconds at 400 x 400, plain PyTorch, one CPU thread")
        axis.set_ylabel("E2 (higher is better)")
        return _save(figure, format)
