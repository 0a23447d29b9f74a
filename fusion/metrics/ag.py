"""AG, the average gradient of the fused image."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """AG = mean over all H W pixels of sqrt((gx^2 + gy^2) / 2), in grey levels.

    gx and gy are central differences (F(x+1) - F(x-1)) / 2, one-sided at the border. The sources are not used. A
    constant image has 0; an image one pixel high or wide has NaN, as one of the differences does not exist. Standard
    and cddfuse. Source: Cui, Feng, Xu, Li and Chen, "Detail preserved fusion of visible and infrared images using
    regional saliency extraction and multi-scale image decomposition", Optics Communications 341, 2015.
    """
    if t.short_side < 2:
        return t.nan()
    gy, gx = torch.gradient(t.fused, dim=(-2, -1))
    return ((gx.square() + gy.square()) / 2).sqrt().mean(dim=(1, 2, 3))


def fewer_pixels(t: Triplet) -> Tensor:
    """vifb, tang2022: the sum over all H W pixels divided by (H - 1)(W - 1), 0.4 % more at 640 x 480."""
    if t.short_side < 2:
        return t.nan()
    return compute(t) * (t.height * t.width / ((t.height - 1) * (t.width - 1)))
