"""The 36 features of NIQE: how the contrast-normalised pixels of a block, and products of neighbours, are distributed.

B images, N blocks of an image, F = 36 features (18 at each of two scales), H height, W width.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.metrics.filters import FLAT, filter_valid, gaussian_window

BLOCK = 96  # pixels on a side at the first scale, half of it at the second
FEATURES = 36
WINDOW = gaussian_window(7, 7 / 6)
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows down, columns right
# bicubic (a = -1/2), stretched by 2 against aliasing, at distances 1/4, 3/4, 5/4, 7/4 to both sides of an output pixel
HALVING = [tap / 256 for tap in (-3, -9, 29, 111, 111, 29, -9, -3)]


class Aggd(NamedTuple):
    """Asymmetric generalised Gaussian distributions.

    The density is proportional to exp(-(|x| / b)^shape), b = left for x < 0 and right for x >= 0.
    """

    shape: Tensor
    left: Tensor
    right: Tensor


def features(image_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of each whole block of 96 x 96 pixels, B N F, and the blocks' sharpness, B N.

    Rows and columns that fill no block at the right and below are cut off. Features are NaN where a block has no
    contrast; sharpness is the mean local standard deviation. Images are float64 on the 0..255 scale; at least one
    block must fit.

    A pixel that equals its local mean in exact arithmetic, as in a flat area, is 0 and belongs to neither side of a
    fit. Left to rounding errors, its sign would be chance, and with it the value for images with much saturation.
    """
    height, width = (side // BLOCK * BLOCK for side in image_B1HW.shape[-2:])
    image_B1HW = image_B1HW[..., :height, :width]
    normal_B1HW, deviation_B1HW = normalise(image_B1HW)
    half_B1HW, _ = normalise(halve(image_B1HW))
    parts = [_block_features(_blocks(normal_B1HW, BLOCK)), _block_features(_blocks(half_B1HW, BLOCK // 2))]
    return torch.cat(parts, dim=-1), _blocks(deviation_B1HW, BLOCK).mean(dim=(-2, -1))


def normalise(image_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """(I - m) / (s + 1) and s, with m and s the mean and standard deviation in a 7 x 7 Gaussian window of sigma 7/6.

    Same size; pixels of the border are repeated beyond it.
    """
    padded = F.pad(image_B1HW, (3, 3, 3, 3), mode="replicate")
    mean = filter_valid(padded, WINDOW)
    deviation = (filter_valid(padded.square(), WINDOW) - mean.square()).abs().sqrt()
    contrast = image_B1HW - mean
    contrast = contrast.masked_fill(contrast.abs() <= FLAT, 0.0)
    return contrast / (deviation + 1), deviation


def halve(image_BKHW: Tensor) -> Tensor:
    """Half the size by bicubic interpolation with antialiasing, as MATLAB's imresize(image, 0.5); even sizes only.

    Pixel i is a weighted sum of pixels 2 i - 3 to 2 i + 4, mirrored at the border with the edge pixel repeated.
    """
    for dim in (-2, -1):
        length = image_BKHW.shape[dim]
        before, after = image_BKHW.narrow(dim, 0, 3).flip(dim), image_BKHW.narrow(dim, length - 3, 3).flip(dim)
        lines = torch.cat([before, image_BKHW, after], dim).transpose(dim, -1)
        total = lines.new_zeros(())
        for start, tap in enumerate(HALVING):
            total = total + tap * lines[..., start : start + length : 2]
        image_BKHW = total.transpose(dim, -1)
    return image_BKHW.contiguous()


def fit_aggd(samples: Tensor) -> Aggd:
    """Fit by moments an asymmetric generalised Gaussian to the last dimension.

    With l, r the root mean squares of the samples below and above 0 and c = l / r, the shape a solves
    G(2/a)^2 / (G(1/a) G(3/a)) = mean(|x|)^2 / mean(x^2) * (c^3 + 1)(c + 1) / (c^2 + 1)^2,  G the gamma function,
    on the grid 0.200, 0.201 .. 10.000; left and right are l and r times sqrt(G(1/a) / G(3/a)). NaN without samples on
    both sides of 0. Source: Lasmar, Stitou and Berthoumieu, ICIP 2009, as NIQE uses it.
    """
    below, above = samples.clamp(max=0), samples.clamp(min=0)
    left_square, right_square = below.square().sum(dim=-1), above.square().sum(dim=-1)
    left = (left_square / (samples < 0).sum(dim=-1)).sqrt()
    right = (right_square / (samples > 0).sum(dim=-1)).sqrt()
    count = samples.shape[-1]
    spread = ((above - below).sum(dim=-1) / count).square() / ((left_square + right_square) / count)
    c = left / right
    ratio = spread * (c**3 + 1) * (c + 1) / (c.square() + 1).square()
    shapes, between = _grid(samples.device)
    shape = shapes[torch.searchsorted(between, ratio)].masked_fill(ratio.isnan(), torch.nan)
    scale = ((1 / shape).lgamma() - (3 / shape).lgamma()).div(2).exp()
    return Aggd(shape, left * scale, right * scale)


@cache
def _grid(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the shapes to choose from, and the moment ratios half-way between theirs.

    The ratio grows with the shape.
    """
    shapes = torch.arange(200, 10_001, dtype=torch.float64) / 1000
    ratios = (2 * (2 / shapes).lgamma() - (1 / shapes).lgamma() - (3 / shapes).lgamma()).exp()
    return shapes.to(device), ((ratios[1:] + ratios[:-1]) / 2).to(device)


def _blocks(map_B1HW: Tensor, size: int) -> Tensor:
    """Return the whole blocks of B 1 H W as B N size size."""
    batch, _, height, width = map_B1HW.shape
    grid = map_B1HW.view(batch, height // size, size, width // size, size)
    return grid.transpose(2, 3).flatten(1, 2)


def _block_features(block_BNHW: Tensor) -> Tensor:
    """18 values a block: shape and mean scale of the pixels; shape, mean, left and right of four neighbour products.

    Neighbours wrap around at the block's border.
    """
    shape, left, right = fit_aggd(block_BNHW.flatten(2))
    values = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        product = block_BNHW * block_BNHW.roll(shift, dims=(-2, -1))
        shape, left, right = fit_aggd(product.flatten(2))
        mean = (right - left) * ((2 / shape).lgamma() - (1 / shape).lgamma()).exp()
        values += [shape, mean, left, right]
    return torch.stack(values, dim=-1)
