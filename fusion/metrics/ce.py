"""CE, the cross entropy between the sources and the fused image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusion.metrics.histograms import shares
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """CE = (D(A || F) + D(B || F)) / 2, D(X || F) = sum over the 256 levels of p_X log2(p_X / p_F), in bits.

    The field's cross entropy is the Kullback-Leibler divergence. Levels that the source or the fused image lacks are
    skipped, as the divergence would be infinite there; so it can fall below 0. Lower is better. Standard and vifb.
    Source: Bulanon, Burks and Alchanatis, "Image fusion of visible and thermal images for fruit detection", Biosystems
    Engineering 103, 2009; as in VIFB.
    """
    share_BTN = t.get(shares)
    source_BSN, fused_B1N = share_BTN[:, :2], share_BTN[:, 2:]
    both = (source_BSN > 0) & (fused_B1N > 0)
    terms = source_BSN * (source_BSN / fused_B1N).log()
    return torch.where(both, terms, 0.0).sum(dim=-1).mean(dim=1) / math.log(2)
