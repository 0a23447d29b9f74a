"""VSM-WLS: rolling guidance pyramid; base by visual saliency, details by weighted least squares.

    base    F_B = (1/2 + (s_1 - s_2) / 2) B_1 + (1/2 + (s_2 - s_1) / 2) B_2
    level 1 F_D = the detail with the larger magnitude
    level 2 to 4: F_D = argmin_D (D - M)^2 + lambda a (D - D_1)^2,  a = 1 / (|mean_7x7 D_2| + 1e-6),  lambda = 0.01
            M = C D_2 + (1 - C) D_1,  C = Gaussian_2 (|D_1| <= |D_2|)

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

from fusion.classical.filters import (
    REPLICATE,
    SYMMETRIC,
    Box,
    apply_in_strips,
    as_float64,
    gaussian,
    lerp,
    second_is_stronger,
    to_output,
)

SIGMAS = (2, 4, 8)
RANGE_SIGMA = 0.05
ROLLS = 4
LAMBDA = 0.01


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(infrared, visible)
    lead_1, lead_2 = saliency(first), saliency(second)
    box = Box(first.shape, 1)
    base_1, details_1 = decompose(first, box)
    base_2, details_2 = decompose(second, box)

    def start(
        lead_1: np.ndarray,
        lead_2: np.ndarray,
        base_1: np.ndarray,
        base_2: np.ndarray,
        detail_1: np.ndarray,
        detail_2: np.ndarray,
    ) -> np.ndarray:
        base = lerp((1 - lead_1 + lead_2) / 2, base_1, base_2)
        fused: np.ndarray = base + np.where(np.abs(detail_1) < np.abs(detail_2), detail_2, detail_1)
        return fused

    fused = apply_in_strips(start, lead_1, lead_2, base_1, base_2, details_1[0], details_2[0])
    for detail_1, detail_2 in zip(details_1[1:], details_2[1:], strict=True):
        add_detail(fused, detail_1, detail_2, box.memory)
    return to_output(fused, visible)


def decompose(image: np.ndarray, box: Box) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return (base, [detail of level 1, 2, 3, 4]), (H, W) each; their sum is the image, which is overwritten."""
    details = []
    for sigma in SIGMAS:
        smooth = rolling_guidance(image, sigma, box.of(sigma))
        details.append(np.subtract(image, smooth, out=image))
        image = smooth
    base = gaussian(image, 13, 2, REPLICATE)
    return base, [*details, np.subtract(image, base, out=image)]


def rolling_guidance(image: np.ndarray, sigma: int, box: Box) -> np.ndarray:
    """Return J_4, (H, W): J_0 = Gaussian(I), J_t+1 = guided(J_t, I). It removes details under sigma, keeps edges.

    The guided filter stands for the joint bilateral filter of Zhang, Shen, Xu and Jia, ECCV 2014.
    """
    result, spare = gaussian(image, 6 * sigma + 1, sigma, REPLICATE), np.empty_like(image)
    mean = box.mean(image)
    for _ in range(ROLLS):
        result, spare = box.guided(result, image, RANGE_SIGMA**2, mean, out=spare), result
    return result


def add_detail(fused: np.ndarray, first: np.ndarray, second: np.ndarray, memory: list[np.ndarray]) -> None:
    """Add the least-squares detail of one level to `fused` in place; all arrays (H, W)."""
    share = gaussian(second_is_stronger(first, second), 13, 2, SYMMETRIC, out=memory[0])
    mean = cv2.blur(second, (7, 7), dst=memory[1], borderType=REPLICATE)

    def solve(
        fused: np.ndarray, first: np.ndarray, second: np.ndarray, share: np.ndarray, mean: np.ndarray
    ) -> np.ndarray:
        pull = LAMBDA / (np.abs(mean) + 1e-6)
        solved: np.ndarray = fused + (lerp(share, first, second) + pull * first) / (1 + pull)
        return solved

    apply_in_strips(solve, fused, first, second, share, mean, out=fused)


def saliency(image: np.ndarray) -> np.ndarray:
    """Return how far each grey level (of 256) is from those of all pixels, (H, W) in 0..1; 0 if constant."""
    levels = np.rint(image * 255).astype(np.uint8)
    count = np.bincount(levels.ravel(), minlength=256)
    steps = np.arange(256)
    table = np.abs(steps[:, None] - steps) @ count
    low, high = table[count > 0].min(), table[count > 0].max()
    scaled: np.ndarray = ((table - low) / max(high - low, 1))[levels]
    return scaled
