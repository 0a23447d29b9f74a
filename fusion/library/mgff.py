"""MGFF: multi-scale decomposition by the guided filter, where each image guides the other.

    A_1' = guided(A_1, A_2), A_2' = guided(A_2, A_1), D = A - A'      four levels, r = 9, epsilon = 1000 grey levels^2
    F = (A_1 + A_2) / 2 + sum over levels (|D_1| D_1 + |D_2| D_2) / (|D_1| + |D_2|)

The first argument of guided() is the guide. Where both details vanish nothing is added.

Source: Bavirisetti, Xiao, Zhao, Dhuli and Liu, Multi-scale guided image and video fusion: a fast and efficient
approach, Circuits, Systems, and Signal Processing 38, 2019.
"""

from __future__ import annotations

import numpy as np

from fusion.library.filters import Box, finish, mutual_guided_filter, widen

LEVELS = 4
RADIUS = 9
EPSILON = 1000 / 255**2


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = widen(infrared, visible)
    box = Box(first.shape, RADIUS)
    fused = np.zeros_like(first)
    for _ in range(LEVELS):
        base_1, base_2 = mutual_guided_filter(first, second, box, EPSILON)
        fused += _blend(first - base_1, second - base_2)
        first, second = base_1, base_2
    return finish(fused + (first + second) / 2, visible)


def _blend(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    size_1, size_2 = np.abs(first), np.abs(second)
    total = size_1 + size_2
    return (size_1 * first + size_2 * second) / np.maximum(total, np.finfo(total.dtype).tiny)
