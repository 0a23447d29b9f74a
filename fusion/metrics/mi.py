"""MI, the mutual information between the fused image and its sources."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.metrics.histograms import LEVELS, entropy, levels


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """MI = I(A; F) + I(B; F), I(X; F) = H(X) + H(F) - H(X, F), in bits.

    From 256-bin histograms and 256 x 256 joint histograms. The sum of both sources, not their mean. A constant image
    shares 0 bit with any other.

    B x 1 x H x W float64 on 0..255 -> B. Source: Qu, Zhang and Yan, "Information measure for performance of image
    fusion", Electronics Letters 38, 2002.
    """
    source_BSHW, fused_B1HW = levels(torch.cat([visible, infrared], dim=1)), levels(fused)
    joint_BS = entropy(source_BSHW * LEVELS + fused_B1HW, LEVELS**2)
    shared_BS = entropy(source_BSHW, LEVELS) + entropy(fused_B1HW, LEVELS) - joint_BS
    return shared_BS.clamp(min=0).sum(dim=1)  # I >= 0; the difference of sums may round to just below it
