"""AE-Netv2's evolution without its cluster: which result of a library becomes the label of a pair, and who wins.

For every pair the quality index E2 scores each method's result; the best is the label that the network learns. When a
method joins the library, only its own results are scored, labels change where it beats them, and training goes on.
E2 has no upper bound: its Brenner term would give a wrecked image, all edges, the label. `check_sharpness` refuses such
a result; the paper has no such rule.

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
from torch import Tensor

from fusion import metrics
from fusion.data.corpus import Sample
from fusion.errors import UserError

COLUMNS = ["key", "method", "score"]


@dataclass(frozen=True)
class Label:
    """The best result for a pair so far: whose it is, and its E2."""

    method: str
    score: float


@dataclass(frozen=True, eq=False)
class LabelledSample(Sample):
    """A pair with its label, the image that the network learns to make of it: uint8 luma (H, W)."""

    label: np.ndarray | None = None


class OverSharpened(ValueError):
    """A fused image with details that neither source has."""


def check_sharpness(fused: Tensor, visible: Tensor, infrared: Tensor, limit: float) -> None:
    """Raise OverSharpened when the Brenner sharpness of `fused` exceeds `limit` times that of both sources added.

    uint8 (1, C, H, W) each; a limit of 0 allows all. A sum of the sources with weights up to 1 has at most 2, as
    (a + b)^2 <= 2 a^2 + 2 b^2. On road scenes eight classical methods stay below 1.2; only ADF reaches 17, where its
    Karhunen-Loeve weights leave [-1, 2].
    """
    if not limit:
        return
    sources = (visible, infrared)
    values = [metrics.score(image, *sources, names=("brenner",))["brenner"] for image in (fused, *sources)]
    got, first, second = map(float, values)
    if got > limit * (first + second):
        share = f"{got / (first + second):.3g}" if first + second else "infinitely many"
        raise OverSharpened(f"{share} times as sharp as both images together, over --max-sharpness {limit:g}")


def evolve(old: Mapping[str, Label], scores: Mapping[str, Mapping[str, float]]) -> dict[str, Label]:
    """Return the labels after the methods in `scores` (method -> key -> E2) joined.

    NaN and infinity never win. A tie keeps the label that is there; among new methods the first one wins.
    """
    labels = dict(old)
    for method, by_key in scores.items():
        for key, score in by_key.items():
            if math.isfinite(score) and (key not in labels or score > labels[key].score):
                labels[key] = Label(method, score)
    return dict(sorted(labels.items()))


def wins(labels: Iterable[Label]) -> dict[str, int]:
    """Count the labels that each method gave, most first."""
    return dict(sorted(Counter(label.method for label in labels).items(), key=lambda item: (-item[1], item[0])))


def to_csv(labels: Mapping[str, Label]) -> str:
    """Return the table of labels: COLUMNS, a row a pair."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([key, label.method, repr(label.score)] for key, label in labels.items())
    return out.getvalue()


def from_csv(text: str, where: str) -> dict[str, Label]:
    """Read what `to_csv` wrote. UserError: another file, or a damaged one."""
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
        return {row["key"]: Label(row["method"], float(row["score"])) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        fault = f"{where} is no table of labels ({error})"
        raise UserError(f"{fault}. Restore it, or evolve into another --out.") from error


def mean_score(scores: Sequence[float]) -> float:
    """Return the mean of the scores that are finite; NaN without any."""
    finite = [score for score in scores if math.isfinite(score)]
    return sum(finite) / len(finite) if finite else math.nan
