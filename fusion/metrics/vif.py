"""VIF, visual information fidelity in the pixel domain, of the fused image against both sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fusion.metrics.filters import Moments, bands, filter_valid, gaussian_window, is_constant, local_moments
from fusion.metrics.triplet import Triplet

SCALES = 4
NOISE = 2.0  # variance of the visual noise, in squared grey levels: the metric is tied to the 0..255 scale
EPSILON = 1e-10  # variance below which a window counts as flat
MIN_SIDE = 41  # leaves one whole 3 x 3 window at the fourth scale


class Model(NamedTuple):
    """The best local model F = g X + noise at a scale: g, the variance s of X, the variance v of the noise."""

    gain_BSHW: Tensor
    variance_BSHW: Tensor
    noise_BSHW: Tensor


def compute(t: Triplet) -> Tensor:
    """Return VIF of every image, float64 (B,).

    VIF = VIFp(A, F) + VIFp(B, F),
    VIFp = sum over scales and pixels of log(1 + g^2 s / (v + 2)) / sum over scales and pixels of log(1 + s / 2).

    s is the local variance of the source, g = cov / s the gain and v = var F - g cov the noise of the best local model
    F = g A + noise; g is 0 where it is negative or where a window is flat. Scale k = 1..4 uses a Gaussian window of
    n = 2^(5-k) + 1 taps and sigma n / 5 on 'valid' pixels; before scales 2, 3, 4 the images are smoothed with that
    scale's window and every second pixel is kept. This is VIFp, which the field prints as VIF, not the wavelet VIF and
    not Han's VIFF. The sum of both sources: 2 for F = A = B, and above 2 if contrast was raised.

    NaN for images under 41 pixels on a side and where a source is constant (no information to keep: 0/0). Standard and
    cddfuse. Source: Sheikh and Bovik, "Image information and visual quality", IEEE Trans. Image Processing 15, 2006.
    """
    return t.get(of_each).sum(dim=1)


def of_each(t: Triplet) -> Tensor:
    """Return VIFp(A, F) and VIFp(B, F) of every image, float64 (B, 2); see `compute`."""
    return _pooled(t, saturate=False)


def of_visible(t: Triplet) -> Tensor:
    """Return VIFp(A, F) of every image, (B,): what is kept of the visible image, 1 if F = A. See `compute`."""
    return t.get(of_each)[:, 0]


def of_infrared(t: Triplet) -> Tensor:
    """Return VIFp(B, F) of every image, (B,): what is kept of the infrared image, 1 if F = B. See `compute`."""
    return t.get(of_each)[:, 1]


def of_either(t: Triplet) -> Tensor:
    """Return the smaller of VIFp(A, F) and VIFp(B, F), (B,): what is kept of both sources. NaN if either is."""
    return torch.minimum(of_visible(t), of_infrared(t))


def saturated(t: Triplet) -> Tensor:
    """tang2022: at the first scale the squares and products of pixels are 8-bit integers, cut to 255."""
    return _pooled(t, saturate=True).sum(dim=1)


def models(t: Triplet, saturate: bool = False) -> Iterator[tuple[int, Model]]:
    """Return the local models of scales 1 to 4, in bands of rows: (scale, model of a band).

    Needs `MIN_SIDE` pixels both ways.

    `saturate`: squares and products of the first scale are cut to 255.
    """
    source_BSHW, fused_B1HW = t.source_BSHW, t.fused
    for scale in range(1, SCALES + 1):
        size = 2 ** (SCALES + 1 - scale) + 1
        taps = gaussian_window(size, size / 5)
        if scale > 1:
            source_BSHW, fused_B1HW = (filter_valid(x, taps, step=2) for x in (source_BSHW, fused_B1HW))
        for first, rows in bands(source_BSHW, source_BSHW.shape[-2] - size + 1):
            source, fused = (x.narrow(-2, first, rows + size - 1) for x in (source_BSHW, fused_B1HW))
            yield scale, local_model(local_moments(source, fused, taps, top=255.0 if saturate and scale == 1 else None))


def local_model(local: Moments) -> Model:
    """Return gain, variance and noise of F = g A + noise for each source, B S H W."""
    flat_source = local.source_var_BSHW < EPSILON
    variance = local.source_var_BSHW.masked_fill(flat_source, 0.0)
    gain = (local.covariance_BSHW / (variance + EPSILON)).clamp_(min=0.0)
    gain.masked_fill_(flat_source | (local.fused_var_B1HW < EPSILON), 0.0)
    # where the gain is 0 nothing is kept, so that the noise term matters only where the model holds
    noise = (local.fused_var_B1HW - gain * local.covariance_BSHW).clamp_(min=EPSILON)
    return Model(gain, variance, noise)


def _pooled(t: Triplet, saturate: bool) -> Tensor:
    if t.short_side < MIN_SIDE:
        return t.nan()[:, None].expand(-1, 2)
    kept_BS = present_BS = t.fused.new_zeros(())
    for _, model in models(t, saturate):
        kept, present = information(model, NOISE)
        kept_BS = kept_BS + kept.sum(dim=(-2, -1))
        present_BS = present_BS + present.sum(dim=(-2, -1))
    # rounding leaves variances up to 7e-11 in a constant image, too close to EPSILON to rely on
    return (kept_BS / present_BS).masked_fill(is_constant(t.source_BSHW), torch.nan)


def information(model: Model, noise: float) -> tuple[Tensor, Tensor]:
    """Return ln(1 + g^2 s / (v + noise)) and ln(1 + s / noise) of every pixel, B S H W."""
    kept = model.gain_BSHW.square().mul_(model.variance_BSHW).div_(model.noise_BSHW + noise).log1p_()
    return kept, (model.variance_BSHW / noise).log1p_()
