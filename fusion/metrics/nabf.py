"""N_abf, the share of edges in the fused image that no source has: artefacts."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.qabf import edge_sums
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """Return N_abf of every image, float64 (B,).

    N_abf = sum over pixels of M ((1 - Q_AF) g_A + (1 - Q_BF) g_B) / sum over pixels of (g_A + g_B),
    M = 1 where g_F > g_A and g_F > g_B, else 0.

    Edge strengths g and preservations Q as in Q_abf, exponent L = 1. NaN where Q_abf is. Lower is better. Source:
    Shreyamsha Kumar, "Multifocus and multispectral image fusion based on pixel significance using discrete cosine
    harmonic wavelet transform", Signal, Image and Video Processing 7, 2013.
    """
    sums = edge_sums(t, added=True)
    return sums.share
