"""Pictures of a search: metrics over the setting, parallel coordinates, learning curves, the Pareto front.

What goes in, the tables of trials and of curves, is told in `trials.py`, whose `summary` and `pareto_front` are here
too. Failed trials are never drawn. Trials that were stopped early are drawn hollow or dashed, as their values are of an
earlier epoch; they enter no mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from fusion.errors import UserError
from fusion.report.parallel import parallel_coordinates
from fusion.report.style import (
    FULL_WIDTH,
    MAX_CLEAR_LINES,
    MUTED,
    PALETTE,
    PANEL_WIDTH,
    plot_settings,
    save_figure,
    short_name,
    styles,
)
from fusion.report.style import MAX_COLUMNS as MOST_COLUMNS
from fusion.report.trials import (
    CURVES,
    FAILED,
    FINISHED,
    TRIALS,
    check,
    column,
    finite,
    higher_is_better,
    label_of,
    mean_and_sd,
    pareto_front,
    summary,
)

PLAIN, BEST = PALETTE[0], PALETTE[1]
TICK = 0.3  # inches a setting takes on an axis
LETTER = 0.062  # inches of width of a letter at 7.5 points
LINE = 0.14  # inches of height of such a line


def settings_figure(trials: pd.DataFrame, metrics: Sequence[str], *, format: str = "svg") -> bytes:
    """One panel per metric over the setting: mean over the seeds, the seeds as points, the standard deviation as bars.

    As Fig. 7 (experts) and Fig. 8 (weight of the gradient) of MoE-Fusion. Settings are told apart by `label` and stay
    in the order of the table; the best mean is marked. Raises UserError for a table without these columns or rows.
    """
    check(trials, "trials", TRIALS, metrics)
    if not metrics:
        raise UserError("no metric was named to draw over the setting.")
    labels = list(dict.fromkeys(trials["label"].astype(str)))
    shared, ticks = _without_shared_word(labels)
    longest = max(map(len, ticks))
    turned = longest * LETTER > TICK
    panel = max(PANEL_WIDTH if len(metrics) > 1 else 1.6 * PANEL_WIDTH, 0.5 + TICK * len(labels))
    columns = max(1, min(MOST_COLUMNS, len(metrics), int(FULL_WIDTH / panel)))
    rows = -(-len(metrics) // columns)
    height = 2.1 + (min(longest, 30) * LETTER if turned else 0)
    kept = trials[trials["state"] != FAILED]
    stopped = bool((kept["state"] != FINISHED).any())
    seeds = bool(kept["label"].astype(str).duplicated().any())
    with plot_settings():
        figure = Figure(figsize=(columns * min(panel, FULL_WIDTH), rows * height + 0.35), layout="constrained")
        for i, metric in enumerate(metrics):
            axis = _axis(figure.add_subplot(rows, columns, i + 1))
            _over_settings(axis, kept, labels, metric)
            axis.set_title(f"{label_of(metric)} {'↑' if higher_is_better(metric) else '↓'}")
            short = [tick if len(tick) <= 30 else tick[:29] + "…" for tick in ticks]
            axis.set_xticks(range(len(labels)), short, rotation=90 if turned else 0, size=7.5)
            axis.set_xlim(-0.6, len(labels) - 0.4)
            axis.set_xlabel(shared)
        text = "mean over seeds ± standard deviation" if seeds else "one seed"
        keys = [Line2D([], [], color=PLAIN, marker="o", ms=5, lw=1.2, label=text)]
        keys += [Line2D([], [], color=BEST, marker="D", ms=5, lw=0, label="best mean" if seeds else "best")]
        if seeds:
            keys.append(Line2D([], [], color=MUTED, marker="o", ms=3, lw=0, label="single seed"))
        if stopped:
            keys.append(Line2D([], [], color=MUTED, marker="o", mfc="none", ms=3.5, lw=0, label="stopped early"))
        _foot(figure, keys)
        return save_figure(figure, format)


def _over_settings(axis: Axes, trials: pd.DataFrame, labels: Sequence[str], metric: str) -> None:
    values, means, spreads = finite(trials[column(metric)]), [], []
    finished = (trials["state"] == FINISHED).to_numpy()
    for place, label in enumerate(labels):
        mine = (trials["label"].astype(str) == label).to_numpy()
        mean, spread, _ = mean_and_sd(values[mine & finished])
        means.append(mean)
        spreads.append(np.nan_to_num(spread))
        for which, fill in ((finished, MUTED), (~finished, "none")):
            points = values[mine & which]
            if fill == MUTED and len(points) == 1:
                continue  # it is the mean
            side = place + 0.18  # beside the mean, not under it
            axis.plot([side] * len(points), points, "o", ms=3, color=MUTED, mfc=fill, mew=0 if fill == MUTED else 0.8)
    means_N = np.array(means)
    axis.errorbar(range(len(labels)), means_N, spreads, color=PLAIN, marker="o", ms=5, lw=1.2, elinewidth=1.2, mew=0)
    if np.isfinite(means_N).any():
        best = np.nanargmax(means_N if higher_is_better(metric) else -means_N)
        axis.plot(best, means_N[best], "D", color=BEST, ms=6, mew=0, zorder=5)
    elif not np.isfinite(values).any():
        _nothing(axis)


def _without_shared_word(labels: Sequence[str]) -> tuple[str, list[str]]:
    """("alpha", ["1", "5"]) for ["alpha 1", "alpha 5"]: what all share belongs below the axis."""
    parts = [label.split(" ") for label in labels]
    if len(labels) > 1 and all(len(part) == 2 for part in parts) and len({part[0] for part in parts}) == 1:
        return parts[0][0], [part[1] for part in parts]
    return "", list(labels)


def learning_curves(curves: pd.DataFrame, objective: str, *, format: str = "svg") -> bytes:
    """Draw the objective over the epoch, one line per trial. Returns SVG.

    A dot ends the line of a trial that stopped before the others. Up to eight settings have colours
    and a legend; of more, the trial that ends best is told apart from the rest. Raises
    UserError for a table without these columns or rows.
    """
    check(curves, "curves", CURVES, [objective])
    curves = curves.assign(value=finite(curves[column(objective)]), label=curves["label"].astype(str))
    lines = {name: part.sort_values("epoch") for name, part in curves.groupby("trial", sort=False)}
    last = curves["epoch"].max()
    ends = {name: part["value"].dropna().iloc[-1] for name, part in lines.items() if part["value"].notna().any()}
    best = (max if higher_is_better(objective) else min)(ends, key=lambda name: ends[name], default=None)
    look = styles(curves["label"])
    few = len(look) <= MAX_CLEAR_LINES
    with plot_settings():
        figure = Figure(figsize=(7.5, 3.8 + (0.2 if few else 0)), layout="constrained")
        axis = _axis(figure.add_subplot())
        for name, part in lines.items():
            mine, label = part["value"].notna(), part["label"].iloc[0]
            style: dict[str, Any] = {
                "color": look[label].colour if few else MUTED,
                "alpha": 1.0 if few else 0.45,
                "lw": 1.2,
            }
            if name == best:
                style |= {"lw": 2.4, "alpha": 1.0, "zorder": 4} | ({} if few else {"color": BEST})
            if few:
                style["ls"] = look[label].dashes
            axis.plot(part["epoch"][mine], part["value"][mine], **style)
            if mine.any() and (part["epoch"].max() < last or mine.sum() == 1):
                end = part[mine].iloc[-1]
                axis.plot(end["epoch"], end["value"], "o", ms=4, mew=0, color=style["color"], alpha=style["alpha"])
        if not ends:
            _nothing(axis)
        values = curves["value"].dropna()
        if len(values) and values.min() > 0 and values.max() / values.min() > 100:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        axis.set_xlabel("epoch")
        axis.set_ylabel(_named(objective))
        if few:
            keys = [Line2D([], [], color=s.colour, ls=s.dashes, lw=1.6, label=short_name(n)) for n, s in look.items()]
        else:
            text = "no value" if best is None else f"{short_name(lines[best]['label'].iloc[0])} ends best"
            keys = [Line2D([], [], color=BEST, lw=2.4, label=text)]
            keys += [Line2D([], [], color=MUTED, lw=1.2, label=f"{len(lines) - 1} other trials")]
        if any(part["epoch"].max() < last for part in lines.values()):
            keys.append(Line2D([], [], color=MUTED, marker="o", ms=4, mew=0, lw=0, label="stopped early"))
        _foot(figure, keys)
        return save_figure(figure, format)


def pareto_figure(trials: pd.DataFrame, objectives: tuple[str, str], *, format: str = "svg") -> bytes:
    """All trials over two objectives; those that no other beats in both are marked, joined and labelled.

    Raises UserError for a table without these columns or rows, or another number of objectives.
    """
    if len(objectives) != 2:
        raise UserError(f"the picture of the front takes two objectives, not {len(objectives)}.")
    check(trials, "trials", TRIALS, objectives)
    kept = trials[trials["state"] != FAILED]
    values = np.stack([finite(kept[column(name)]) for name in objectives], axis=1)
    up = [higher_is_better(name) for name in objectives]
    front = pareto_front(values, up)
    finished = (kept["state"] == FINISHED).to_numpy()
    with plot_settings():
        figure = Figure(figsize=(7.5, 4.8), layout="constrained")
        axis = _axis(figure.add_subplot())
        axis.grid(lw=0.7)
        for chosen, colour, size in ((~front, MUTED, 4.5), (front, BEST, 6.5)):
            for state, fill in ((finished, colour), (~finished, "none")):
                x, y = values[chosen & state].T
                axis.plot(x, y, "o", ms=size, color=colour, mfc=fill, mew=1.0, alpha=1.0 if size > 5 else 0.6)
        order = np.flatnonzero(front)[np.argsort(values[front][:, 0], kind="stable")]
        # the staircase bounds what the front beats
        axis.step(*values[order].T, where="pre" if up[0] else "post", color=BEST, lw=1.0, alpha=0.6, zorder=1)
        axis.margins(0.12)
        if not len(order):
            _nothing(axis)
        axis.set_xlabel(_named(objectives[0]))
        axis.set_ylabel(_named(objectives[1]))
        keys = [Line2D([], [], color=BEST, marker="o", ms=6, lw=1.0, label="on the front: no trial is better in both")]
        keys += [Line2D([], [], color=MUTED, marker="o", ms=4.5, lw=0, label="other trials")]
        if not finished.all():
            keys += [Line2D([], [], color=MUTED, marker="o", mfc="none", ms=4.5, lw=0, label="stopped early")]
        _foot(figure, keys)
        figure.draw_without_rendering()  # the layout, which says where points are
        _place_labels(axis, values, kept["label"].astype(str).tolist(), order)
        return save_figure(figure, format)


def _place_labels(axis: Axes, values: np.ndarray, labels: Sequence[str], order: np.ndarray) -> None:
    """Write the label of each front point where it covers no other label and fewest points.

    Equal labels are shown once.
    """
    scale = axis.figure.dpi
    points = axis.transData.transform(values[np.isfinite(values).all(axis=1)]) / scale
    frame = axis.get_window_extent()
    taken: list[tuple[float, float, float, float]] = []
    named: set[tuple[str, float, float]] = set()
    for place in order:
        text = short_name(labels[place])
        if (text, *values[place]) in named:
            continue
        named.add((text, *values[place]))
        x, y = axis.transData.transform(values[place]) / scale
        width = LETTER * len(text) + 0.05
        spots = [
            (dx, dy) for far in (0.09, 0.24, 0.4) for dx, dy in ((far, far), (-far, far), (far, -far), (-far, -far))
        ]

        def cost(spot: tuple[float, float], x: float = x, y: float = y, width: float = width) -> float:
            left, low = x + (spot[0] if spot[0] > 0 else spot[0] - width), y + spot[1] - LINE / 2
            box = (left, low, left + width, low + LINE)
            over = sum(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
            hidden = ((points > box[:2]) & (points < box[2:])).all(axis=1).sum()
            outside = left < frame.x0 / scale or left + width > frame.x1 / scale
            return float(10 * over + 5 * outside + hidden + abs(spot[0]))

        dx, dy = min(spots, key=cost)
        left = x + (dx if dx > 0 else dx - width)
        taken.append((left, y + dy - LINE / 2, left + width, y + dy + LINE / 2))
        axis.annotate(
            text,
            values[place],
            (dx * 72, dy * 72),
            textcoords="offset points",
            ha="left" if dx > 0 else "right",
            va="center",
            size=7.5,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
            if abs(dx) > 0.1
            else None,
        )


def _axis(axis: Axes) -> Axes:
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="y", lw=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    axis.yaxis.set_major_locator(MaxNLocator(5))
    return axis


def _named(metric: str) -> str:
    return f"{label_of(metric)} ({'higher' if higher_is_better(metric) else 'lower'} is better)"


def _nothing(axis: Axes) -> None:
    axis.set_yticks([])
    axis.text(0.5, 0.5, "no finite value", ha="center", va="center", color=MUTED, transform=axis.transAxes)


def _foot(figure: Figure, keys: list[Line2D]) -> None:
    width = sum(0.55 + 0.07 * len(str(key.get_label())) for key in keys)
    columns = len(keys) if width < figure.get_figwidth() else max(1, int(len(keys) * figure.get_figwidth() / width))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.0)


__all__ = ["learning_curves", "parallel_coordinates", "pareto_figure", "pareto_front", "settings_figure", "summary"]
