"""Q_abf written the usual way in numpy: what the metric is checked and timed against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Edges = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def plain_edges(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edge strength and orientation, (H, W) each.

    Sobel as a full convolution, summed column by column over the kernel (the order matters for fractions).
    """
    vertical = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    horizontal = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    height, width = x.shape
    padded = np.pad(x, 1)
    sums = []
    for kernel in (horizontal, vertical):
        total = np.zeros_like(x)
        for j in range(3):
            for i in range(3):
                total += kernel[i, j] * padded[2 - i : 2 - i + height, 2 - j : 2 - j + width]
        sums.append(total)
    sx, sy = sums
    with np.errstate(all="ignore"):
        return np.sqrt(sx**2 + sy**2), np.where(sx == 0, np.pi / 2, np.arctan(sy / sx))


def plain_qabf(a: np.ndarray, b: np.ndarray, f: np.ndarray, edges: Edges = plain_edges) -> float:
    """Q_abf of a fused image f, (H, W) as its sources a and b; `edges` computes strength and orientation."""
    (gf, af), kept, weight = edges(f), 0.0, 0.0
    for source in (a, b):
        g, angle = edges(source)
        with np.errstate(all="ignore"):
            ratio = np.where(g > gf, gf / g, np.where(g == gf, gf, g / gf))
        aligned = 1 - np.abs(angle - af) / (np.pi / 2)
        quality = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (aligned - 0.8)))
        kept, weight = kept + (quality * g).sum(), weight + g.sum()
    return kept / weight
