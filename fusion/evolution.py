"""AE-Netv2's evolution without its cluster: which result of a library becomes the label of a pair, and who wins.

For every pair the quality index E2 scores each method's result; the best is the label that the network learns. When a
method joins the library, only its own results are scored, labels change where it beats them, and training goes on.

Source: Fang et al., "AE-Netv2: Optimization of image fusion efficiency and network architecture", 2020, Algorithm 1.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusion.corpus import Sample
from fusion.errors import UserError

COLUMNS = ["key", "method", "score"]


@dataclass(frozen=True)
class Label:
    """The best result for a pair so far: whose it is, and its E2."""

    method: str
    score: float


@dataclass(frozen=True, eq=False)
class Labelled(Sample):
    """A pair with what a network shall make of it: uint8 luma (H, W)."""

    label: np.ndarray | None = None


def evolve(old: Mapping[str, Label], scores: Mapping[str, Mapping[str, float]]) -> dict[str, Label]:
    """Labels after the methods in `scores` (method -> key -> E2) joined. What is not a finite number never wins; who
    is only as good as the label does not replace it, so the order of methods decides ties among newcomers."""
    labels = dict(old)
    for method, by_key in scores.items():
        for key, score in by_key.items():
            if math.isfinite(score) and (key not in labels or score > labels[key].score):
                labels[key] = Label(method, score)
    return dict(sorted(labels.items()))


def wins(labels: Iterable[Label]) -> dict[str, int]:
    """How many labels each method gave, most first."""
    return dict(sorted(Counter(label.method for label in labels).items(), key=lambda item: (-item[1], item[0])))


def to_csv(labels: Mapping[str, Label]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([key, label.method, repr(label.score)] for key, label in labels.items())
    return out.getvalue()


def from_csv(text: str, where: str) -> dict[str, Label]:
    """What `to_csv` wrote. UserError: another file, or a damaged one."""
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
        return {row["key"]: Label(row["method"], float(row["score"])) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        fault = f"{where} is no table of labels ({error})"
        raise UserError(f"{fault}. Restore it, or evolve into another --out.") from error


def mean_score(scores: Sequence[float]) -> float:
    """Of those that are finite; NaN without any."""
    finite = [score for score in scores if math.isfinite(score)]
    return sum(finite) / len(finite) if finite else math.nan
