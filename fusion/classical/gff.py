"""GFF: which image is more salient at each pixel, smoothed by guided filters into weights of base and detail.

    B = mean of 31 x 31, D = I - B
    S = Gaussian (11 x 11, sigma 5) of |Laplacian I|, P_1 = 1 where S_1 > S_2 else 0, P_2 = 1 - P_1
    W = guided(I, P), rounded to 8 bits, then divided by the sum over both images:
        base r = 45, epsilon = 0.3; detail r = 7, epsilon = 1e-6
    F = sum over the images of W_base B + W_detail D

1 is the visible image; where both are flat, the infrared one is chosen. The weights of a colour image are those of
its grey version, for all three channels.

Source: Li, Kang and Hu, Image fusion with guided filtering, IEEE Transactions on Image Processing 22(7), 2013.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.classical.filters import (
    NOISE,
    REPLICATE,
    Box,
    apply_in_strips,
    as_float64,
    gaussian,
    grey_levels,
    lerp,
    to_output,
)

WINDOW = 31
BASE = (45, 0.3)  # radius, epsilon
DETAIL = (7, 1e-6)


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(visible, infrared)
    return to_output(mix(first, second, *weights(first, second)), visible)


def fuse_colour(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse every channel: float (H, W, 3) twice -> float (H, W, 3)."""
    first, second = as_float64(visible, infrared)
    base, detail = weights(grey_levels(first), grey_levels(second))
    channels = [mix(first[..., c], second[..., c], base, detail) for c in range(3)]
    return to_output(np.stack(channels, axis=-1), visible)


def mix(first: np.ndarray, second: np.ndarray, base: np.ndarray, detail: np.ndarray) -> np.ndarray:
    """Return the sum of both images' bases and details, with the first image's weights; all (H, W)."""
    base_1 = cv2.blur(first, (WINDOW, WINDOW), borderType=REPLICATE)
    base_2 = cv2.blur(second, (WINDOW, WINDOW), borderType=REPLICATE)

    def formula(
        first: np.ndarray,
        second: np.ndarray,
        base: np.ndarray,
        detail: np.ndarray,
        base_1: np.ndarray,
        base_2: np.ndarray,
    ) -> np.ndarray:
        mixed: np.ndarray = lerp(base, base_2, base_1) + lerp(detail, second - base_2, first - base_1)
        return mixed

    return apply_in_strips(formula, first, second, base, detail, base_1, base_2)


def weights(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first image's weights in base and detail, (H, W) as both images; the second's are the rest to 1."""
    chosen = apply_in_strips(lambda first, second: first > second + NOISE, saliency_map(first), saliency_map(second))
    box = Box(first.shape, 1)
    base, detail = (
        normalised_weight(first, second, chosen, box.of(radius), epsilon) for radius, epsilon in (BASE, DETAIL)
    )
    return base, detail


def normalised_weight(
    first: np.ndarray, second: np.ndarray, chosen: np.ndarray, box: Box, epsilon: float
) -> np.ndarray:
    """Return W_1 / (W_1 + W_2), (H, W); `chosen` is 1 where the first image is more salient, (H, W)."""
    mean = box.mean(chosen)
    weight_1 = box.guided(first, chosen, epsilon, mean)
    rest = box.guided(second, chosen, epsilon, mean)

    def formula(weight_1: np.ndarray, rest: np.ndarray) -> np.ndarray:
        weight_1, weight_2 = _round(weight_1), _round(1 - rest)  # guided(I, 1 - P) = 1 - guided(I, P)
        weight: np.ndarray = (weight_1 + 1e-12) / (weight_1 + weight_2 + 2e-12)
        return weight

    return apply_in_strips(formula, weight_1, rest, out=rest)


def _round(weight: np.ndarray) -> np.ndarray:
    """Clipped to [0, 1] and rounded to 8 bits, as in the authors' program."""
    rounded: np.ndarray = np.floor(np.clip(weight, 0, 1) * 255 + 0.5) / 255
    return rounded


def saliency_map(image: np.ndarray) -> np.ndarray:
    """Return the saliency S, (H, W): a Gaussian of the absolute Laplacian."""
    laplacian = cv2.Laplacian(image, -1, ksize=1, borderType=REPLICATE)
    return gaussian(np.abs(laplacian, out=laplacian), 11, 5, REPLICATE)
