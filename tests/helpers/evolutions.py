"""Two evolutions of a library as `duskfuse evolve` leaves them, and cells of their tables."""

from __future__ import annotations

import math

from fusion.report.evolution import EvolutionData
from fusion.training.evolution import evolve, mean_score, wins

LEARNT, HELD = ["a", "b", "c", "d"], ["x", "y"]
FIRST = {
    "lp": {"a": 1.0, "b": 1.2, "c": 0.9, "d": math.nan, "x": 1.0, "y": 1.2},
    "gff": {"a": 0.8, "b": 1.3, "c": 0.7, "d": 0.6, "x": 0.9, "y": 9.9},
}
NEW = {"net$": {"a": 1.5, "b": 1.1, "c": 0.8, "d": 0.8, "x": 1.4, "y": math.nan}}
NETWORKS = {"network-1": {"x": 0.7, "y": 0.9}, "network-2": {"x": 0.9, "y": 1.1}}


def facts(number, library, joined, labels, old, forgetting):
    every = FIRST | NEW | NETWORKS
    networks = [f"network-{n}" for n in range(1, number + 1)]
    names = [*library, *networks]
    finite = {name: [every[name][key] for key in HELD if math.isfinite(every[name][key])] for name in names}
    return {
        "evolution": number,
        "library": library,
        "joined": joined,
        "labels": len(labels),
        "replaced": sum(key in old and old[key] != label for key, label in labels.items()),
        "wins": wins(labels.values()),
        "label_score": mean_score([label.score for label in labels.values()]),
        "held_out_pairs": 2,
        "held_out_scores": {name: mean_score(values) for name, values in finite.items()},
        "held_out_scored": {name: len(values) for name, values in finite.items()},
        "failures": {name: sum(not math.isfinite(v) for v in every[name].values()) for name in library},
        "forgetting": forgetting,
        "epochs": 3,
    }


def labels_of(scores, old):
    return evolve(old, {name: {key: by_key[key] for key in LEARNT} for name, by_key in scores.items()})


def two_evolutions(count: int = 2) -> EvolutionData:
    """The first `count` of them: lp and gff, then a network that joins."""
    one = labels_of(FIRST, {})
    two = labels_of(NEW, one)
    every = [
        facts(1, ["lp", "gff"], ["lp", "gff"], one, {}, None),
        facts(2, ["lp", "gff", "net$"], ["net$"], two, one, {"before": 0.25, "after": 0.3, "pairs": 4}),
    ]
    scores = {
        name: {key: (score, "" if math.isfinite(score) else "E2 is not a number") for key, score in by_key.items()}
        for name, by_key in (FIRST | NEW | NETWORKS).items()
    }
    return EvolutionData(every[:count], [one, two][:count], scores)


def cells(table, name):
    (row,) = (row for row in table.rows if row.method == name)
    return {column.metric: cell for column, cell in zip(table.columns, row.cells, strict=True)}
