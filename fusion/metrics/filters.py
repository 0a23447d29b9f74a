"""Filters that several metrics share: the Gaussian window, local means, variances and covariances, Sobel.

Shapes: B images, S = 2 sources (visible, infrared), K any number of planes, H height, W width.
On a CPU, work goes in bands of rows that stay in its cache: new memory for whole maps costs more than the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from fusion.metrics.triplet import Triplet

CACHE = 2**20  # bytes of a CPU's cache that a map may fill
FLAT = 1e-9  # a range below this on the 0..255 scale is rounding noise (about 1e-13), not a picture


class Moments(NamedTuple):
    """Local statistics in a window, 'valid' pixels only; variances with ddof 0, unclamped (noise may be below 0)."""

    source_mean_BSHW: Tensor
    source_var_BSHW: Tensor
    fused_mean_B1HW: Tensor
    fused_var_B1HW: Tensor
    covariance_BSHW: Tensor


def gaussian_window(size: int, sigma: float) -> list[float]:
    """`size` taps of exp(-x^2 / (2 sigma^2)), centred, sum 1. The 2-D window is the outer product with itself."""
    taps = [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    total = sum(taps)
    return [tap / total for tap in taps]


def bands(image_BKHW: Tensor, rows: int | None = None, maps: int = 1) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of bands of `rows` rows (default: all): on a CPU such as stay in its cache.

    `maps`: how many maps of the size of the image the work on a band goes back and forth between.
    """
    batch, planes, height, width = image_BKHW.shape
    rows = height if rows is None else rows
    step = rows
    if image_BKHW.device.type == "cpu":
        step = max(CACHE // max(maps * batch * planes * width * image_BKHW.element_size(), 1), 1)
    for start in range(0, rows, max(step, 1)):
        yield start, min(step, rows - start)


def filter_valid(image_BKHW: Tensor, taps: list[float], step: int = 1) -> Tensor:
    """Correlation with the outer product of `taps` with itself, without padding: H - n + 1 by W - n + 1 remain.

    Of those, every `step`-th row and column is kept; `taps` is of odd length. On a CPU by OpenCV, which holds the rows
    of a window in its cache; elsewhere by adding shifted copies of the image.
    """
    batch, planes, height, width = image_BKHW.shape
    edge = len(taps) // 2
    if image_BKHW.device.type == "cpu":
        full = np.empty((batch * planes, height, width))
        for source, target in zip(image_BKHW.flatten(0, 1).numpy(), full, strict=True):
            cv2.sepFilter2D(source, cv2.CV_64F, np.array(taps), np.array(taps), dst=target)
        valid = torch.from_numpy(full).view(image_BKHW.shape)[..., edge : height - edge, edge : width - edge]
        return valid if step == 1 else valid[..., ::step, ::step].contiguous()
    for dim in (-2, -1):
        length = image_BKHW.shape[dim] - 2 * edge
        total = image_BKHW.narrow(dim, 0, length) * taps[0]
        for start, tap in enumerate(taps[1:], start=1):
            total.add_(image_BKHW.narrow(dim, start, length), alpha=tap)
        image_BKHW = total
    return image_BKHW[..., ::step, ::step]


def local_moments(source_BSHW: Tensor, fused_B1HW: Tensor, taps: list[float], top: float | None = None) -> Moments:
    """Windowed means, variances and covariances of each source with the fused image.

    `top`: squares and products are cut to it first, as 8-bit integers would.
    """

    def product(first: Tensor, second: Tensor) -> Tensor:
        return filter_valid(first * second if top is None else (first * second).clamp_(max=top), taps)

    source_mean, fused_mean = filter_valid(source_BSHW, taps), filter_valid(fused_B1HW, taps)
    return Moments(
        source_mean,
        product(source_BSHW, source_BSHW).sub_(source_mean.square()),
        fused_mean,
        product(fused_B1HW, fused_B1HW).sub_(fused_mean.square()),
        product(source_BSHW, fused_B1HW).sub_(source_mean * fused_mean),
    )


def moments(t: Triplet, size: int, sigma: float) -> Moments:
    """`local_moments` of the full-size images in a Gaussian window; shared by metrics."""
    return local_moments(t.source_BSHW, t.fused, gaussian_window(size, sigma))


def sobel(padded_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel differences (right minus left, above minus below) of all but the outermost pixels, H - 2 by W - 2."""
    down = padded_BKHW[..., :-2, :] + padded_BKHW[..., 2:, :]
    down.add_(padded_BKHW[..., 1:-1, :], alpha=2)
    along = padded_BKHW[..., :-2] + padded_BKHW[..., 2:]
    along.add_(padded_BKHW[..., 1:-1], alpha=2)
    return down[..., 2:] - down[..., :-2], along[..., :-2, :] - along[..., 2:, :]


def sobel_by_column(padded_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same sums in the order of a convolution that walks the kernel column by column.

    Every product is added alone.

    Equal to `sobel` on integers; on fractions the rounding is another one.
    """
    height, width = (length - 2 for length in padded_BKHW.shape[-2:])
    across = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))
    along = ((1, 2, 1), (0, 0, 0), (-1, -2, -1))
    sums = []
    for kernel in (across, along):
        total = padded_BKHW.new_zeros(*padded_BKHW.shape[:2], height, width)
        for column in range(3):
            for row in range(3):
                part = padded_BKHW[..., 2 - row : 2 - row + height, 2 - column : 2 - column + width]
                total = total + kernel[row][column] * part
        sums.append(total)
    return sums[0], sums[1]


def is_constant(image_BKHW: Tensor) -> Tensor:
    """B x K truth values: has the plane no contrast beyond rounding noise?"""
    return image_BKHW.amax(dim=(-2, -1)) - image_BKHW.amin(dim=(-2, -1)) <= FLAT
