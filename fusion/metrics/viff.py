"""VIFF, visual information fidelity for fusion: the source that the fused image shows less of counts at each pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusion.metrics.filters import is_constant
from fusion.metrics.triplet import Triplet
from fusion.metrics.vif import MIN_SIDE, information, models

NOISE = 0.005 * 255**2  # variance of the visual noise, in squared grey levels
GUARD = 1e-7  # added to every pixel's information, which is in decimal logarithms
WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)  # of the four scales; the second is not used


def compute(t: Triplet) -> Tensor:
    """Return VIFF of every image, float64 (B,).

    VIFF = sum over scales k = 1..4 of p_k sum (kept + 1e-7) / sum (present + 1e-7),  p = (1, 0, 0.15, 1) / 2.15,
    kept = log10(1 + g^2 s / (v + N)),  present = log10(1 + s / N),  N = 0.005 * 255^2.

    g, s and v are VIF's local models F = g X + noise of both sources X (`vif.models`). Each pixel counts for one source
    only, the one with the smaller gain g; where the gains are equal, for the second source, which is the infrared image
    here. So exchanging the sources changes the value where gains are equal but information is not, as in areas where
    the fused image is flat or both gains are negative (cut to 0). In nearly flat areas g is a quotient of rounding
    errors, which then select the source: values agree between implementations to about 1e-5 in float64 only.

    Range: 0 up, 1 for F = A = B (to 1e-9), above 1 if contrast was raised. On luma; the authors' program takes the L of
    CIELAB from colour images. NaN for images under 41 pixels on a side, and where a source is constant: its gain of 0
    would win everywhere and leave guard / guard = 1 for any fused image. Source: Han, Cai, Cao and Xu, "A new image
    fusion performance metric based on visual information fidelity", Information Fusion 14, 2013.
    """
    if t.short_side < MIN_SIDE:
        return t.nan()
    zero = t.fused.new_zeros(())
    kept_B, present_B = [zero] * len(WEIGHTS), [zero] * len(WEIGHTS)
    for scale, model in models(t):
        if not WEIGHTS[scale - 1]:
            continue
        first_BHW = model.gain_BSHW[:, 0] < model.gain_BSHW[:, 1]
        for total, part in zip((kept_B, present_B), information(model, NOISE), strict=True):
            chosen_BHW = torch.where(first_BHW, part[:, 0], part[:, 1])
            total[scale - 1] = total[scale - 1] + (chosen_BHW / math.log(10) + GUARD).sum(dim=(-2, -1))
    terms = zip(WEIGHTS, kept_B, present_B, strict=True)
    value_B = zero
    for weight, kept, present in terms:
        if weight:
            value_B = value_B + weight * kept / present
    return value_B.masked_fill(is_constant(t.source_BSHW).any(dim=1), torch.nan)
