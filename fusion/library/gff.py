"""GFF: which image is more salient at each pixel, smoothed by guided filters into weights of base and detail.

    B = mean of 31 x 31, D = I - B
    S = Gaussian (11 x 11, sigma 5) of |Laplacian I|, P_1 = 1 where S_1 > S_2 else 0, P_2 = 1 - P_1
    W = guided(I, P), rounded to 8 bits, then divided by the sum over both images:
        base r = 45, epsilon = 0.3; detail r = 7, epsilon = 1e-6
    F = sum over the images of W_base B + W_detail D

1 is the visible image. The weights of a colour image are those of its grey version, for all three channels.

Source: Li, Kang and Hu, Image fusion with guided filtering, IEEE Transactions on Image Processing 22(7), 2013.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.colour import grey, quantise
from fusion.library.filters import REPLICATE, Box, finish, gaussian, guided_filter, widen

WINDOW = 31
BASE = (45, 0.3)  # radius, epsilon
DETAIL = (7, 1e-6)


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = widen(visible, infrared)
    return finish(blend(first, second, *weights(first, second)), visible)


def fuse_colour(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float (H, W, 3) twice -> float (H, W, 3)."""
    first, second = widen(visible, infrared)
    base, detail = weights(_grey(first), _grey(second))
    channels = [blend(first[..., c], second[..., c], base, detail) for c in range(3)]
    return finish(np.stack(channels, axis=-1), visible)


def _grey(image: np.ndarray) -> np.ndarray:
    return grey(quantise(image)) / 255


def blend(first: np.ndarray, second: np.ndarray, base: np.ndarray, detail: np.ndarray) -> np.ndarray:
    """The sum of both images' bases and details, with the first image's weights."""
    base_1 = cv2.blur(first, (WINDOW, WINDOW), borderType=REPLICATE)
    base_2 = cv2.blur(second, (WINDOW, WINDOW), borderType=REPLICATE)
    return base * base_1 + (1 - base) * base_2 + detail * (first - base_1) + (1 - detail) * (second - base_2)


def weights(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first image's weights in base and detail; the second's are the rest to 1."""
    chosen = (salience(first) > salience(second)).astype(first.dtype)
    return share(first, second, chosen, *BASE), share(first, second, chosen, *DETAIL)


def share(first: np.ndarray, second: np.ndarray, chosen: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """W_1 / (W_1 + W_2)."""
    box = Box(first.shape, radius)
    mean = box.mean(chosen)
    weight_1 = _round(guided_filter(first, chosen, box, epsilon, mean=mean))
    # guided(I, 1 - P) = 1 - guided(I, P)
    weight_2 = _round(1 - guided_filter(second, chosen, box, epsilon, mean=mean))
    return (weight_1 + 1e-12) / (weight_1 + weight_2 + 2e-12)


def _round(weight: np.ndarray) -> np.ndarray:
    """Clipped to [0, 1] and rounded to 8 bits, as in the authors' program."""
    return np.floor(np.clip(weight, 0, 1) * 255 + 0.5) / 255


def salience(image: np.ndarray) -> np.ndarray:
    """Gaussian mean of |Laplacian|; exactly 0 in flat regions, where the order of the sum would leave rounding."""
    padded = np.pad(image, 1, mode="edge")
    laplacian = (padded[:-2, 1:-1] + padded[2:, 1:-1]) + (padded[1:-1, :-2] + padded[1:-1, 2:]) - 4 * image
    return gaussian(np.abs(laplacian), 11, 5, REPLICATE)
