"""SSIM, structural similarity of the fused image to its sources."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.metrics.filters import gaussian_window, local_moments, undefined

SIZE, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """SSIM = (SSIM(A, F) + SSIM(B, F)) / 2, SSIM(X, F) the mean over pixels of
    (2 mX mF + C1)(2 cov + C2) / ((mX^2 + mF^2 + C1)(varX + varF + C2)),  C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2.

    Local means, variances (ddof 0) and covariance in an 11 x 11 Gaussian window of sigma 1.5, 'valid' pixels only.
    The mean of both sources; evaluators that print the sum print twice as much. Defined for constant images.
    NaN for images under 11 pixels on a side.

    B x 1 x H x W float64 on 0..255 -> B. Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from
    error visibility to structural similarity", IEEE Trans. Image Processing 13, 2004.
    """
    if min(fused.shape[-2:]) < SIZE:
        return undefined(fused)
    local = local_moments(torch.cat([visible, infrared], dim=1), fused, gaussian_window(SIZE, SIGMA))
    mean_A, mean_F = local.source_mean_BSHW, local.fused_mean_B1HW
    luminance = (2 * mean_A * mean_F + C1) / (mean_A.square() + mean_F.square() + C1)
    structure = (2 * local.covariance_BSHW + C2) / (local.source_var_BSHW + local.fused_var_B1HW + C2)
    return (luminance * structure).mean(dim=(1, 2, 3))
