"""ADF: anisotropic diffusion splits each image, the Karhunen-Loeve transform weighs the details.

    u_t+1 = u_t + 0.15 sum_n w_n d_n exp(-(d_n / kappa)^2)      d_n = neighbour n - u; w = 1, diagonals 1/2
    F = (A_1 + A_2) / 2 + p_1 D_1 + p_2 D_2                     A = u_10, D = I - A

kappa is 30 of 255 grey levels; neighbours outside the image are 0, as in the published results. p is the principal
eigenvector of the covariance of (D_1, D_2), divided by its sum. Both details alike: p = 1/2; an eigenvector whose
sum vanishes (details of opposite sign) also gives 1/2.

Source: Bavirisetti and Dhuli, Fusion of infrared and visible sensor images based on anisotropic diffusion and
Karhunen-Loeve transform, IEEE Sensors Journal 16(1), 2016.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.library.filters import finish, widen

ITERATIONS = 10
STEP = 0.15
KAPPA = 30 / 255


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = widen(infrared, visible)
    base_1, base_2 = diffuse(first), diffuse(second)
    first -= base_1
    second -= base_2
    weight_1, weight_2 = principal_weights(first, second)
    return finish((base_1 + base_2) / 2 + weight_1 * first + weight_2 * second, visible)


def diffuse(image: np.ndarray) -> np.ndarray:
    """The image after ten steps of diffusion."""
    padded = np.pad(image / KAPPA, 1)  # in units of kappa
    inside = padded[1:-1, 1:-1]
    for _ in range(ITERATIONS):
        # what flows along an edge leaves one pixel and enters the other: four directions instead of eight
        across = _flow(padded[1:-1, 1:] - padded[1:-1, :-1], STEP)
        down = _flow(padded[1:, 1:-1] - padded[:-1, 1:-1], STEP)
        falling = _flow(padded[1:, 1:] - padded[:-1, :-1], STEP / 2)
        rising = _flow(padded[1:, :-1] - padded[:-1, 1:], STEP / 2)
        inside += across[:, 1:] - across[:, :-1]
        inside += down[1:] - down[:-1]
        inside += falling[1:, 1:] - falling[:-1, :-1]
        inside += rising[1:, :-1] - rising[:-1, 1:]
    return inside * KAPPA


def _flow(difference: np.ndarray, step: float) -> np.ndarray:
    weight = cv2.exp(-(difference * difference))
    weight *= difference
    weight *= step
    return weight


def principal_weights(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The principal eigenvector of the 2 x 2 covariance of the two images, divided by its sum."""
    _, vectors = np.linalg.eigh(np.cov(first.ravel(), second.ravel()))
    vector = vectors[:, -1]
    if abs(vector.sum()) < 1e-6:
        return 0.5, 0.5
    weights = vector / vector.sum()
    return float(weights[0]), float(weights[1])
