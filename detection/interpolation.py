"""What lies under a curve of precision over recall, as COCO and PASCAL VOC interpolate it.

    COCO           1/101 sum_{r = 0, 0.01 .. 1} p(r),   p(r) = max { precision(k) : recall(k) >= r }
    VOC 2007       1/11 sum_{r = 0, 0.1 .. 1} p(r)
    VOC from 2010  integral of p over r from 0 to 1,    k: the k best-scored detections

Each function takes what hits alone carry (H hits by falling score, B resamples): p at the recall of each hit (H, B),
the boxes found up to it (H, B) and all boxes to be found (B,), whole numbers as floats; it returns AP, float64 (B,).

Sources: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, and its reference code. Everingham et al.,
The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, section 4.2; from 2010 on the development kit of VOC.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Interpolation = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

RECALLS = np.linspace(0, 1, 101)  # of COCO


def coco(precision_HB: np.ndarray, true_HB: np.ndarray, positives_B: np.ndarray) -> np.ndarray:
    """Return AP over the 101 recalls, in floats, as COCOeval compares them."""
    return _sum(precision_HB, np.searchsorted(RECALLS, true_HB / positives_B, side="right")) / len(RECALLS)


def voc2007(precision_HB: np.ndarray, true_HB: np.ndarray, positives_B: np.ndarray) -> np.ndarray:
    """Return AP over the 11 recalls, in whole numbers: 3 of 10 boxes are a recall of 0.3, though 3 * 0.1 is more."""
    return _sum(precision_HB, 10 * true_HB // positives_B + 1) / 11


def voc(precision_HB: np.ndarray, true_HB: np.ndarray, positives_B: np.ndarray) -> np.ndarray:
    """Return AP over all recalls."""
    area: np.ndarray = _sum(precision_HB, true_HB) / positives_B
    return area


def _sum(precision_HB: np.ndarray, reached_HB: np.ndarray) -> np.ndarray:
    """Return the sum of precision times what each hit reaches beyond the one before it."""
    # Added up one by one: `sum` would add in another order for one resample than for many.
    terms: np.ndarray = np.cumsum(precision_HB * np.diff(reached_HB, axis=0, prepend=0), axis=0)
    total: np.ndarray = terms[-1:].sum(axis=0)
    return total
