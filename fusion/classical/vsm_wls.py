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

from fusion.classical.filters import REPLICATE, SYMMETRIC, Box, blend, finish, gaussian, pointwise, stronger, widen

SIGMAS = (2, 4, 8)
RANGE_SIGMA = 0.05
ROLLS = 4
LAMBDA = 0.01


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = widen(infrared, visible)
    lead_1, lead_2 = saliency(first), saliency(second)
    box = Box(first.shape, 1)
    base_1, details_1 = decompose(first, box)
    base_2, details_2 = decompose(second, box)

    def start(lead_1, lead_2, base_1, base_2, detail_1, detail_2):
        base = blend((1 - lead_1 + lead_2) / 2, base_1, base_2)
        return base + np.where(np.abs(detail_1) < np.abs(detail_2), detail_2, detail_1)

    fused = pointwise(start, lead_1, lead_2, base_1, base_2, details_1[0], details_2[0])
    for detail_1, detail_2 in zip(details_1[1:], details_2[1:], strict=True):
        add_detail(fused, detail_1, detail_2, box.memory)
    return finish(fused, visible)


def decompose(image: np.ndarray, box: Box) -> tuple[np.ndarray, list[np.ndarray]]:
    """(base, [detail of level 1, 2, 3, 4]); their sum is the image."""
    details = []
    for sigma in SIGMAS:
        smooth = rolling_guidance(image, sigma, box.of(sigma))
        details.append(np.subtract(image, smooth, out=image))
        image = smooth
    base = gaussian(image, 13, 2, REPLICATE)
    return base, [*details, np.subtract(image, base, out=image)]


def rolling_guidance(image: np.ndarray, sigma: int, box: Box) -> np.ndarray:
    """J_0 = Gaussian(I), J_t+1 = guided(J_t, I): removes what is smaller than sigma, keeps edges.

    The guided filter stands for the joint bilateral filter of Zhang, Shen, Xu and Jia, ECCV 2014.
    """
    result, spare = gaussian(image, 6 * sigma + 1, sigma, REPLICATE), np.empty_like(image)
    mean = box.mean(image)
    for _ in range(ROLLS):
        result, spare = box.guided(result, image, RANGE_SIGMA**2, mean, out=spare), result
    return result


def add_detail(fused: np.ndarray, first: np.ndarray, second: np.ndarray, memory: list[np.ndarray]) -> None:
    """Adds the least-squares detail of one level to `fused`."""
    share = gaussian(stronger(first, second), 13, 2, SYMMETRIC, out=memory[0])
    mean = cv2.blur(second, (7, 7), dst=memory[1], borderType=REPLICATE)

    def solve(fused, first, second, share, mean):
        pull = LAMBDA / (np.abs(mean) + 1e-6)
        return fused + (blend(share, first, second) + pull * first) / (1 + pull)

    pointwise(solve, fused, first, second, share, mean, out=fused)


def saliency(image: np.ndarray) -> np.ndarray:
    """How far each grey level (of 256) is from those of all pixels, scaled to 0..1; 0 for a constant image."""
    levels = np.rint(image * 255).astype(np.uint8)
    count = np.bincount(levels.ravel(), minlength=256)
    steps = np.arange(256)
    table = np.abs(steps[:, None] - steps) @ count
    low, high = table[count > 0].min(), table[count > 0].max()
    return ((table - low) / max(high - low, 1))[levels]
