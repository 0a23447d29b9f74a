"""One detector, trained once on infrared and visible images together, run unchanged on every method's images.

The scoring part: AP per class and its mean for each method, with confidence intervals, and how sure one method is
better than another. Both by a bootstrap over images: 95 % of the scores over images drawn with replacement lie in the
interval (percentile method), and all methods are scored on the same draws, so that differences are paired.

Source of the protocol: Cao et al., Multi-modal Gated Mixture of Local-to-Global Experts for Dynamic Image Fusion, ICCV
2023, Table 3. The bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detection.average_precision import Matches, ap, voc_ap50
from fusion.errors import UserError
from fusion.seeds import make_rng

MEASURES = {
    "map50": "mAP50",
    "map50_95": "mAP50-95",
}  # columns of `tables.scores_table`, and what they are called in print
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, from `low` to `high`. NaN: no class has boxes, or nothing was drawn."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class VocScores:
    """AP50 of each class and its mean by one of the curves of PASCAL VOC, see `detection.interpolation`."""

    ap50: tuple[Estimate, ...]
    map50: Estimate


@dataclass(frozen=True)
class Scores:
    """How well objects are detected in one method's images; AP in [0, 1].

    The mean APs are over the classes that have boxes; so they are in every bootstrap draw, in which a rare class may be
    missing.

    Attributes:
        method: Its name.
        classes: Their names, which give the order of boxes, detections and ap50.
        images: Their number.
        boxes: Boxes to be found, without ignored ones.
        detections: Detections that count, at most 100 of a class in an image.
        ap50: AP at an IoU of 0.5, of each class.
        map50: Mean of ap50.
        map50_95: Mean AP over ten IoU thresholds from 0.5 to 0.95.
        voc2007: By the 11 points of VOC 2007.
        voc: By all points, as VOC from 2010 on.
    """

    method: str
    classes: tuple[str, ...]
    images: int
    boxes: tuple[int, ...]
    detections: tuple[int, ...]
    ap50: tuple[Estimate, ...]
    map50: Estimate
    map50_95: Estimate
    voc2007: VocScores
    voc: VocScores


@dataclass(frozen=True)
class Difference:
    """One of `MEASURES` of method `first` less that of `second`, over the `images` both have.

    p = 2 (1 + n) / (1 + B), at most 1, two-sided, with n the fewer of the draws not above and those not below zero. It
    accounts neither for how many pairs are compared nor for `first` being chosen as the best: with k pairs,
    p < 0.05 / k is a clear difference.

    Attributes:
        measure: Its column.
        first: The first method.
        second: The second method.
        images: Their number.
        difference: The difference.
        above_zero: Fraction of the B draws in which it is above zero.
        p: See above.
    """

    measure: str
    first: str
    second: str
    images: int
    difference: Estimate
    above_zero: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """Methods scored and compared.

    Attributes:
        scores: Of each method, in the order given.
        differences: Of pairs of methods.
        best: The method with the highest mAP50 among those with most images; None if none has a mAP50.
    """

    scores: tuple[Scores, ...]
    differences: tuple[Difference, ...]
    best: str | None


def compare(
    matches: Mapping[str, Matches],
    resamples: int = 1000,
    seed: int = 0,
    pairs: Literal["best", "all"] = "best",
    group: Callable[[str], str] = str,
) -> Comparison:
    """Score every method over its own images, and compare the best one with each other one, or all pairs.

    A method that lacks images is scored over those it has (`Scores.images` says how many), and compared with another
    over the images they share. Methods with the same images get the same draws. The results depend neither on the
    order of images and methods nor on which other methods are there.

    Args:
        matches: Of each method, by its name.
        resamples: Number of bootstrap draws.
        seed: Of the draws.
        pairs: Compare the best method with each other one, or "all" pairs.
        group: Names what an image belongs to by its key: images of one group, such as one scene under several
            degradations, are resampled together because they are not independent.

    Raises:
        ValueError: No method, no resamples, or class lists that differ.
        UserError: An image with other boxes in one method than in another.
    """
    if not matches or resamples < 1:
        raise ValueError(f"{len(matches)} methods and {resamples} resamples: at least one of each")
    if len({found.classes for found in matches.values()}) > 1:
        raise ValueError("the methods have different class lists")
    _check_boxes(matches)
    draws = _Draws(matches, resamples, seed, group)
    own = {method: tuple(sorted(found.keys)) for method, found in matches.items()}
    scores = tuple(_score(method, matches[method], draws.of(method, own[method])) for method in matches)
    best = _best(scores)
    chosen = list(itertools.combinations(matches, 2))
    if pairs == "best":
        chosen = [] if best is None else [(best, method) for method in matches if method != best]
    differences = []
    for first, second in chosen:
        keys = tuple(sorted(set(own[first]) & set(own[second])))
        one, other = draws.of(first, keys), draws.of(second, keys)
        for column, measure in enumerate(MEASURES, start=len(matches[first].classes)):
            difference = one[:, column] - other[:, column]
            differences.append(_difference(measure, first, second, len(keys), difference))
    return Comparison(scores, tuple(differences), best)


class _Draws:
    """AP of a method, float64 (1 + B, 3 C + 4): row 0 over the images, the others over B draws.

    Columns: AP50 of the classes and both means; AP50 of the classes and its mean by either curve of VOC.
    """

    def __init__(
        self, matches: Mapping[str, Matches], resamples: int, seed: int, group: Callable[[str], str] = str
    ) -> None:
        self.matches, self.resamples, self.seed, self.group = matches, resamples, seed, group
        self.done: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}

    def of(self, method: str, keys: tuple[str, ...]) -> np.ndarray:
        """Return the table of a method over these images."""
        if (method, keys) not in self.done:
            names, places = np.unique([self.group(key) for key in keys], return_inverse=True)
            counts = image_draws(len(names), self.resamples, self.seed)[:, places]
            found = self.matches[method].select(keys)
            table = ap(found, counts)
            means = (mean_of_present(table[:, 0]), mean_of_present(table.mean(axis=1)))
            curves = [(curve, mean_of_present(curve)) for curve in np.moveaxis(voc_ap50(found, counts), 1, 0)]
            self.done[method, keys] = np.column_stack([table[:, 0], *means, *itertools.chain(*curves)])
        return self.done[method, keys]


def image_draws(images: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each image counts, int64 (1 + resamples, images): once in row 0, then as drawn at random."""
    drawn = make_rng("bootstrap", seed, images).integers(0, max(images, 1), (resamples, images))
    counts = [np.bincount(row, minlength=images) for row in drawn]
    return np.stack([np.ones(images, np.int64), *counts]).astype(np.int64)


def mean_of_present(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of all values but NaN; NaN where all are NaN."""
    present = ~np.isnan(values)
    count = present.sum(axis=-1)
    return np.where(count > 0, np.where(present, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def _estimate(values: np.ndarray) -> Estimate:
    """Return an estimate from its value, which comes first, and its draws but those in which no class had a box."""
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(drawn, QUANTILES) if len(drawn) else (np.nan, np.nan)
    return Estimate(float(values[0]), float(low), float(high))


def _score(method: str, found: Matches, draws: np.ndarray) -> Scores:
    count = len(found.classes)
    estimates = tuple(_estimate(column) for column in draws.T)
    map50, map50_95 = estimates[count : count + 2]
    (*voc2007, mean2007), (*voc, mean) = estimates[count + 2 : 2 * count + 3], estimates[2 * count + 3 :]
    return Scores(
        method,
        found.classes,
        len(found.keys),
        tuple(int(one.positives.sum()) for one in found.found),
        tuple(len(one.scores) for one in found.found),
        estimates[:count],
        map50,
        map50_95,
        VocScores(tuple(voc2007), mean2007),
        VocScores(tuple(voc), mean),
    )


def _best(scores: Sequence[Scores]) -> str | None:
    most = max(one.images for one in scores)
    able = [one for one in scores if one.images == most and not np.isnan(one.map50.value)]
    # By name among equals: the order in which methods are given decides nothing.
    return min(able, key=lambda one: (-one.map50.value, one.method)).method if able else None


def _difference(measure: str, first: str, second: str, images: int, values: np.ndarray) -> Difference:
    """Return a difference from its values (1 + B,): row 0 over the images, the others over the draws."""
    drawn = values[1:][~np.isnan(values[1:])]
    not_above, not_below = np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0)
    count = len(drawn)
    above_zero = np.count_nonzero(drawn > 0) / count if count else np.nan
    p = min(1.0, 2 * (1 + min(not_above, not_below)) / (1 + count)) if count else np.nan
    return Difference(measure, first, second, images, _estimate(values), float(above_zero), float(p))


def _check_boxes(matches: Mapping[str, Matches]) -> None:
    seen: dict[str, tuple[str, tuple[int, ...]]] = {}
    for method, found in matches.items():
        counts = np.stack([one.positives for one in found.found], axis=1).tolist()
        for key, boxes in zip(found.keys, counts, strict=True):
            other, expected = seen.setdefault(key, (method, tuple(boxes)))
            if tuple(boxes) != expected:
                raise UserError(
                    f"image {key} has {list(expected)} boxes of {', '.join(found.classes)} for {other}, but {boxes} "
                    f"for {method}; score all methods against the same labels."
                )
