"""Q_abf, the share of the sources' edge information that the fused image keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.metrics.filters import bands, sobel, sobel_by_column
from fusion.metrics.triplet import Triplet

# the paper's constants: ceiling, slope and centre of the sigmoids for edge strength and orientation
STRENGTH = (0.9994, -15.0, 0.5)
ORIENTATION = (0.9879, -22.0, 0.8)


class Sums(NamedTuple):
    """Over all pixels, for each of the S = 2 sources: g, and Q g of all pixels or what was asked for instead."""

    weight_BS: Tensor
    kept_BS: Tensor

    @property
    def share(self) -> Tensor:
        """What was asked for of both sources together, by their g, (B,)."""
        return self.kept_BS.sum(1) / self.weight_BS.sum(1)


def compute(t: Triplet) -> Tensor:
    """Return Q_abf of every image, float64 (B,).

    Q_abf = sum over pixels of (Q_AF g_A + Q_BF g_B) / sum over pixels of (g_A + g_B)   (exponent L = 1), with
    Q_AF = T_g / (1 + exp(k_g (G - D_g))) * T_a / (1 + exp(k_a (D - D_a))),
    T_g, k_g, D_g = 0.9994, -15, 0.5;  T_a, k_a, D_a = 0.9879, -22, 0.8.

    g = sqrt(Sx^2 + Sy^2) and a = atan(Sy / Sx), pi/2 where Sx = 0, from Sobel differences on the 0..255 scale with
    zeros beyond the border: the picture's rim counts as an edge. D = 1 - |a_A - a_F| / (pi/2).
    G = min(g_A, g_F) / max(g_A, g_F), but G = g_F where g_A = g_F, as the evaluators in wide use have it. The paper
    gives 1 there; as 8-bit images have g of 0 or at least 1, the two differ by under 6e-4 of an equal pixel's share
    (a sigmoid at 1 or beyond), and g = 0 has no weight. Fractional images make the equalities depend on rounding.

    About 0.975 for F = A = B. NaN if both sources are 0 everywhere (no edge, not even the rim: 0/0). Standard and
    cddfuse. Source: Xydeas and Petrovic, "Objective image fusion performance measure", Electronics Letters 36, 2000.
    """
    return t.get(edge_sums).share


def of_visible(t: Triplet) -> Tensor:
    """Return Q_AF of every image: the share of the visible image's edges that is kept, float64 (B,).

    Q_AF = sum over pixels of Q_AF g_A / sum over pixels of g_A, one of the two parts of Q_abf (see `compute`). A plain
    copy of one source has a high Q_abf and a low share of the other source: so read the smaller of the two. NaN if the
    source is 0 everywhere. Source: Xydeas and Petrovic 2000.
    """
    sums = t.get(edge_sums)
    return sums.kept_BS[:, 0] / sums.weight_BS[:, 0]


def of_infrared(t: Triplet) -> Tensor:
    """Return Q_BF of every image: the share of the infrared image's edges that is kept, see `of_visible`."""
    sums = t.get(edge_sums)
    return sums.kept_BS[:, 1] / sums.weight_BS[:, 1]


def of_either(t: Triplet) -> Tensor:
    """Return the smaller of Q_AF and Q_BF of every image: what is kept of both sources. NaN if either is."""
    return torch.minimum(of_visible(t), of_infrared(t))


def on_unit_scale(t: Triplet) -> Tensor:
    """tang2022: on 0..1, Sobel as a convolution summed column by column over the kernel.

    Rounding then decides where flat areas have Sx = 0 or g_A = g_F: any other order of the sum is off by up to 3.4e-2,
    and a root that is not rounded right by up to 2e-5.
    """
    whole = t.fused.new_full((1,), 255.0)  # torch divides by a plain number as a product with its inverse
    return edge_sums(t.map(lambda image: image / whole), sobel_by_column, rounded_root).share


def on_squared_scale(t: Triplet) -> Tensor:
    """vifb: on 0..65025, which shows only where g_A = g_F."""
    return edge_sums(t.map(lambda image: image * 255)).share


def edge_sums(
    t: Triplet,
    differences: Callable[[Tensor], tuple[Tensor, Tensor]] = sobel,
    root: Callable[[Tensor], Tensor] = torch.sqrt,
    added: bool = False,
) -> Sums:
    """Return what Q_abf is made of, in bands of rows; `added`: (1 - Q) g where the fused edge tops both sources'."""
    source, fused = F.pad(t.source_BSHW, (1, 1, 1, 1)), F.pad(t.fused, (1, 1, 1, 1))
    weight, total = torch.zeros_like(source[:, :, 0, 0]), torch.zeros_like(source[:, :, 0, 0])
    for first, rows in bands(t.source_BSHW, maps=8):
        strength, angle = _polar(*differences(source.narrow(-2, first, rows + 2)), root)
        fused_strength, fused_angle = _polar(*differences(fused.narrow(-2, first, rows + 2)), root)
        quality = _preservation(strength, angle, fused_strength, fused_angle)
        if added:
            stronger = (fused_strength > strength).all(dim=1, keepdim=True)
            quality = (1 - quality).mul_(stronger)
        weight += strength.sum(dim=(2, 3))
        total += quality.mul_(strength).sum(dim=(2, 3))
    return Sums(weight, total)


def rounded_root(value: Tensor) -> Tensor:
    """Return the square root, correctly rounded.

    `torch.sqrt` of float64 may be off by one unit in the last place on a CPU.
    """
    root = value.sqrt()
    high = root * 134217729.0  # 2^27 + 1: two halves of the root, whose products are exact
    high = high - (high - root)
    low = root - high
    square = root * root
    missed = ((high * high - square) + 2 * high * low) + low * low  # root^2 = square + missed, exactly
    change = ((value - square) - missed) / (2 * root)
    return torch.where(root > 0, root + change, root)


def _polar(dx: Tensor, dy: Tensor, root: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Edge strength g and orientation a in (-pi/2, pi/2] of every pixel."""
    angle = (dy / dx).atan_().masked_fill_(dx == 0, math.pi / 2)
    return root(dx.square_().add_(dy.square_())), angle


def _preservation(
    strength_BSHW: Tensor, angle_BSHW: Tensor, fused_strength_B1HW: Tensor, fused_angle_B1HW: Tensor
) -> Tensor:
    """Q_AF and Q_BF of every pixel, B S H W in 0..1."""
    ratio = torch.minimum(strength_BSHW, fused_strength_B1HW)
    ratio.div_(torch.maximum(strength_BSHW, fused_strength_B1HW))
    ratio = torch.where(strength_BSHW == fused_strength_B1HW, fused_strength_B1HW, ratio)
    apart = (angle_BSHW - fused_angle_B1HW).abs_()
    agreement = 1 - apart.div_(apart.new_full((1,), math.pi / 2))
    (ceiling, slope, centre), (ceiling2, slope2, centre2) = STRENGTH, ORIENTATION
    first = ratio.sub_(centre).mul_(slope).exp_().add_(1)
    second = agreement.sub_(centre2).mul_(slope2).exp_().add_(1)
    return first.mul_(second).reciprocal_().mul_(ceiling * ceiling2)
