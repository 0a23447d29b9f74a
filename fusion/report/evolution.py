"""AE-Netv2's evolutions in the report: who wins the labels, what each method and network scores, what is forgotten.

`evolutions` is the list of facts in the evolve.json of `duskfuse evolve`, oldest first; `labels` the labels of each;
`scores` every method's and network's results, name -> key -> (E2, "" or why there is none); networks have scores of the
held-out pairs only.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fusion.errors import UserError
from fusion.report.style import INK, MUTED, PALETTE, plot_settings, save_figure, short_name
from fusion.report.tables import DECIMALS, Cell, Column, PaperTable, Row, format_value
from fusion.training.evolution import Label, mean_score

Scores = Mapping[str, Mapping[str, tuple[float, str]]]
NONE = "–"
ROW, COLUMNS = 0.2, 3  # inches of a bar with its gap; panels in a row
MAX_NAMED_NEWCOMERS = 3  # newcomers that are named in a table
OUTLIER_FACTOR = 3  # times the median: a score to look at


@dataclass(frozen=True)
class EvolutionData:
    """What the report shows of one folder of evolutions. UserError: there is none, or labels are missing."""

    evolutions: Sequence[Mapping[str, Any]]
    labels: Sequence[Mapping[str, Label]]
    scores: Scores

    def __post_init__(self) -> None:
        if not self.evolutions or len(self.labels) != len(self.evolutions):
            raise UserError(
                f"{len(self.evolutions)} evolutions and the labels of {len(self.labels)}; give both of all."
            )

    @property
    def last(self) -> Mapping[str, Any]:
        """The facts of the latest evolution."""
        return self.evolutions[-1]

    @property
    def methods(self) -> list[str]:
        """The library of the last evolution, in the order of joining."""
        return list(self.last["library"])

    @property
    def networks(self) -> list[str]:
        """The network of every evolution, by name."""
        return [f"network-{one['evolution']}" for one in self.evolutions]

    def held_out(self, name: str) -> tuple[float, int]:
        """Return (mean E2 on the held-out pairs, of how many) of a method or network; (NaN, 0) if it was not scored."""
        value = self.last["held_out_scores"].get(name)
        if value is None:
            return math.nan, 0
        return float(value), int(self.last["held_out_scored"][name])

    def labelled(self, name: str) -> tuple[float, int]:
        """Return (mean E2 on the pairs that have labels, of how many)."""
        found = self.finite(name, self.labels[-1])
        return mean_score(found), len(found)

    def middle(self, name: str) -> tuple[float, int]:
        """Return (median E2 on the held-out pairs, of how many): a few extreme scores do not move it."""
        found = self.finite(name, self.scores.get(self.networks[-1], ()))
        return (statistics.median(found) if found else math.nan), len(found)

    def finite(self, name: str, keys: Collection[str]) -> list[float]:
        """Return the scores of a method on these pairs that are numbers."""
        scores = self.scores.get(name, {})
        return [scores[key][0] for key in keys if key in scores and math.isfinite(scores[key][0])]


def wins_chart(evolved: EvolutionData, *, format: str = "svg") -> bytes:
    """Draw a panel per evolution: how many labels every method gives, newcomers in another colour. Returns SVG."""
    order = sorted(evolved.methods, key=lambda name: (-evolved.last["wins"].get(name, 0), evolved.methods.index(name)))
    count = len(evolved.evolutions)
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    most = max(max(one["wins"].values(), default=1) for one in evolved.evolutions)
    height = rows * (0.6 + ROW * len(order)) + 0.3 * (count > 1)
    with plot_settings():
        figure = Figure(figsize=(1.2 + 2.9 * columns, height), layout="constrained")
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axis in axes[count:]:
            axis.remove()
        for axis, one in zip(axes, evolved.evolutions, strict=False):
            there = [name for name in order if name in one["library"]]
            widths = [one["wins"].get(name, 0) for name in there]
            colours = [PALETTE[1] if name in one["joined"] and one["evolution"] > 1 else PALETTE[0] for name in there]
            places = [order.index(name) for name in there]
            axis.barh(places, widths, 0.7, color=colours)
            for place, width in zip(places, widths, strict=True):
                share = f"{width} ({width / max(1, one['labels']):.0%})"
                axis.annotate(share, (width, place), (3, 0), textcoords="offset points", va="center", size=7.5)
            _bare(axis, order, most * 1.3)
            axis.set_title(f"evolution {one['evolution']}: {one['labels']} labels")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.set_xlabel("labels won")
        if count > 1:
            keys = [Patch(color=PALETTE[0], label="in the library before"), Patch(color=PALETTE[1], label="joined")]
            figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False)
        return save_figure(figure, format)


def scores_chart(evolved: EvolutionData, *, format: str = "svg") -> bytes:
    """Draw a line per method and network: mean E2 on the held-out pairs and on the labelled ones.

    The labels' own mean is drawn too. Returns SVG.
    """
    names = sorted(
        [*evolved.methods, *evolved.networks],
        key=lambda name: -value if math.isfinite(value := evolved.held_out(name)[0]) else math.inf,
    )
    keys = [
        Line2D([], [], color=PALETTE[0], marker="o", ls="", ms=6, label="held-out pairs, a method"),
        Line2D([], [], color=PALETTE[1], marker="D", ls="", ms=5.5, label="held-out pairs, a network"),
        Line2D([], [], color=MUTED, marker="o", mfc="none", ls="", ms=6, label="labelled pairs, a method"),
        Line2D([], [], color=INK, ls="--", lw=0.9, label="the labels (best of each pair)"),
    ]
    with plot_settings():
        figure = Figure(figsize=(7.6, 0.95 + ROW * 1.15 * len(names)), layout="constrained")
        axis = figure.add_subplot()
        axis.axvline(evolved.last["label_score"], color=INK, ls="--", lw=0.9)
        for place, name in enumerate(names):
            network = name in evolved.networks
            on_labelled, on_held_out = evolved.labelled(name)[0], evolved.held_out(name)[0]
            axis.plot([on_labelled, on_held_out], [place] * 2, color=MUTED, lw=0.8, alpha=0.6)
            axis.plot(on_labelled, place, "o", ms=6, mfc="none", mec=MUTED)
            axis.plot(on_held_out, place, "D" if network else "o", ms=5.5, color=PALETTE[int(network)], mew=0)
        _bare(axis, names)
        axis.margins(x=0.06)
        axis.set_xlabel("mean E2 (higher is better)")
        figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False, handlelength=2)
        return save_figure(figure, format)


def methods_table(evolved: EvolutionData) -> PaperTable:
    """Return a row per method and network: labels won, E2 on labelled and on held-out pairs, failures."""
    first = {name: one["evolution"] for one in reversed(evolved.evolutions) for name in one["joined"]}
    numbers = [one["evolution"] for one in evolved.evolutions]
    columns = [Column("joined", "Joined in", "")]
    columns += [Column(f"wins {n}", "Labels won" if len(numbers) == 1 else f"Labels won, {n}", "") for n in numbers]
    columns += [Column("labelled", "E2, labelled pairs", "↑"), Column("held out", "E2, held out", "↑")]
    columns += [Column("middle", "median", "↑"), Column("failures", "No result on", "")]
    names = [*evolved.methods, *evolved.networks]
    means = {"labelled": evolved.labelled, "held out": evolved.held_out, "middle": evolved.middle}
    scored = {kind: {name: mean(name) for name in names} for kind, mean in means.items()}
    rows = []
    for name in names:
        cells = [_plain(str(first.get(name, "")) or NONE)]
        for one in evolved.evolutions:
            there = name in one["library"]
            share = f"{one['wins'].get(name, 0)} of {one['labels']} labels of evolution {one['evolution']}"
            cells.append(_plain(str(one["wins"].get(name, 0)) if there else NONE, share if there else ""))
        cells += [_mean(name, column) for column in scored.values()]
        failed = [why for _, why in evolved.scores.get(name, {}).values() if why]
        cells.append(_plain(str(len(failed)) if name in evolved.scores else NONE, f"{len(failed)} pairs"))
        rows.append(Row(name, str(scored["held out"][name][1]), tuple(cells)))
    uneven = any(cell.short for row in rows for cell in row.cells)
    return PaperTable("", "", tuple(columns), tuple(rows), evolved.last["held_out_pairs"], uneven)


def evolutions_table(evolved: EvolutionData) -> PaperTable:
    """Return a row per evolution.

    Its cells: labels replaced, their score, and the network before and after: its E2 on held-out pairs, and its loss on
    the labels of the evolution before.
    """
    columns = (
        Column("joined", "Joined", ""),
        Column("replaced", "Replaced", ""),
        Column("label_score", "E2 of labels", "↑"),
        Column("before", "Held out, before", "↑"),
        Column("after", "after", "↑"),
        Column("old before", "Old-label loss, before", "↓"),
        Column("old after", "after", "↓"),
        Column("epochs", "Epochs", ""),
    )
    rows = []
    for place, one in enumerate(evolved.evolutions):
        after = evolved.held_out(f"network-{one['evolution']}")[0]
        before = evolved.held_out(f"network-{one['evolution'] - 1}")[0] if place else math.nan
        old = one["forgetting"] or {"before": math.nan, "after": math.nan}
        detail = f"on {old['pairs']} pairs" if "pairs" in old else "nothing was learnt before"
        texts = (
            (
                ", ".join(one["joined"])
                if len(one["joined"]) <= MAX_NAMED_NEWCOMERS
                else f"{len(one['joined'])} methods",
                "",
            ),
            (str(one["replaced"]), f"of {one['labels']}"),
            (format_value(one["label_score"]), f"{one['labels']} labels"),
            *((format_value(v) if math.isfinite(v) else NONE, "") for v in (before, after)),
            *((format_value(v) if math.isfinite(v) else NONE, detail) for v in (old["before"], old["after"])),
            (str(one["epochs"]), ""),
        )
        rows.append(Row(str(one["evolution"]), str(one["labels"]), tuple(_plain(*text) for text in texts)))
    most = max(one["labels"] for one in evolved.evolutions)
    return PaperTable("", "", columns, tuple(rows), most, False, head="Evolution", counted="Labels")


def sentences(evolved: EvolutionData) -> list[str]:
    """Return sentences: labels taken over, what the network forgot, failures of methods, and outlying scores."""
    lines = []
    for place, one in enumerate(evolved.evolutions[1:], 1):
        old, new = evolved.labels[place - 1], evolved.labels[place]
        taken = {key: (old[key], new[key]) for key in new if key in old and new[key] != old[key]}
        lost = Counter(before.method for before, _ in taken.values())
        text = f"Evolution {one['evolution']}: {', '.join(one['joined'])} took over {len(taken)} of {len(old)} labels"
        if taken:
            gain = sum(after.score - before.score for before, after in taken.values()) / len(taken)
            text += " (from " + ", ".join(f"{name} {count}" for name, count in lost.most_common()) + ")"
            text += f", {gain:.4f} of E2 better on average"
        lines.append(text + ".")
        if forgot := one["forgetting"]:
            change = forgot["after"] - forgot["before"]
            verdict = "rose" if change > 0 else "fell" if change < 0 else "stayed"
            lines.append(
                f"Forgetting, evolution {one['evolution']}: the loss on {forgot['pairs']} labels of the evolution "
                f"before {verdict} from {forgot['before']:.4f} to {forgot['after']:.4f}."
            )
    for name in [*evolved.methods, *evolved.networks]:
        failed = sorted((key, why) for key, (_, why) in evolved.scores.get(name, {}).items() if why)
        if failed:
            key, why = failed[0]
            lines.append(f"{name} has no result on {len(failed)} of {len(evolved.scores[name])} pairs ({key}: {why}).")
    for name in evolved.methods:
        scores = {key: score for key, (score, _) in evolved.scores.get(name, {}).items() if math.isfinite(score)}
        middle = statistics.median(scores.values()) if scores else 0.0
        far = [key for key, score in scores.items() if score > OUTLIER_FACTOR * middle > 0]
        if far:
            most = max(far, key=lambda key: scores[key])
            lines.append(
                f"{name} scores over {OUTLIER_FACTOR} times its median of {middle:.2f} on {len(far)} of "
                f"{len(scores)} pairs, up to {scores[most]:.2f} ({most}). E2 has no bound for sharpness: look at "
                "these results before you trust its mean, and the labels it won."
            )
    return lines


def _plain(text: str, detail: str = "") -> Cell:
    return Cell(text, 0, False, detail)


def _mean(name: str, every: Mapping[str, tuple[float, int]]) -> Cell:
    """One of the means of a column, ranked among those over as many pairs."""
    value, count = every[name]
    if not count:
        return _plain(NONE, "not scored")
    most = max(number for _, number in every.values())
    whole = [round(mean, DECIMALS) for mean, number in every.values() if number == most]
    rank = 1 + sum(other > round(value, DECIMALS) for other in whole)
    shown = rank if count == most and rank <= 3 and len(whole) > 1 else 0
    return Cell(format_value(value), shown, count < most, f"{count} pairs")


def _bare(axis: Axes, names: Sequence[str], reach: float | None = None) -> None:
    """Names down the left side, the first on top; nothing else but a light grid."""
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", lw=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    axis.set_yticks(np.arange(len(names)), [short_name(name) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    if reach is not None:
        axis.set_xlim(0, reach)
