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
    own_BT, cross_BTT = t.get(variances), t.get(products)
    r_BS = ratio(cross_BTT[:, :2, 2], own_BT[:, :2], own_BT[:, 2:])
    return r_BS.mean(dim=1)


def products(t: Triplet) -> Tensor:
    """Return sums over the pixels of products of deviations from the mean; visible, infrared, fused: B 3 3. Shared."""
    image_BTP = t.image_BTHW.flatten(2)
    image_BTP = image_BTP - image_BTP.mean(dim=2, keepdim=True)
    return image_BTP @ image_BTP.mT


def variances(t: Triplet) -> Tensor:
    """Return the diagonal of `products`, B 3; exactly 0 where an image is constant up to rounding noise."""
    constant_BT = is_constant(t.image_BTHW)
    return t.get(products).diagonal(dim1=1, dim2=2).masked_fill(constant_BT, 0.0)


def ratio(product: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's r from sums of products, all of one shape; NaN where one of the two is constant."""
    return (product / (first * second).sqrt()).masked_fill((first == 0) | (second == 0), torch.nan)
