"""Q_cb, how well the fused image preserves the local contrast that the eye sees in its sources.

The stretch to the whole grey range and the filter by spatial frequency are shared with Q_cv.

Shapes: B images, S = 2 sources, K any number of planes, H height, W width, R = W // 2 + 1 frequencies of a real DFT.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.metrics.filters import FLAT, filter_valid, gaussian_window, is_constant
from fusion.metrics.triplet import Triplet

F0, F1, SURROUND = 15.3870, 1.3456, 0.7622  # the sensitivity: cycles per degree, and the share of the second Gaussian
DEGREES = 15  # a side of the picture in the eye, whatever its aspect
SIZE, NARROW, WIDE = 31, 2.0, 4.0  # taps and sigmas of the two windows, in pixels
Z = 1e-4  # contrasts far below sqrt(Z) = 0.01 are masked


def compute(t: Triplet) -> Tensor:
    """Return Q_cb of every image, float64 (B,).

    Q_cb = mean over pixels of (C_A^2 Q_AF + C_B^2 Q_BF) / (C_A^2 + C_B^2),  Q_XF = min(C_X, C_F) / max(C_X, C_F),
    C = c^3 / (c^2 + 1e-4),  c = |(n - w) / w|,  n and w means of the filtered image in Gaussian windows.

    Every image is stretched to 0..255 (least pixel 0, greatest 255; a constant image stays as it is) and filtered in
    the DFT by S(r) = exp(-(r / 15.387)^2) - 0.7622 exp(-(r / 1.3456)^2), r in cycles per degree where each side of
    the picture spans 15 degrees: r = sqrt(k^2 + l^2) / 15 for the bins of k and l cycles per side. n and w use 31 x 31
    windows of sigma 2 and 4; at the border they take the pixels inside alone, with weights of sum 1. A difference
    n - w within rounding noise counts as 0, and pixels where neither source has contrast are left out of the mean. All
    others count alike, however weak C is: flat areas are scored by the little that the filter spreads into them.

    1 for F = A = B, 0 for a constant F; unchanged by the brightness and contrast of a whole image. Any image size. NaN
    if no pixel of a source has contrast (both constant: 0/0). The stretch, the viewing distance and the magnitude of
    c (a reversed edge counts as kept) are those of the toolbox that the field uses; see `toolbox`. Source: Chen and
    Blum, "A new automated quality assessment algorithm for image fusion", Image and Vision Computing 27, 2009.
    """
    fused_B1HW, source_BSHW = _masked(_contrast(_all_three(t.get(stretched))))
    high_BSHW = torch.maximum(source_BSHW, fused_B1HW)
    # 0/0 where neither has contrast: the source has no weight there
    quality_BSHW = torch.where(high_BSHW > 0, torch.minimum(source_BSHW, fused_B1HW) / high_BSHW, 0.0)
    weight_BSHW = source_BSHW.square()
    total_BHW = weight_BSHW.sum(dim=1)
    kept_BHW = (weight_BSHW * quality_BSHW).sum(dim=1)
    counted_BHW = total_BHW > 0
    return torch.where(counted_BHW, kept_BHW / total_BHW, 0.0).sum(dim=(1, 2)) / counted_BHW.sum(dim=(1, 2))


def toolbox(t: Triplet) -> Tensor:
    """Return Q_cb of the dialect vifb, which is that of Z. Liu's toolbox of fusion metrics.

    Four things differ from the standard value: the stretched images are rounded to 8 bits; the windows have the
    weights exp(-(x^2 + y^2) / (2 s^2)) / (2 pi s^2),
    whose sum over 31 x 31 is 0.9998 for sigma 4, so that flat areas have a contrast of 2e-4; zeros beyond the border
    enter the means, so that the rim has one of 0.1 to 0.2; and no pixel is left out. A constant image gives NaN. The
    frequencies are those of the DFT bins there too.
    """
    fused_B1HW, source_BSHW = _masked(_toolbox_contrast(_all_three(t.get(rounded))))
    quality_BSHW = torch.where(source_BSHW < fused_B1HW, source_BSHW / fused_B1HW, fused_B1HW / source_BSHW)
    weight_BSHW = source_BSHW.square()
    return ((weight_BSHW * quality_BSHW).sum(dim=1) / weight_BSHW.sum(dim=1)).mean(dim=(1, 2))


def stretched(t: Triplet) -> Triplet:
    """Each image on the whole range 0..255, unrounded; constant images as they are."""
    return t.map(lambda image: torch.where(is_constant(image)[..., None, None], image, _stretch(image)))


def rounded(t: Triplet) -> Triplet:
    """Return the same in 8 bits, halves up. Of the constant images black ones stay black, others become NaN."""
    return t.map(
        lambda image: torch.where((image == 0).all(-1, True).all(-2, True), image, (_stretch(image) + 0.5).floor())
    )


def filter_by_frequency(image_BKHW: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the image with its spectrum times `response(r)`, r = sqrt(k^2 + l^2) for k and l cycles per side (H x R).

    Circular, as is the DFT: what leaves on one side comes in on the other.
    """
    height, width = image_BKHW.shape[-2:]
    row_H = torch.arange(height, dtype=image_BKHW.dtype, device=image_BKHW.device)
    column_R = torch.arange(width // 2 + 1, dtype=image_BKHW.dtype, device=image_BKHW.device)
    radius_HR = torch.hypot(torch.minimum(row_H, height - row_H)[:, None], column_R)
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(image_BKHW) * response(radius_HR), s=(height, width))
    return filtered


def _stretch(image_BKHW: Tensor) -> Tensor:
    low, high = image_BKHW.amin(dim=(-2, -1), keepdim=True), image_BKHW.amax(dim=(-2, -1), keepdim=True)
    return (image_BKHW - low) / (high - low) * 255


def _sensitivity(radius: Tensor) -> Tensor:
    degrees = radius / DEGREES
    return torch.exp(-(degrees / F0).square()) - SURROUND * torch.exp(-(degrees / F1).square())


def _all_three(images: Triplet) -> Tensor:
    return torch.cat([images.fused, images.source_BSHW], dim=1)


def _contrast(image_BKHW: Tensor) -> Tensor:
    """|n - w| / |w|, 0 where n - w is rounding noise."""
    padded = F.pad(filter_by_frequency(image_BKHW, _sensitivity), (SIZE // 2,) * 4)
    narrow, wide = (_mean_inside(padded, sigma) for sigma in (NARROW, WIDE))
    difference = (narrow - wide).abs_()
    # w can be 0 beside a strong edge: the floor only keeps the quotient finite
    return torch.where(difference > FLAT, difference / wide.abs_().clamp_(min=FLAT), 0.0)


def _mean_inside(padded_BKHW: Tensor, sigma: float) -> Tensor:
    """Means in the Gaussian window, over the part of it that lies inside the picture."""
    taps = gaussian_window(SIZE, sigma)
    total = filter_valid(padded_BKHW, taps)
    height, width = total.shape[-2:]
    total /= total.new_tensor(_weight_inside(taps, height)).view(-1, 1)
    total /= total.new_tensor(_weight_inside(taps, width))
    return total


def _weight_inside(taps: list[float], side: int) -> list[float]:
    """Return what share of the window around each of `side` pixels lies inside the picture."""
    up_to, reach = [0.0, *accumulate(taps)], len(taps) // 2
    return [up_to[min(reach + side - x, len(taps))] - up_to[max(reach - x, 0)] for x in range(side)]


def _toolbox_contrast(image_BKHW: Tensor) -> Tensor:
    padded = F.pad(filter_by_frequency(image_BKHW, _sensitivity), (SIZE // 2,) * 4)
    narrow, wide = (filter_valid(padded, _toolbox_window(sigma)) for sigma in (NARROW, WIDE))
    return (narrow / wide - 1).abs_()


def _toolbox_window(sigma: float) -> list[float]:
    scale = math.sqrt(2 * math.pi) * sigma
    return [math.exp(-((i - SIZE // 2) ** 2) / (2 * sigma**2)) / scale for i in range(SIZE)]


def _masked(contrast_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """c^3 / (c^2 + Z), as the eye masks weak contrasts, of the fused image (B 1 H W) and of the sources (B S H W)."""
    square = contrast_BKHW.square()
    masked = contrast_BKHW * square / (square + Z)
    return masked[:, :1], masked[:, 1:]
