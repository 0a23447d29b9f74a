"""Parallel coordinates: each trial of a search a line over its parameters, coloured by what came out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fusion.errors import UserError
from fusion.report.style import FULL_WIDTH, MUTED, PALETTE, plot_settings, save_figure
from fusion.report.trials import FAILED, FINISHED, TRIALS, check, column, finite, higher_is_better, label_of

# bad to good; middling lightness throughout, so that it shows on white and on dark paper
COLOURS = LinearSegmentedColormap.from_list("search", [PALETTE[0], PALETTE[6], PALETTE[1]])
TEXT_LENGTH = 16
CURVE = 24  # points of a bend between two axes


@dataclass(frozen=True)
class Scale:
    """One axis: where each trial crosses it (0..1, NaN: nowhere), and what is written beside it."""

    places: np.ndarray
    ticks: tuple[tuple[float, str], ...]


def parallel_coordinates(
    trials: pd.DataFrame, parameters: Sequence[str], objective: str, *, log: Sequence[str] = (), format: str = "svg"
) -> bytes:
    """Draw a line per trial over the axes of the parameters and, last, the objective; the best that finished is bold.

    Failed trials and trials without an objective are left out and counted; dashed lines were stopped early. Text and
    truth values are categories. `log` names parameters for a logarithmic axis; one with a value that is not positive
    stays linear. Raises UserError for a table without these columns or rows, and where no trial has an objective.
    """
    check(trials, "trials", (*TRIALS, *parameters), [objective])
    values = finite(trials[column(objective)])
    chosen = (trials["state"] != FAILED).to_numpy() & np.isfinite(values)
    if not chosen.any():
        raise UserError(f"no trial has a value of {objective}; there is nothing to draw.")
    kept, values, left_out = trials[chosen], values[chosen], int((~chosen).sum())
    scales = [scale_of(kept[name], name in log) for name in parameters] + [numeric(values, False)]
    goodness = values if higher_is_better(objective) else -values
    low, high = float(goodness.min()), float(goodness.max())
    colours = COLOURS((goodness - low) / (high - low) if high > low else np.ones(len(values)))
    finished = (kept["state"] == FINISHED).to_numpy()
    with plot_settings():
        width = min(FULL_WIDTH, max(5.5, 1.7 * len(scales)))
        figure = Figure(figsize=(width, 4.2), layout="constrained")
        axis = figure.add_subplot()
        axis.set_axis_off()
        order = np.lexsort((goodness, finished))  # the best on top; one that finished, if any did
        for rank, place in enumerate(order):
            best = rank == len(order) - 1
            x, y = bend([scale.places[place] for scale in scales])
            style: dict[str, Any] = {"lw": 2.6 if best else 1.2, "alpha": 1.0 if best else 0.75}
            axis.plot(x, y, color=colours[place], ls="-" if finished[place] else (0, (3, 2)), **style)
        for place, scale in enumerate(scales):
            axis.plot([place, place], [0, 1], color=MUTED, lw=1.0, zorder=3)
            last = place == len(scales) - 1
            for height, text in scale.ticks:
                short = text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"
                axis.plot([place - 0.015, place + 0.015], [height] * 2, color=MUTED, lw=1.0, zorder=3)
                # beside the last axis; else above its tick, where lines that come together are flat, the lowest below
                spot, where = ((5, 0), "center") if last else ((4, 2), "bottom") if height > 0 else ((4, -3), "top")
                axis.annotate(short, (place, height), spot, textcoords="offset points", va=where, size=7.5, zorder=6)
            name = label_of(objective) if last else parameters[place].replace(".", ".\n")
            axis.annotate(
                name, (place, 1), (0, 15), textcoords="offset points", ha="center", va="bottom", weight="bold"
            )
        axis.set_xlim(-0.15, len(scales) - 1 + 0.35)
        axis.set_ylim(-0.04, 1.04)
        good = "↑ higher is better" if higher_is_better(objective) else "↓ lower is better"
        notes = [f"{len(kept)} trials", f"{label_of(objective)}: {good}"]
        notes += [f"{left_out} failed or without a value"] if left_out else []
        notes += ["dashed: stopped early"] if not finished.all() else []
        figure.supxlabel(", ".join(notes), size=8, color=MUTED)
        return save_figure(figure, format)


def scale_of(values: pd.Series, log: bool) -> Scale:
    """Numbers on a scale; anything else as categories, in the order of their first appearance."""
    items = values.tolist()
    if all(isinstance(item, int | float | np.number) and not isinstance(item, bool) for item in items):
        return numeric(np.array(items, float), log)
    names = list(dict.fromkeys(map(str, items)))
    heights = {name: place / (len(names) - 1) if len(names) > 1 else 0.5 for place, name in enumerate(names)}
    return Scale(np.array([heights[str(item)] for item in items]), tuple((h, name) for name, h in heights.items()))


def numeric(values: np.ndarray, log: bool) -> Scale:
    """Scale values (N) between the smallest and the largest; up to eight different ones are all written."""
    there = np.unique(values[np.isfinite(values)])
    log = log and len(there) > 0 and there[0] > 0
    if not len(there):
        return Scale(np.full(len(values), np.nan), ())
    if len(there) == 1:
        return Scale(np.where(np.isfinite(values), 0.5, np.nan), ((0.5, f"{there[0]:.4g}"),))
    scaled = np.log if log else np.asarray
    low, high = float(scaled(there[0])), float(scaled(there[-1]))
    if len(there) <= 8:
        ticks = list(there)
    elif log:
        steps = range(math.floor(math.log10(there[0])), math.ceil(math.log10(there[-1])) + 1)
        ticks = [one for e in steps for one in (10.0**e, 3 * 10.0**e) if there[0] <= one <= there[-1]]
        ticks = [there[0], *ticks, there[-1]]
    else:
        inside = [t for t in MaxNLocator(5).tick_values(there[0], there[-1]) if there[0] <= t <= there[-1]]
        ticks = [there[0], *inside, there[-1]]
    heights = [(float((scaled(tick) - low) / (high - low)), f"{tick:.4g}") for tick in ticks]
    return Scale((scaled(values) - low) / (high - low), _apart(heights))


def _apart(ticks: list[tuple[float, str]], least: float = 0.045) -> tuple[tuple[float, str], ...]:
    """Without those that would be written over another; the ends stay."""
    kept = [ticks[0], ticks[-1]]
    for tick in ticks[1:-1]:
        if all(abs(tick[0] - other[0]) >= least for other in kept):
            kept.append(tick)
    return tuple(sorted(kept))


def bend(places: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth line through the places, one a unit apart, so that lines can be followed through an axis."""
    t = np.linspace(0, 1, CURVE)
    ease = t * t * (3 - 2 * t)
    x = np.concatenate([place + t for place in range(len(places) - 1)]) if len(places) > 1 else np.zeros(1)
    y = [a + (b - a) * ease for a, b in itertools.pairwise(places)]
    return x, np.concatenate(y) if y else np.asarray(places, float)
