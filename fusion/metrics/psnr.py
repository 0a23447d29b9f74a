"""PSNR, the peak signal-to-noise ratio of the fused image against both sources."""

from __future__ import annotations

from torch import Tensor


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """PSNR = 10 log10(255^2 / MSE), MSE = (mean (A - F)^2 + mean (B - F)^2) / 2, in dB.

    One PSNR from the mean of the two errors, not the mean of two PSNRs. F = A = B gives +inf, the true value.

    B x 1 x H x W float64 on 0..255 -> B. Source: Ma, Ma and Li, "Infrared and visible image fusion methods and
    applications: a survey", Information Fusion 45, 2019.
    """
    error_B = sum((fused - source).square().mean(dim=(1, 2, 3)) for source in (visible, infrared)) / 2
    return 10 * (255.0**2 / error_B).log10()
