"""VIF, visual information fidelity in the pixel domain, of the fused image against both sources."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.metrics.filters import filter_valid, gaussian_window, is_constant, local_moments, undefined

SCALES = 4
NOISE = 2.0  # variance of the visual noise, in squared grey levels: the metric is tied to the 0..255 scale
EPSILON = 1e-10  # variance below which a window counts as flat
MIN_SIDE = 41  # leaves one whole 3 x 3 window at the fourth scale


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """VIF = VIFp(A, F) + VIFp(B, F),
    VIFp = sum over scales and pixels of log(1 + g^2 s / (v + 2)) / sum over scales and pixels of log(1 + s / 2).

    s is the local variance of the source, g = cov / s the gain and v = var F - g cov the noise of the best local model
    F = g A + noise; g is 0 where it is negative or where a window is flat. Scale k = 1..4 uses a Gaussian window of
    n = 2^(5-k) + 1 taps and sigma n / 5 on 'valid' pixels; before scales 2, 3, 4 the images are smoothed with that
    scale's window and every second pixel is kept. This is VIFp, which the field prints as VIF, not the wavelet VIF and
    not Han's VIFF. The sum of both sources: 2 for F = A = B, and above 2 if contrast was raised.

    NaN for images under 41 pixels on a side and where a source is constant (no information to keep: 0/0).

    B x 1 x H x W float64 on 0..255 -> B. Source: Sheikh and Bovik, "Image information and visual quality",
    IEEE Trans. Image Processing 15, 2006.
    """
    if min(fused.shape[-2:]) < MIN_SIDE:
        return undefined(fused)
    source_BSHW = torch.cat([visible, infrared], dim=1)
    # rounding leaves variances up to 7e-11 in a constant image, too close to EPSILON to rely on
    constant_BS = is_constant(source_BSHW)
    kept_BS, present_BS = 0.0, 0.0
    for scale in range(1, SCALES + 1):
        size = 2 ** (SCALES + 1 - scale) + 1
        taps = gaussian_window(size, size / 5)
        if scale > 1:
            source_BSHW = filter_valid(source_BSHW, taps)[..., ::2, ::2]
            fused = filter_valid(fused, taps)[..., ::2, ::2]
        kept, present = _information(source_BSHW, fused, taps)
        kept_BS, present_BS = kept_BS + kept, present_BS + present
    return (kept_BS / present_BS).masked_fill(constant_BS, torch.nan).sum(dim=1)


def _information(source_BSHW: Tensor, fused_B1HW: Tensor, taps: list[float]) -> tuple[Tensor, Tensor]:
    """Sums of log(1 + g^2 s / (v + 2)) and log(1 + s / 2) over one scale, each B x S (the base cancels)."""
    local = local_moments(source_BSHW, fused_B1HW, taps)
    flat_source = local.source_var_BSHW < EPSILON
    variance = local.source_var_BSHW.masked_fill(flat_source, 0.0)
    gain = (local.covariance_BSHW / (variance + EPSILON)).clamp_(min=0.0)
    gain.masked_fill_(flat_source | (local.fused_var_B1HW < EPSILON), 0.0)
    # where the gain is 0 nothing is kept, so that the noise term matters only where the model holds
    noise = (local.fused_var_B1HW - gain * local.covariance_BSHW).clamp_(min=EPSILON)
    kept = torch.log1p(gain.square() * variance / (noise + NOISE))
    return kept.sum(dim=(-2, -1)), torch.log1p(variance / NOISE).sum(dim=(-2, -1))
