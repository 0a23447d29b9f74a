"""EI, the edge intensity of the fused image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fusion.metrics.filters import sobel
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """EI = mean over pixels of sqrt(Sx^2 + Sy^2), Sobel differences with the border repeated, in grey levels.

    The sources are not used. A constant image has 0. Standard and vifb. Source: Rajalingam and Priya, "Hybrid
    multimodality medical image fusion technique for feature enhancement in medical diagnosis", 2018; as in VIFB.
    """
    across, down = sobel(F.pad(t.fused, (1, 1, 1, 1), mode="replicate"))
    return (across.square() + down.square()).sqrt().mean(dim=(1, 2, 3))
