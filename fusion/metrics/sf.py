"""SF, the spatial frequency of the fused image."""

from __future__ import annotations

import math

from torch import Tensor

from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """SF = sqrt(RF^2 + CF^2), RF^2 = mean of (F(y, x) - F(y, x-1))^2, CF^2 = mean of (F(y, x) - F(y-1, x))^2.

    Each mean is over the differences that exist, H (W - 1) and (H - 1) W of them. In grey levels. The sources are not
    used. A constant image has 0; an image one pixel high or wide has NaN, as one of the means is empty. Standard and
    cddfuse. Source: Eskicioglu and Fisher, "Image quality measures and their performance", IEEE Trans. Communications
    43, 1995.
    """
    row_B = t.fused.diff(dim=-1).square().mean(dim=(1, 2, 3))
    column_B = t.fused.diff(dim=-2).square().mean(dim=(1, 2, 3))
    return (row_B + column_B).sqrt()


def unit_scale(t: Triplet) -> Tensor:
    """tang2022: on 0..1, 1/255 of the standard value."""
    return compute(t) / 255


def side_by_side(t: Triplet) -> Tensor:
    """vifb: the colour planes as one image H by 3 W, the two seams included; sums divided by H 3 W.

    The three planes of an image are neighbours in the batch; each gets the value of the image.
    """
    planes = t.fused.reshape(-1, 3, *t.fused.shape[1:])  # B 3 1 H W
    joined_BHW = planes.squeeze(2).permute(0, 2, 1, 3).flatten(2)
    energy_B = joined_BHW.diff(dim=-1).square().sum(dim=(1, 2)) + joined_BHW.diff(dim=-2).square().sum(dim=(1, 2))
    value_B: Tensor = (energy_B / math.prod(joined_BHW.shape[1:])).sqrt()
    return value_B.repeat_interleave(3)
