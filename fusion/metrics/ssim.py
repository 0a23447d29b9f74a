"""SSIM, structural similarity of the fused image to its sources."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.filters import Moments, local_moments, moments
from fusion.metrics.triplet import Triplet

SIZE, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def compute(t: Triplet) -> Tensor:
    """Return SSIM of every image, float64 (B,).

    SSIM = (SSIM(A, F) + SSIM(B, F)) / 2, SSIM(X, F) the mean over pixels of
    (2 mX mF + C1)(2 cov + C2) / ((mX^2 + mF^2 + C1)(varX + varF + C2)),  C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2.

    Local means, variances (ddof 0) and covariance in an 11 x 11 Gaussian window of sigma 1.5, 'valid' pixels only.
    The mean of both sources. Defined for constant images. NaN for images under 11 pixels on a side. Source: Wang,
    Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    IEEE Trans. Image Processing 13, 2004.
    """
    if t.short_side < SIZE:
        return t.nan()
    return similarity(t.get(moments, SIZE, SIGMA), C1, C2).mean(dim=(1, 2, 3))


def summed(t: Triplet) -> Tensor:
    """vifb: the sum of both sources."""
    return 2 * compute(t)


def uniform(t: Triplet) -> Tensor:
    """cddfuse: scikit-image's defaults of its time, summed over both sources.

    A uniform 7 x 7 window, variances with ddof 1, and, as the images are floats, a data range of 2 where 255 was
    meant: C1 = 0.02^2, C2 = 0.06^2, which makes the value fall in flat areas. Today's scikit-image refuses such a call.
    """
    if t.short_side < 7:
        return t.nan()
    taps = [1 / 7] * 7
    scale = 49 / 48
    local = local_moments(t.source_BSHW, t.fused, taps)
    local = local._replace(
        source_var_BSHW=local.source_var_BSHW * scale,
        fused_var_B1HW=local.fused_var_B1HW * scale,
        covariance_BSHW=local.covariance_BSHW * scale,
    )
    return similarity(local, 0.02**2, 0.06**2).mean(dim=(-2, -1)).sum(dim=1)


def similarity(local: Moments, c1: float, c2: float) -> Tensor:
    """Return the SSIM map of each source, B S H W."""
    return luminance(local, c1) * structure(local, c2)


def luminance(local: Moments, c1: float) -> Tensor:
    """Return the luminance term of each source, B S H W."""
    mean_A, mean_F = local.source_mean_BSHW, local.fused_mean_B1HW
    return (2 * mean_A * mean_F + c1) / (mean_A.square() + mean_F.square() + c1)


def structure(local: Moments, c2: float) -> Tensor:
    """Return contrast and structure together, of each source, B S H W."""
    return (2 * local.covariance_BSHW + c2) / (local.source_var_BSHW + local.fused_var_B1HW + c2)
