"""VSM-WLS: rolling guidance pyramid; base by visual saliency, details by weighted least squares.

    base    F_B = (1/2 + (s_1 - s_2) / 2) B_1 + (1/2 + (s_2 - s_1) / 2) B_2
    level 1 F_D = the detail with the larger magnitude
    level 2 to 4: F_D = argmin_D (D - M)^2 + lambda a (D - D_1)^2,  a = 1 / (|mean_7x7 D_2| + 1e-6),  lambda = 0.01
            M = C D_2 + (1 - C) D_1,  C = Gaussian_2 (|D_1| < |D_2|)

1 is the infrared image and 2 the visible one, as in the published results. The least squares problem has no term
between pixels, so it is solved exactly and pixel by pixel: D = (M + lambda a D_1) / (1 + lambda a).
Levels: rolling guidance with sigma 2, 4, 8 and range sigma 0.05, then a Gaussian of sigma 2.
Saliency s of a grey level: sum of |level - level of pixel n| over all pixels n, scaled to 0..1 over the image.

Source: Ma, Zhou, Wang and Zong, Infrared and visible image fusion based on visual saliency map and weighted least
square optimization, Infrared Physics & Technology 82, 2017.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.library.filters import REPLICATE, SYMMETRIC, finish, gaussian, rolling_guidance, widen

SIGMAS = (2, 4, 8)
RANGE_SIGMA = 0.05
LAMBDA = 0.01


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = widen(infrared, visible)
    lead = (saliency(first) - saliency(second)) / 2
    base_1, details_1 = decompose(first)
    base_2, details_2 = decompose(second)
    fused = (0.5 + lead) * base_1 + (0.5 - lead) * base_2
    fused += np.where(np.abs(details_1[0]) < np.abs(details_2[0]), details_2[0], details_1[0])
    for detail_1, detail_2 in zip(details_1[1:], details_2[1:], strict=True):
        fused += blend(detail_1, detail_2)
    return finish(fused, visible)


def decompose(image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(base, [detail of level 1, 2, 3, 4]); their sum is the image."""
    details = []
    for sigma in SIGMAS:
        smooth = rolling_guidance(image, sigma, RANGE_SIGMA)
        details.append(image - smooth)
        image = smooth
    base = gaussian(image, 13, 2, REPLICATE)
    return base, [*details, image - base]


def blend(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The least-squares detail of one level."""
    larger = (np.abs(first) < np.abs(second)).astype(first.dtype)
    share = gaussian(larger, 13, 2, SYMMETRIC)
    aim = first + share * (second - first)
    pull = LAMBDA / (np.abs(cv2.blur(second, (7, 7), borderType=REPLICATE)) + 1e-6)
    return (aim + pull * first) / (1 + pull)


def saliency(image: np.ndarray) -> np.ndarray:
    """How far each grey level (of 256) is from those of all pixels, scaled to 0..1; 0 for a constant image."""
    levels = np.floor(image * 255 + 0.5).astype(np.uint8)
    count = np.bincount(levels.ravel(), minlength=256)
    steps = np.arange(256)
    table = np.abs(steps[:, None] - steps) @ count
    low, high = table[count > 0].min(), table[count > 0].max()
    return ((table - low) / max(high - low, 1))[levels]
