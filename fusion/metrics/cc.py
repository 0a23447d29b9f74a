"""CC, the correlation of the fused image with its sources."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.metrics.filters import is_constant
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """CC = (r(A, F) + r(B, F)) / 2, r the Pearson correlation over all pixels.

    NaN if the fused image or a source is constant. Standard, tang2022 and cddfuse. Source: Deshmukh and Bhosale, "Image
    fusion and image quality assessment of fused images", Int. J. Image Processing 4, 2010; Ma, Ma and Li 2019 (survey).
    """
    return correlation(t.source_BSHW, t.fused).mean(dim=1)


def correlation(first_BSHW: Tensor, second_BSHW: Tensor) -> Tensor:
    """Pearson's r of each plane, B x S; NaN where one of them is constant."""
    first = first_BSHW - first_BSHW.mean(dim=(-2, -1), keepdim=True)
    second = second_BSHW - second_BSHW.mean(dim=(-2, -1), keepdim=True)
    product = (first * second).sum(dim=(-2, -1))
    energy = first.square().sum(dim=(-2, -1)) * second.square().sum(dim=(-2, -1))
    constant_BS = is_constant(first_BSHW) | is_constant(second_BSHW)
    return (product / energy.sqrt()).masked_fill(constant_BS, torch.nan)
