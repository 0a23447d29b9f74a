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

from fusion.library.filters import finish, widen

LEVELS = 4
SMALLEST = 4  # pixels of the shorter side of the base
TAPS = np.array([1, 4, 6, 4, 1]) / 16


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = widen(infrared, visible)
    bands = []
    while len(bands) < LEVELS and min(first.shape) >= 2 * SMALLEST:
        small_1, small_2 = reduce(first), reduce(second)
        bands.append(choose(first - expand(small_1, first.shape), second - expand(small_2, second.shape)))
        first, second = small_1, small_2
    fused = (first + second) / 2
    for band in reversed(bands):
        fused = expand(fused, band.shape) + band
    return finish(fused, visible)


def reduce(image: np.ndarray) -> np.ndarray:
    """Blurred by w, then every second row and column, (H + 1) // 2 x (W + 1) // 2."""
    return cv2.sepFilter2D(image, -1, TAPS, TAPS, borderType=cv2.BORDER_REFLECT_101)[::2, ::2]


def expand(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Zeros between the pixels, then 4 w: even places (1, 6, 1) / 8, odd ones the mean of their neighbours."""
    for axis, length in enumerate(shape):
        image = _expand(image, length, axis)
    return image


def _expand(image: np.ndarray, length: int, axis: int) -> np.ndarray:
    taps = np.array([1, 6, 1]) / 8
    # the mirror of the zero-filled image lies on a pixel on the near side and on a zero on the far side
    near, far = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
    near[axis], far[axis] = (1, 0), (0, 1)
    padded = np.pad(np.pad(image, near, mode="reflect"), far, mode="edge")
    before, here, after = (np.take(padded, range(k, k + image.shape[axis]), axis) for k in range(3))
    shape = list(image.shape)
    shape[axis] *= 2
    result = np.empty(shape, image.dtype)
    places = (slice(None),) * axis
    result[(*places, slice(0, None, 2))] = taps[0] * before + taps[1] * here + taps[2] * after
    result[(*places, slice(1, None, 2))] = (here + after) / 2
    return result[(*places, slice(length))]


def choose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The coefficients with the larger neighbourhood, by majority of 3 x 3."""
    window = np.ones((3, 3), np.uint8)
    larger = cv2.dilate(np.abs(first), window) > cv2.dilate(np.abs(second), window)
    votes = cv2.boxFilter(larger.astype(np.uint8), -1, (3, 3), normalize=False, borderType=cv2.BORDER_REFLECT_101)
    return np.where(votes > 4, first, second)
