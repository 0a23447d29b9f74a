"""LP: Laplacian pyramids, in each band the coefficient that is larger in its neighbourhood.

    G_k+1 = every second pixel of (w * G_k), L_k = G_k - expand(G_k+1), w = (1, 4, 6, 4, 1) / 16 in both directions
    C = max of |L_1| over 3 x 3 > max of |L_2| over 3 x 3; L = L_1 where C holds for most of 3 x 3, else L_2
    base = mean of both; F = the pyramid summed up

1 is the infrared image, 2 the visible one. Four levels, fewer in images of a side under 64 (down to 4 pixels).
Borders mirrored without repeating the outermost pixel.

Source: Burt and Adelson, The Laplacian pyramid as a compact image code, IEEE Transactions on Communications 31(4),
1983; consistency check: Li, Manjunath and Mitra, Graphical Models and Image Processing 57(3), 1995.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.classical.filters import as_float64, to_output

LEVELS = 4
SMALLEST = 4  # pixels of the shorter side of the base
TAPS = np.array([1, 4, 6, 4, 1]) / 16


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(infrared, visible)
    bands: list[np.ndarray] = []
    while len(bands) < LEVELS and min(first.shape) >= 2 * SMALLEST:
        small_1, small_2 = reduce(first), reduce(second)
        bands.append(choose(first - expand(small_1, first.shape), second - expand(small_2, second.shape)))
        first, second = small_1, small_2
    fused = (first + second) / 2
    for band in reversed(bands):
        fused = expand(fused, band.shape) + band
    return to_output(fused, visible)


def reduce(image: np.ndarray) -> np.ndarray:
    """Return the image, (H, W), blurred by w, then every second row and column, ((H + 1) // 2, (W + 1) // 2)."""
    return cv2.sepFilter2D(image, -1, TAPS, TAPS, borderType=cv2.BORDER_REFLECT_101)[::2, ::2]


def expand(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image (h, w) with zeros between its pixels, under 4 w, cut to `shape` (H, W)."""
    rows = _double(image)
    return np.ascontiguousarray(_double(rows.T).T[: shape[0], : shape[1]])


def _double(image: np.ndarray) -> np.ndarray:
    """Twice the rows: the even ones (1, 6, 1) / 8 of the old, the odd ones the mean of two."""
    # the mirror of the zero-filled image lies on a pixel before the first row and on a zero after the last
    before = np.concatenate([image[1:2], image[:-1]])
    after = np.concatenate([image[1:], image[-1:]])
    result = np.empty((2 * image.shape[0], image.shape[1]))
    result[::2] = (before + 6 * image + after) / 8
    result[1::2] = (image + after) / 2
    return result


def choose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the coefficients, (H, W), with the larger neighbourhood, by majority of 3 x 3."""
    window = np.ones((3, 3), np.uint8)
    larger = cv2.dilate(np.abs(first), window) > cv2.dilate(np.abs(second), window)
    votes = cv2.boxFilter(larger.astype(np.uint8), -1, (3, 3), normalize=False, borderType=cv2.BORDER_REFLECT_101)
    return np.where(votes > 4, first, second)
