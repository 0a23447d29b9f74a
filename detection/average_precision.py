"""Average precision (AP) by pycocotools, and as PASCAL VOC interpolates it, over any multiset of the images.

    AP = 1/101 sum_{r = 0, 0.01 .. 1} max { precision(k) : recall(k) >= r },   k: the k best-scored detections

COCOeval decides which detection finds which box, once (`match`). Adding up is ours (`ap`, `voc_ap50`): it takes a
multiplicity for every image, so that a bootstrap over images costs no new matching, and agrees with
COCOeval.accumulate to 1e-14.

Papers that cite VOC mean one of its two curves (`interpolation`) at an IoU of 0.5. The curve alone is VOC's here, over
the same hits. VOC's own matching differs where boxes of a class overlap: a detection is false there when its best box
is taken, while COCO gives it the next best one of at least the threshold. VOC also counts pixels from edge to edge (a
width of x2 - x1 + 1), and ignores every detection of a difficult box, not the first alone.

YOLO's own numbers (ultralytics 8.4, `ap_per_class`) integrate the same curve otherwise:

    -0.015 <= AP(ultralytics) - AP(COCO) <= 0.005

by trapezia (at most 0.005 either way: a perfect detector has 0.995) and, where precision drops on one of the 101
recalls, from the lower end (at most 0.01 less: one hit first, at recall 0.01, has 0.0050 against 0.0198). Matching is
the same greedy one, but with IoU in float32 and a denominator larger by 1e-7, so that IoUs within 1e-6 of a threshold
may fall on the other side; a detection that overlaps two boxes exactly alike gets the first, in COCO the last; equal
scores come in no fixed order. It knows no boxes to be ignored, and keeps 300 detections of all classes together where
COCO keeps 100 of each.

Source: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, and its reference code.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.boxes import Detections, Truth
from detection.interpolation import Interpolation, coco, voc, voc2007

# Legend: T IoU thresholds, C classes, I images, N detections of one class in all images, B resamples.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
MOST_DETECTIONS = 100  # of one class in one image: the best-scored ones count
SPACING = np.spacing(1)  # in COCOeval's denominator: with it we have its last digit too
CHUNK = 1 << 21  # numbers in one array of `ap`: 16 MiB
Entry = dict[str, Any]  # of COCO's JSON, and of what COCOeval makes of it


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The detections of one class, image by image, in each image by falling score.

    Attributes:
        images: int64 (N,), index of the image.
        scores: float64 (N,).
        matched: bool (T, N), has found a box, be it one to be ignored.
        ignored: bool (T, N), counts neither for nor against.
        positives: int64 (I,), boxes to be found.
    """

    images: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True, eq=False)
class Matches:
    """Which detections found boxes in a set of images: all that AP over any multiset of them needs.

    Attributes:
        classes: Their names.
        keys: Of the images.
        found: The matches of each class.
    """

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    found: tuple[ClassMatches, ...]

    def select(self, keys: Sequence[str]) -> Matches:
        """Return the matches in these images only, in this order.

        Raises:
            KeyError: There is no such image.
            ValueError: An image is given twice.
        """
        places = {key: place for place, key in enumerate(self.keys)}
        if len(set(keys)) != len(keys):
            raise ValueError("an image is selected twice; use weights in `ap` instead")
        wanted = np.array([places[key] for key in keys], np.int64)
        new = np.full(len(self.keys), -1, np.int64)
        new[wanted] = np.arange(len(wanted))
        return Matches(self.classes, tuple(keys), tuple(_select(found, wanted, new) for found in self.found))


def _select(found: ClassMatches, wanted: np.ndarray, new: np.ndarray) -> ClassMatches:
    images = new[found.images]
    order = np.argsort(images, kind="stable")
    order = order[images[order] >= 0]
    return ClassMatches(
        images[order],
        found.scores[order],
        found.matched[:, order],
        found.ignored[:, order],
        found.positives[wanted],
    )


def match(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    keys: Sequence[str] | None = None,
    crowds: bool = False,
) -> Matches:
    """Match detections with boxes by COCOeval.evaluate: all sizes, at most 100 detections of a class in an image.

    `Truth.ignore` marks objects, as "difficult" does in VOC labels: IoU is the ordinary one, the first detection of
    such a box is ignored and any further one is false, as with COCO's boxes outside the range of sizes. `crowds=True`
    reads it as COCO's `iscrowd`: one box around many objects, any number of detections of which is ignored, with
    intersection over area of the detection for IoU. That is not the default because it would ignore false positives
    inside large difficult objects.

    Args:
        truths: Of each image.
        detections: Of each image.
        classes: The class list of both.
        keys: Of the images, by default their numbers.
        crowds: See above.

    Raises:
        ValueError: Lengths differ, classes outside the list, keys given twice, or numbers that are not finite.
    """
    names = tuple(str(index) for index in range(len(truths))) if keys is None else tuple(keys)
    _check(truths, detections, classes, names)
    results = _evaluate(truths, detections, classes, crowds)
    found = (_collect(results[place * len(names) : (place + 1) * len(names)]) for place in range(len(classes)))
    return Matches(tuple(classes), names, tuple(found))


def _evaluate(
    truths: Sequence[Truth], detections: Sequence[Detections], classes: Sequence[str], crowds: bool
) -> list[Entry | None]:
    """Return COCOeval's results: for every class, every image; None where there is neither box nor detection."""
    from pycocotools.coco import COCO  # here, because few users of this module match
    from pycocotools.cocoeval import COCOeval

    index = {
        "images": [{"id": image + 1} for image in range(len(truths))],
        "categories": [{"id": place + 1, "name": name} for place, name in enumerate(classes)],
    }
    boxes = [
        # COCOeval overwrites `ignore` by `iscrowd`. A box outside the range of areas is ignored without being a crowd.
        {"iscrowd": int(ignore and crowds), "area": -1.0 if ignore else 0.0, **entry}
        for image, truth in enumerate(truths)
        for entry, ignore in zip(_entries(image, truth.boxes, truth.classes), truth.ignore, strict=True)
    ]
    found = [
        {"score": score, "area": entry["bbox"][2] * entry["bbox"][3], **entry}
        for image, detected in enumerate(detections)
        for entry, score in zip(
            _entries(image, detected.boxes, detected.classes), detected.scores.astype(float).tolist(), strict=True
        )
    ]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in (boxes, found):
            # Numbers from 1: COCOeval writes the number of what was matched, and 0 for nothing.
            numbered = [{"id": number, **entry} for number, entry in enumerate(annotations, 1)]
            side = COCO()
            side.dataset = {**index, "annotations": numbered}
            side.createIndex()
            sides.append(side)
        run = COCOeval(*sides, "bbox")
        run.params.iouThrs = THRESHOLDS
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.params.maxDets = [MOST_DETECTIONS]
        run.evaluate()
    results: list[Entry | None] = run.evalImgs
    return results


def _entries(image: int, boxes: np.ndarray, classes: np.ndarray) -> list[Entry]:
    """Return boxes as COCO writes them: corner, width and height."""
    corners = boxes.astype(np.float64)
    corners[:, 2:] -= corners[:, :2]
    return [
        {"image_id": image + 1, "category_id": place + 1, "bbox": box}
        for box, place in zip(corners.tolist(), classes.tolist(), strict=True)
    ]


def _collect(images: Sequence[Entry | None]) -> ClassMatches:
    """Return COCOeval's results of one class, of every image, as arrays."""
    found = [(place, result) for place, result in enumerate(images) if result is not None]
    positives = np.zeros(len(images), np.int64)
    for place, result in found:
        positives[place] = np.count_nonzero(np.asarray(result["gtIgnore"]) == 0)
    empty = np.zeros((len(THRESHOLDS), 0))
    return ClassMatches(
        np.repeat([place for place, _ in found], [len(result["dtScores"]) for _, result in found]).astype(np.int64),
        np.array([score for _, result in found for score in result["dtScores"]], np.float64),
        np.concatenate([empty] + [result["dtMatches"] for _, result in found], axis=1) > 0,
        np.concatenate([empty] + [result["dtIgnore"] for _, result in found], axis=1).astype(bool),
        positives,
    )


def _check(
    truths: Sequence[Truth], detections: Sequence[Detections], classes: Sequence[str], keys: Sequence[str]
) -> None:
    if not len(truths) == len(detections) == len(keys):
        raise ValueError(f"{len(truths)} truths, {len(detections)} detections and {len(keys)} keys: one each an image")
    if len(set(keys)) != len(keys):
        raise ValueError("two images have the same key")
    if not classes:
        raise ValueError("no classes")
    for key, truth, found in zip(keys, truths, detections, strict=True):
        for side, what in ((truth, "box"), (found, "detection")):
            if ((side.classes < 0) | (side.classes >= len(classes))).any():
                raise ValueError(f"a {what} of image {key} has a class outside the list of {len(classes)}")
            if not np.isfinite(side.boxes).all():
                raise ValueError(f"a {what} of image {key} is not finite")
        if not np.isfinite(found.scores).all():
            raise ValueError(f"a score of image {key} is not finite")


def ap(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
    """Return AP by IoU threshold and class: float64 (T, C); NaN for a class without boxes to be found.

    Equal to COCOeval.accumulate over the images so repeated, copies side by side.

    Args:
        matches: Of the images.
        weights: How often each image counts, int (I,) or (B, I), for which the result is (B, T, C); once for None.

    Raises:
        ValueError: Other weights.
    """
    table = _integrate(matches, weights, len(THRESHOLDS), (coco,))
    return table[..., 0, :]


def voc_ap50(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
    """Return AP at an IoU of 0.5 by VOC's 11 points of 2007 and by all points, and class: float64 (2, C).

    NaN for a class without boxes to be found. `weights` as in `ap`: (B, I) gives (B, 2, C). Raises ValueError as there.
    """
    table = _integrate(matches, weights, 1, (voc2007, voc))
    return table[..., 0, :, :]


def _integrate(
    matches: Matches, weights: np.ndarray | None, thresholds: int, curves: Sequence[Interpolation]
) -> np.ndarray:
    """Return AP by threshold (the first ones), interpolation and class; by resample first for `weights` (B, I)."""
    weights = np.ones(len(matches.keys), np.int64) if weights is None else np.asarray(weights)
    copies = np.atleast_2d(weights)
    if copies.ndim != 2 or copies.shape[1] != len(matches.keys):
        raise ValueError(f"weights of shape {np.shape(weights)} for {len(matches.keys)} images")
    if not np.issubdtype(copies.dtype, np.integer) or (copies < 0).any():
        raise ValueError("weights must be whole numbers from 0 on")
    floats = copies.astype(np.float64)
    result = np.stack([_class_ap(found, floats, thresholds, curves) for found in matches.found], axis=-1)
    return result if weights.ndim == 2 else result[0]


def _class_ap(
    found: ClassMatches, copies_BI: np.ndarray, thresholds: int, curves: Sequence[Interpolation]
) -> np.ndarray:
    """Return AP of one class by resample, threshold and interpolation, float64.

    Precision can only fall between two hits, and recall only rise at one: the hits alone carry the curve. A hit that
    counts w times is w hits in a row, of which the last has the highest precision, unless it is 1 throughout. So the
    last stands for all, for as many recalls as lie between the hit before and it.
    """
    order = np.argsort(-found.scores, kind="stable")
    images, scores = found.images[order], found.scores[order]
    columns, copy = _columns(images, scores, copies_BI.max(axis=0, initial=0).astype(np.int64))
    images, split = images[columns], copy >= 0
    counted_TN = ~found.ignored[:, order[columns]]
    hits_TN = found.matched[:, order[columns]] & counted_TN
    positives_B = copies_BI @ found.positives

    result = np.full((len(copies_BI), thresholds, len(curves)), np.nan)
    present = np.flatnonzero(positives_B > 0)
    step = max(1, CHUNK // max(1, len(columns)))
    for chunk in (present[start : start + step] for start in range(0, len(present), step)):
        weights_NB = np.ascontiguousarray(copies_BI[chunk].T)[images]
        weights_NB[split] = weights_NB[split] > copy[split, None]
        counted, seen_NB = counted_TN[0], np.zeros(0)
        for threshold, hits in enumerate(hits_TN[:thresholds]):
            if threshold == 0 or (counted_TN[threshold] != counted).any():
                counted = counted_TN[threshold]
                seen_NB = np.cumsum(weights_NB * counted[:, None], axis=0)
            true_NB = np.cumsum(weights_NB[hits], axis=0)
            precision = true_NB / (seen_NB[hits] + SPACING)
            envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            for place, curve in enumerate(curves):
                result[chunk, threshold, place] = curve(envelope, true_NB, positives_B[chunk])
    return result


def _columns(images: np.ndarray, scores: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of the sorted detections, and which copy of the image each stands for; -1: all copies at once.

    Detections of one image with equal scores a, b come as a, b, a, b when the image counts twice, not a, a, b, b: only
    they are written out, once for each of the `most` (I,) copies that an image ever has.
    """
    if not len(images):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first = np.flatnonzero(np.r_[True, (images[1:] != images[:-1]) | (scores[1:] != scores[:-1])])
    sizes = np.diff(np.r_[first, len(images)])
    lengths = np.where(sizes > 1, sizes * most[images[first]], 1)
    group = np.repeat(np.arange(len(first)), lengths)
    place = np.arange(len(group)) - (np.cumsum(lengths) - lengths)[group]
    return first[group] + place % sizes[group], np.where(sizes[group] > 1, place // sizes[group], -1)
