"""HMSD-GF: hybrid multi-scale decomposition by guided filters, the infrared weight steered by its larger edges.

    per level   G' = guided(G, G), epsilon 100^2 (blurs); L' = guided(L, L), epsilon (0.1 / 2^level)^2 (keeps edges)
                texture D = G - L', edges E = L' - G'; four levels, r = 2, 4, 8, 16
    weight      C = atan(lambda P) / atan(lambda), P = max(|E_2| - |E_1|, 0) / its maximum
    levels 2-4  Gaussian_1 of C for E and D; the last level's C under a Gaussian of sigma 64 also for the base
    level 1     E by a Gaussian of (|E_2| > |E_1|), D by the larger magnitude
    F = 275/255 (base + sum of all)

1 is the visible image, 2 the infrared one. lambda grows with R, the perceptual saliency of the infrared image over
that of the visible one: 100 up to R = 0.8, then 2500 R - 1900, 2000 from R = 1.6.

Source: Zhou, Dong, Xie and Gao, Fusion of infrared and visible images for night-vision context enhancement,
Applied Optics 55(23), 2016.
"""

from __future__ import annotations

import numpy as np

from fusion.library.filters import SYMMETRIC, Box, finish, gaussian, guided_filter, widen
from fusion.library.saliency import perceptual_saliency

LEVELS = 4
RADIUS = 2
BLUR = 100.0**2
EDGE = 0.1
BASE_SIGMA = 64
GAIN = 275 / 255


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = widen(visible, infrared)
    strength = steepness(first, second)
    fused, textures_1, edges_1 = decompose(first)
    base_2, textures_2, edges_2 = decompose(second)

    share = preference(edges_1[-1], edges_2[-1], strength)
    fused += gaussian(share, 6 * BASE_SIGMA + 1, BASE_SIGMA, SYMMETRIC) * (base_2 - fused)
    for level in range(LEVELS - 1, 0, -1):
        share = gaussian(preference(edges_1[level], edges_2[level], strength), 7, 1, SYMMETRIC)
        fused += mix(share, edges_1[level], edges_2[level])
        fused += mix(share, textures_1[level], textures_2[level])
    share = gaussian((np.abs(edges_1[0]) < np.abs(edges_2[0])).astype(first.dtype), 7, 1, SYMMETRIC)
    fused += mix(share, edges_1[0], edges_2[0])
    fused += np.where(np.abs(textures_1[0]) < np.abs(textures_2[0]), textures_2[0], textures_1[0])
    return finish(fused * GAIN, visible)


def mix(share: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first + share * (second - first)


def decompose(image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """(base, textures, edges), finest level first; base + all textures and edges is not the image (two chains)."""
    blurred = kept = image
    textures, edges = [], []
    for level in range(LEVELS):
        box = Box(image.shape, RADIUS << level)
        kept = guided_filter(kept, kept, box, (EDGE / 2**level) ** 2)
        textures.append(blurred - kept)
        blurred = guided_filter(blurred, blurred, box, BLUR)
        edges.append(kept - blurred)
    return blurred, textures, edges


def preference(first: np.ndarray, second: np.ndarray, strength: float) -> np.ndarray:
    """0 where the visible edges are as strong, towards 1 where the infrared ones lead; steeper with strength."""
    lead = np.maximum(np.abs(second) - np.abs(first), 0)
    return np.arctan(lead * (strength / max(lead.max(), 1e-12))) / np.arctan(strength)


def steepness(visible: np.ndarray, infrared: np.ndarray) -> float:
    """lambda."""
    seen = perceptual_saliency(visible)
    ratio = perceptual_saliency(infrared) / seen if seen else 0.0
    return float(np.clip(2500 * ratio - 1900, 100, 2000))
