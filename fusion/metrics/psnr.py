"""PSNR, the peak signal-to-noise ratio of the fused image against both sources."""

from __future__ import annotations

import math

from torch import Tensor

from fusion.metrics import mse, rmse
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """PSNR = 10 log10(255^2 / MSE), MSE = (mean (A - F)^2 + mean (B - F)^2) / 2, in dB.

    One PSNR from the mean of the two errors, not the mean of two PSNRs. F = A = B gives +inf, the true value. Source:
    Ma, Ma and Li, "Infrared and visible image fusion methods and applications: a survey", Information Fusion 45, 2019.
    """
    return 10 * (255.0**2 / mse.compute(t)).log10()


def own_peak(t: Triplet) -> Tensor:
    """cddfuse: the peak is the brightest pixel of the fused image, not 255."""
    return 10 * (t.fused.amax(dim=(1, 2, 3)).square() / mse.compute(t)).log10()


def mixed_scales(t: Triplet) -> Tensor:
    """tang2022: peak 255 over an MSE on 0..1, 48.13 dB more than the standard value."""
    return compute(t) + 20 * math.log10(255)


def of_norm(t: Triplet) -> Tensor:
    """vifb: 10 log10(255^2 / its RMSE), that value standing where the MSE should: about 58 dB."""
    return 10 * (255.0**2 / rmse.by_norm(t)).log10()
