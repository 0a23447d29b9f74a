"""EN, the entropy of the fused image."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.histograms import LEVELS, entropy, levels


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """EN = - sum over the 256 levels of p log2 p, in bits. The sources are not used. A constant image has 0.

    B x 1 x H x W float64 on 0..255 -> B. Source: Roberts, van Aardt and Ahmed, "Assessment of image fusion procedures
    using entropy, image quality, and multispectral classification", J. Applied Remote Sensing 2, 2008.
    """
    return entropy(levels(fused), LEVELS)[:, 0]
