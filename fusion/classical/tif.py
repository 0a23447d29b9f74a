"""TIF: two scales, details weighed by saliency.

    B = mean of 35 x 35, D = I - B, S = (B - median of 3 x 3)^2
    F = (B_1 + B_2) / 2 + (S_1 D_1 + S_2 D_2) / (S_1 + S_2)

Borders as in the published results: the mean wraps around, the median sees zeros. Where both saliencies vanish the
details are averaged.

Source: Bavirisetti and Dhuli, Two-scale image fusion of visible and infrared images using saliency detection,
Infrared Physics & Technology 76, 2016.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.classical.filters import apply_in_strips, as_float64, lerp, to_output

WINDOW = 35


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(visible, infrared)
    pieces = first, *decompose(first), second, *decompose(second)
    return to_output(apply_in_strips(_fuse, *pieces), visible)


def _fuse(
    first: np.ndarray,
    base_1: np.ndarray,
    median_1: np.ndarray,
    second: np.ndarray,
    base_2: np.ndarray,
    median_2: np.ndarray,
) -> np.ndarray:
    salient_1, salient_2 = (base_1 - median_1) ** 2, (base_2 - median_2) ** 2
    total = salient_1 + salient_2
    share = np.full_like(total, 0.5)
    np.divide(salient_1, total, out=share, where=total > 0)
    fused: np.ndarray = (base_1 + base_2) / 2 + lerp(share, second - base_2, first - base_1)
    return fused


def decompose(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (base, median), (H, W) each."""
    edge = WINDOW // 2
    wrapped = np.pad(image, edge, mode="wrap")
    return cv2.blur(wrapped, (WINDOW, WINDOW))[edge:-edge, edge:-edge], median(image)


def median(image: np.ndarray) -> np.ndarray:
    """Return the median of 3 x 3, (H, W), with zeros outside; in float32 grey levels, so 8-bit values stay exact."""
    levels = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.float32)
    np.multiply(image, 255, out=levels[1:-1, 1:-1], casting="same_kind")
    return cv2.medianBlur(levels, 3)[1:-1, 1:-1].astype(np.float64) / 255
