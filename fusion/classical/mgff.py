"""MGFF: multi-scale decomposition by the guided filter, where each image guides the other.

    A_1' = guided(A_1, A_2), A_2' = guided(A_2, A_1), D = A - A'      four levels, r = 9, epsilon = 1000 grey levels^2
    F = (A_1 + A_2) / 2 + sum over levels (|D_1| D_1 + |D_2| D_2) / (|D_1| + |D_2|)

The first argument of guided() is the guide. Where both details vanish nothing is added.

Source: Bavirisetti, Xiao, Zhao, Dhuli and Liu, Multi-scale guided image and video fusion: a fast and efficient
approach, Circuits, Systems, and Signal Processing 38, 2019.
"""

from __future__ import annotations

import numpy as np

from fusion.classical.filters import Box, apply_in_strips, as_float64, to_output

LEVELS = 4
RADIUS = 9
EPSILON = 1000 / 255**2


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(infrared, visible)
    box = Box(first.shape, RADIUS)
    fused = np.zeros_like(first)
    spare = (np.empty_like(first), np.empty_like(second))
    for _ in range(LEVELS):
        base_1, base_2 = box.mutual(first, second, EPSILON, spare)
        apply_in_strips(_add_details, fused, first, base_1, second, base_2, out=fused)
        first, second, spare = base_1, base_2, (first, second)
    apply_in_strips(lambda details, first, second: details + (first + second) / 2, fused, first, second, out=fused)
    return to_output(fused, visible)


def _add_details(
    fused: np.ndarray, first: np.ndarray, base_1: np.ndarray, second: np.ndarray, base_2: np.ndarray
) -> np.ndarray:
    detail_1, detail_2 = first - base_1, second - base_2
    size_1, size_2 = np.abs(detail_1), np.abs(detail_2)
    total = np.maximum(size_1 + size_2, np.finfo(np.float64).tiny)
    added: np.ndarray = fused + (size_1 * detail_1 + size_2 * detail_2) / total
    return added
