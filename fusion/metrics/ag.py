"""AG, the average gradient of the fused image."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.metrics.filters import undefined


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """AG = mean over all H W pixels of sqrt((gx^2 + gy^2) / 2), in grey levels.

    gx and gy are central differences (F(x+1) - F(x-1)) / 2, one-sided at the border. Evaluators that divide the same
    sum by (H - 1)(W - 1) print more by H W / ((H - 1)(W - 1)), 0.4 % at 640 x 480. The sources are not used.
    A constant image has 0; an image one pixel high or wide has NaN, as one of the differences does not exist.

    B x 1 x H x W float64 on 0..255 -> B. Source: Cui, Feng, Xu, Li and Chen, "Detail preserved fusion of visible and
    infrared images using regional saliency extraction and multi-scale image decomposition", Optics Communications 341,
    2015.
    """
    if min(fused.shape[-2:]) < 2:
        return undefined(fused)
    gy, gx = torch.gradient(fused, dim=(-2, -1))
    return ((gx.square() + gy.square()) / 2).sqrt().mean(dim=(1, 2, 3))
