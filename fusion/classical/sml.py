"""SML: multi-focus fusion, at each pixel the image that is in focus there, with a consistency check.

    ML = |2 I - I(x - 1) - I(x + 1)| + |2 I - I(y - 1) - I(y + 1)|, SML = mean of ML over 9 x 9
    C = SML_1 > SML_2;  M = C holds for most of 17 x 17
    W = guided(mean of both images, M, r 6, epsilon 1e-4), clipped to [0, 1];  F = W I_1 + (1 - W) I_2

1 is the visible image (the first of a pair); where both are equally sharp, the second is taken. The guided filter moves
the border of the decision onto the edges of the picture and makes it soft. Windows are cut off at the border.

Source: Huang and Jing, Evaluation of focus measures in multi-focus image fusion, Pattern Recognition Letters 28(4),
2007; the measure: Nayar and Nakagawa, Shape from focus, IEEE TPAMI 16(8), 1994; consistency check: Li, Manjunath and
Mitra 1995. The guided filter instead of a hard mask is ours.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.classical.filters import NOISE, REPLICATE, Box, apply_in_strips, as_float64, grey_levels, lerp, to_output

MEASURE_RADIUS = 4
VOTE_RADIUS = 8
GUIDED = (6, 1e-4)  # radius, epsilon
SECOND_DIFFERENCE = np.array([-1.0, 2.0, -1.0])
ONE = np.array([1.0])


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(visible, infrared)
    return to_output(lerp(first_weight(first, second), second, first), visible)


def fuse_colour(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse every channel by the weights of the grey versions: float (H, W, 3) twice -> float (H, W, 3)."""
    first, second = as_float64(visible, infrared)
    weight = first_weight(grey_levels(first), grey_levels(second))
    return to_output(lerp(weight[..., None], second, first), visible)


def first_weight(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return W, (H, W) in [0, 1], of two images (H, W)."""
    box = Box(first.shape, MEASURE_RADIUS)
    sharper = apply_in_strips(lambda one, two: one > two + NOISE, sharpness(first, box), sharpness(second, box))
    majority = apply_in_strips(lambda votes: votes > 0.5 + NOISE, box.of(VOTE_RADIUS).mean(sharper))
    radius, epsilon = GUIDED
    weight = box.of(radius).guided((first + second) / 2, majority, epsilon)
    clipped: np.ndarray = np.clip(weight, 0, 1)
    return clipped


def sharpness(image: np.ndarray, box: Box) -> np.ndarray:
    """Return SML, (H, W) of an image (H, W)."""
    across = cv2.sepFilter2D(image, -1, SECOND_DIFFERENCE, ONE, borderType=REPLICATE)
    down = cv2.sepFilter2D(image, -1, ONE, SECOND_DIFFERENCE, borderType=REPLICATE)
    return box.mean(apply_in_strips(lambda across, down: np.abs(across) + np.abs(down), across, down))
