"""EN, the entropy of the fused image."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.histograms import entropies
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """EN = - sum over the 256 levels of p log2 p, in bits. The sources are not used. A constant image has 0.

    All dialects. Source: Roberts, van Aardt and Ahmed, "Assessment of image fusion procedures using entropy, image
    quality, and multispectral classification", J. Applied Remote Sensing 2, 2008.
    """
    return t.get(entropies)[:, 2]
