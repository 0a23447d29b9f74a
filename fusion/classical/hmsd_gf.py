"""HMSD-GF: hybrid multi-scale decomposition by guided filters, the infrared weight steered by its larger edges.

    per level   G' = guided(G, G), epsilon 100^2 (blurs); L' = guided(L, L), epsilon (0.1 / 2^level)^2 (keeps edges)
                texture D = G - L', edges E = L' - G'; four levels, r = 2, 4, 8, 16
    weight      C = atan(lambda P) / atan(lambda), P = max(|E_2| - |E_1|, 0) / its maximum
    levels 2-4  Gaussian_1 of C for E and D; the last level's C under a Gaussian of sigma 64 also for the base
    level 1     E by a Gaussian of (|E_2| >= |E_1|), D by the larger magnitude
    F = 275/255 (base + sum of all)

1 is the visible image, 2 the infrared one. lambda grows with R, the perceptual saliency of the infrared image over
that of the visible one: 100 up to R = 0.8, then 2500 R - 1900, 2000 from R = 1.6.

Source: Zhou, Dong, Xie and Gao, Fusion of infrared and visible images for night-vision context enhancement,
Applied Optics 55(23), 2016.
"""

from __future__ import annotations

import numpy as np

from fusion.classical.filters import (
    SYMMETRIC,
    Box,
    apply_in_strips,
    as_float64,
    gaussian,
    lerp,
    second_is_stronger,
    to_output,
    wide_gaussian,
)
from fusion.classical.saliency import perceptual_saliency

LEVELS = 4
RADIUS = 2
BLUR = 100.0**2
EDGE = 0.1
BASE_SIGMA = 64
GAIN = 275 / 255


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(visible, infrared)
    strength = steepness(first, second)
    box = Box(first.shape, RADIUS)
    fused, textures_1, edges_1 = decompose(first, box)
    base_2, textures_2, edges_2 = decompose(second, box)

    def add(fused: np.ndarray, share: np.ndarray, *layers: np.ndarray) -> np.ndarray:
        edges_1, textures_1, edges_2, textures_2 = layers
        added: np.ndarray = fused + lerp(share, edges_1 + textures_1, edges_2 + textures_2)
        return added

    for level in range(LEVELS - 1, 0, -1):
        share = preference(edges_1[level], edges_2[level], strength)
        if level == LEVELS - 1:
            apply_in_strips(lerp, wide_gaussian(share, 6 * BASE_SIGMA + 1, BASE_SIGMA), fused, base_2, out=fused)
        share = gaussian(share, 7, 1, SYMMETRIC, out=box.memory[0])
        layers = edges_1[level], textures_1[level], edges_2[level], textures_2[level]
        apply_in_strips(add, fused, share, *layers, out=fused)

    layers = edges_1[0], textures_1[0], edges_2[0], textures_2[0]
    share = gaussian(second_is_stronger(edges_1[0], edges_2[0]), 7, 1, SYMMETRIC, out=box.memory[0])
    apply_in_strips(_add_finest, fused, share, *layers, out=fused)
    return to_output(fused, visible)


def _add_finest(
    fused: np.ndarray,
    share: np.ndarray,
    edges_1: np.ndarray,
    textures_1: np.ndarray,
    edges_2: np.ndarray,
    textures_2: np.ndarray,
) -> np.ndarray:
    textures = np.where(np.abs(textures_1) < np.abs(textures_2), textures_2, textures_1)
    finished: np.ndarray = GAIN * (fused + lerp(share, edges_1, edges_2) + textures)
    return finished


def decompose(image: np.ndarray, box: Box) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Return (base, textures, edges) of an image, all (H, W), finest level first.

    The base + all textures + all edges is the image.
    """
    blurred = kept = image
    textures, edges = [], []
    for level in range(LEVELS):
        box = box.of(RADIUS << level)
        kept = box.guided(kept, kept, (EDGE / 2**level) ** 2)
        textures.append(np.subtract(blurred, kept))
        blurred = box.guided(blurred, blurred, BLUR)
        edges.append(np.subtract(kept, blurred))
    return blurred, textures, edges


def preference(first: np.ndarray, second: np.ndarray, strength: float) -> np.ndarray:
    """Return weights, (H, W): 0 where the visible edges are as strong, towards 1 where infrared ones lead."""
    lead = apply_in_strips(lambda first, second: np.maximum(np.abs(second) - np.abs(first), 0), first, second)
    scale = strength / max(lead.max(), 1e-12)
    return apply_in_strips(lambda lead: np.arctan(lead * scale) / np.arctan(strength), lead, out=lead)


def steepness(visible: np.ndarray, infrared: np.ndarray) -> float:
    """Return the paper's lambda, of two (H, W) images: how steeply infrared edges are preferred."""
    seen = perceptual_saliency(visible)
    ratio = perceptual_saliency(infrared) / seen if seen else 0.0
    return float(np.clip(2500 * ratio - 1900, 100, 2000))
