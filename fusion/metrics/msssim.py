"""MS-SSIM, structural similarity over five scales, of the fused image to its sources."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.metrics.filters import gaussian_window, local_moments, moments
from fusion.metrics.ssim import C1, C2, SIGMA, SIZE, luminance, structure
from fusion.metrics.triplet import Triplet

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MIN_SIDE = (SIZE - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # 161: one whole window at the last scale


def compute(t: Triplet) -> Tensor:
    """Return MS-SSIM of every image, float64 (B,).

    MS-SSIM = mean over both sources X of S_5^w5 prod over scales k < 5 of C_k^wk,
    w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333.

    C_k is the mean contrast-structure term of SSIM at scale k, S_5 the mean of the whole SSIM map at the last; the
    window is SSIM's (11 x 11, sigma 1.5, 'valid'). Between scales, means of 2 x 2 pixels; a last odd row or column is
    repeated. A mean below 0 counts as 0, whose power stays real. NaN for images under 161 pixels on a side. Source:
    Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar 2003.
    """
    if t.short_side < MIN_SIDE:
        return t.nan()
    source_BSHW, fused_B1HW = t.source_BSHW, t.fused
    taps = gaussian_window(SIZE, SIGMA)
    value_BS = torch.ones_like(source_BSHW[..., 0, 0])
    for scale, weight in enumerate(WEIGHTS, start=1):
        local = t.get(moments, SIZE, SIGMA) if scale == 1 else local_moments(source_BSHW, fused_B1HW, taps)
        map_BSHW = structure(local, C2)
        if scale == len(WEIGHTS):
            map_BSHW = map_BSHW * luminance(local, C1)
        value_BS = value_BS * map_BSHW.mean(dim=(-2, -1)).clamp(min=0) ** weight
        source_BSHW, fused_B1HW = _halve(source_BSHW), _halve(fused_B1HW)
    return value_BS.mean(dim=1)


def _halve(image_BKHW: Tensor) -> Tensor:
    odd = (0, image_BKHW.shape[-1] % 2, 0, image_BKHW.shape[-2] % 2)
    return F.avg_pool2d(F.pad(image_BKHW, odd, mode="replicate"), 2)
