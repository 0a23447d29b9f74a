"""Q_abf, the share of the sources' edge information that the fused image keeps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusion.metrics.filters import sobel

# the paper's constants: ceiling, slope and centre of the sigmoids for edge strength and orientation
STRENGTH = (0.9994, -15.0, 0.5)
ORIENTATION = (0.9879, -22.0, 0.8)


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Q_abf = sum over pixels of (Q_AF g_A + Q_BF g_B) / sum over pixels of (g_A + g_B)   (exponent L = 1), with
    Q_AF = T_g / (1 + exp(k_g (G - D_g))) * T_a / (1 + exp(k_a (D - D_a))),
    T_g, k_g, D_g = 0.9994, -15, 0.5;  T_a, k_a, D_a = 0.9879, -22, 0.8.

    g = sqrt(Sx^2 + Sy^2) and a = atan(Sy / Sx), pi/2 where Sx = 0, from Sobel differences on the 0..255 scale with
    zeros beyond the border: the picture's rim counts as an edge. D = 1 - |a_A - a_F| / (pi/2).
    G = min(g_A, g_F) / max(g_A, g_F), but G = g_F where g_A = g_F, as the evaluators in wide use have it. The paper
    gives 1 there; as 8-bit images have g of 0 or at least 1, the two differ by under 6e-4 of an equal pixel's share
    (a sigmoid at 1 or beyond), and g = 0 has no weight. Fractional images make the equalities depend on rounding.

    About 0.975 for F = A = B. NaN if both sources are 0 everywhere (no edge, not even the rim: 0/0).

    B x 1 x H x W float64 on 0..255 -> B. Source: Xydeas and Petrovic, "Objective image fusion performance measure",
    Electronics Letters 36, 2000.
    """
    strength_BSHW, angle_BSHW = _edges(torch.cat([visible, infrared], dim=1))
    quality_BSHW = preservation(strength_BSHW, angle_BSHW, *_edges(fused))
    return (quality_BSHW * strength_BSHW).sum(dim=(1, 2, 3)) / strength_BSHW.sum(dim=(1, 2, 3))


def preservation(
    strength_BSHW: Tensor, angle_BSHW: Tensor, fused_strength_B1HW: Tensor, fused_angle_B1HW: Tensor
) -> Tensor:
    """Q_AF and Q_BF of every pixel, B x S x H x W in 0..1."""
    ratio = torch.minimum(strength_BSHW, fused_strength_B1HW) / torch.maximum(strength_BSHW, fused_strength_B1HW)
    ratio = torch.where(strength_BSHW == fused_strength_B1HW, fused_strength_B1HW, ratio)
    agreement = 1 - (angle_BSHW - fused_angle_B1HW).abs() / (math.pi / 2)
    return _sigmoid(ratio, *STRENGTH) * _sigmoid(agreement, *ORIENTATION)


def _edges(image_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Edge strength g and orientation a in (-pi/2, pi/2] of every pixel."""
    dx, dy = sobel(image_BKHW)
    strength = (dx.square() + dy.square()).sqrt()
    return strength, torch.where(dx == 0, math.pi / 2, torch.atan(dy / dx))


def _sigmoid(x: Tensor, ceiling: float, slope: float, centre: float) -> Tensor:
    return ceiling / (1 + torch.exp(slope * (x - centre)))
