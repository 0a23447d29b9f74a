"""SCD, the sum of the correlations of differences."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.metrics.filters import is_constant


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """SCD = r(F - B, A) + r(F - A, B), r the Pearson correlation over all pixels; A visible, B infrared.

    What the fused image adds to one source should be the other one. NaN if a source, F - A or F - B is constant
    (a correlation with a constant is 0/0), as for F = A.

    B x 1 x H x W float64 on 0..255 -> B. Source: Aslantas and Bendes, "A new image quality metric for image fusion:
    the sum of the correlations of differences", AEU Int. J. Electronics and Communications 69, 2015.
    """
    source_BSHW = torch.cat([visible, infrared], dim=1)
    added_BSHW = fused - source_BSHW.flip(1)  # F - B beside A, F - A beside B
    return _correlation(added_BSHW, source_BSHW).sum(dim=1)


def _correlation(first_BSHW: Tensor, second_BSHW: Tensor) -> Tensor:
    """Pearson's r of each plane, B x S; NaN where one of them is constant."""
    first = first_BSHW - first_BSHW.mean(dim=(-2, -1), keepdim=True)
    second = second_BSHW - second_BSHW.mean(dim=(-2, -1), keepdim=True)
    product = (first * second).sum(dim=(-2, -1))
    energy = first.square().sum(dim=(-2, -1)) * second.square().sum(dim=(-2, -1))
    constant_BS = is_constant(first_BSHW) | is_constant(second_BSHW)
    return (product / energy.sqrt()).masked_fill(constant_BS, torch.nan)
