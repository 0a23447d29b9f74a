"""MI, the mutual information between the fused image and its sources."""

from __future__ import annotations

import math

from torch import Tensor

from fusion.metrics.histograms import LEVELS, mutual_information
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """MI = I(A; F) + I(B; F), I(X; F) = H(X) + H(F) - H(X, F), in bits.

    From 256-bin histograms and 256 x 256 joint histograms. The sum of both sources, not their mean. A constant image
    shares 0 bit with any other. Source: Qu, Zhang and Yan, "Information measure for performance of image fusion",
    Electronics Letters 38, 2002.
    """
    return t.get(mutual_information).sum(dim=1)


def nats(t: Triplet) -> Tensor:
    """vifb, cddfuse: the natural logarithm, ln 2 times as much."""
    return compute(t) * math.log(2)


def merged(t: Triplet) -> Tensor:
    """tang2022: in bits; levels 254 and 255 share a bin of the joint histogram, but not of the marginal ones."""
    return t.get(mutual_information, LEVELS - 2).sum(dim=1)
