"""RMSE, the root mean squared error of the fused image against its sources."""

from __future__ import annotations

import math

from torch import Tensor

from fusion.metrics.mse import errors
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """RMSE = (sqrt(mean (A - F)^2) + sqrt(mean (B - F)^2)) / 2, in grey levels.

    The mean of two roots, as VIFB's survey defines it, not the root of the mean: not sqrt(MSE) unless both errors
    are equal. Source: Jagalingam and Hegde, "A review of quality metrics for fused image", Aquatic Procedia 4, 2015.
    """
    return t.get(errors).sqrt().mean(dim=1)


def by_norm(t: Triplet) -> Tensor:
    """vifb: the Euclidean norm of the difference divided by H W, so 1 / sqrt(H W) of the standard value."""
    return compute(t) / math.sqrt(t.height * t.width)
