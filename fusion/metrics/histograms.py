"""Histograms of 8-bit images, a whole batch in one count, and their entropies. All of them are shared by metrics.

Shapes: B images, S = 2 sources, T = 3 images of a triplet (visible, infrared, fused), N bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusion.metrics.triplet import Triplet

LEVELS = 256


def levels(t: Triplet) -> Tensor:
    """Return 8-bit levels, B T H W uint8: rounded, clamped to 0..255 (of a NaN, any: `score` answers NaN then)."""
    return t.image_BTHW.round().clamp_(0, LEVELS - 1).to(torch.uint8)


def counts(index_BKHW: Tensor, bins: int) -> Tensor:
    """Count the pixels in each bin, B K N int64, of an index in 0..bins-1."""
    batch, planes = index_BKHW.shape[:2]
    if index_BKHW.device.type == "cpu":
        rows = [plane.flatten().bincount(minlength=bins) for plane in index_BKHW.flatten(0, 1)]
        return torch.stack(rows).view(batch, planes, bins) if rows else index_BKHW.new_zeros(0, planes, bins)
    offset_BK11 = torch.arange(batch * planes, device=index_BKHW.device).view(batch, planes, 1, 1) * bins
    count = (index_BKHW + offset_BK11).flatten().bincount(minlength=batch * planes * bins)  # one count for the batch
    return count.view(batch, planes, bins)


def shares(t: Triplet) -> Tensor:
    """Return the histograms p of visible, infrared and fused, B T 256, sum 1."""
    return counts(t.get(levels), LEVELS).double() / (t.height * t.width)


def joint_shares(t: Triplet, top: int = LEVELS - 1) -> Tensor:
    """Return the joint histograms of each source with the fused image, B S 256^2; levels above `top` count as `top`."""
    level_BTHW = t.get(levels).clamp(max=top).int()
    index_BSHW = level_BTHW[:, :2] * LEVELS + level_BTHW[:, 2:]
    return counts(index_BSHW, LEVELS**2).double() / (t.height * t.width)


def entropy(share: Tensor) -> Tensor:
    """H = - sum over the last dimension of p log2 p, in bits; an empty bin counts 0."""
    return -torch.xlogy(share, share).sum(dim=-1) / math.log(2)


def entropies(t: Triplet) -> Tensor:
    """Return H of visible, infrared and fused, B T, in bits."""
    return entropy(t.get(shares))


def mutual_information(t: Triplet, top: int = LEVELS - 1) -> Tensor:
    """I(A; F) and I(B; F) = H(X) + H(F) - H(X, F), B S, in bits. At least 0, which the difference may just miss."""
    entropy_BT = t.get(entropies)
    joint_BS = entropy(t.get(joint_shares, top))
    return (entropy_BT[:, :2] + entropy_BT[:, 2:] - joint_BS).clamp(min=0)
