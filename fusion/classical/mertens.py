"""Exposure fusion: every image where it has contrast and is neither dark nor blown out, blended band by band.

    C = |Laplacian I| + 1e-4, E = exp(-(I - 0.5)^2 / (2 * 0.2^2)), W_1 = C_1 E_1 / (C_1 E_1 + C_2 E_2), W_2 = 1 - W_1
    F = the pyramid of which each level is the sum over the images of Gaussian(W) Laplacian(I)

The pyramid goes down to a side of 4 pixels at least (the paper: to the smallest one). The paper's third measure,
saturation, is that of a colour image, and 0 for the grey ones here, so it is left out; its exponents are all 1.

Source: Mertens, Kautz and Van Reeth, Exposure fusion, Pacific Graphics 2007; Computer Graphics Forum 28(1), 2009.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.classical.filters import REPLICATE, apply_in_strips, as_float64, grey_levels, lerp, to_output
from fusion.classical.lp import SMALLEST, expand, reduce

MIDDLE = 0.5
SIGMA = 0.2
LEAST = 1e-4  # of contrast, so that flat regions are weighed by their exposure


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(visible, infrared)
    return to_output(blend(first, second, first_weight(first, second)), visible)


def fuse_colour(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse every channel by the weights of the grey versions: float (H, W, 3) twice -> float (H, W, 3)."""
    first, second = as_float64(visible, infrared)
    weight = first_weight(grey_levels(first), grey_levels(second))
    planes = [[np.ascontiguousarray(image[..., c]) for c in range(3)] for image in (first, second)]
    channels = [blend(one, two, weight) for one, two in zip(*planes, strict=True)]
    return to_output(np.stack(channels, axis=-1), visible)


def blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return F of two images and the first one's weight, (H, W) each."""
    bands: list[np.ndarray] = []
    while min(first.shape) >= 2 * SMALLEST:
        small_1, small_2 = reduce(first), reduce(second)
        bands.append(lerp(weight, second - expand(small_2, second.shape), first - expand(small_1, first.shape)))
        first, second, weight = small_1, small_2, reduce(weight)
    fused = lerp(weight, second, first)
    for band in reversed(bands):
        fused = expand(fused, band.shape) + band
    return fused


def first_weight(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return W_1, (H, W) in [0, 1], of two images (H, W)."""
    contrasts = [cv2.Laplacian(image, -1, ksize=1, borderType=REPLICATE) for image in (first, second)]

    def formula(first: np.ndarray, second: np.ndarray, contrast_1: np.ndarray, contrast_2: np.ndarray) -> np.ndarray:
        # of the quotient of both exposures alone, as each may be as small as exp(-3)
        ratio = np.exp(((first - MIDDLE) ** 2 - (second - MIDDLE) ** 2) / (2 * SIGMA**2))
        weight: np.ndarray = 1 / (1 + ratio * (np.abs(contrast_2) + LEAST) / (np.abs(contrast_1) + LEAST))
        return weight

    return apply_in_strips(formula, first, second, *contrasts)
