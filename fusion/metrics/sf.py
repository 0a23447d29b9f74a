"""SF, the spatial frequency of the fused image."""

from __future__ import annotations

from torch import Tensor


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """SF = sqrt(RF^2 + CF^2), RF^2 = mean of (F(y, x) - F(y, x-1))^2, CF^2 = mean of (F(y, x) - F(y-1, x))^2.

    Each mean is over the differences that exist, H (W - 1) and (H - 1) W of them. In grey levels; evaluators that scale
    images to 0..1 print 1/255 of it. The sources are not used. A constant image has 0; an image one pixel high or wide
    has NaN, as one of the means is empty.

    B x 1 x H x W float64 on 0..255 -> B. Source: Eskicioglu and Fisher, "Image quality measures and their performance",
    IEEE Trans. Communications 43, 1995.
    """
    row_B = fused.diff(dim=-1).square().mean(dim=(1, 2, 3))
    column_B = fused.diff(dim=-2).square().mean(dim=(1, 2, 3))
    return (row_B + column_B).sqrt()
