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

from fusion.classical.filters import as_float64, to_output

ITERATIONS = 10
STEP = 0.15
KAPPA = 30 / 255
STRIP = 24  # rows at a time, so that all of a step stays in the cache


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    first, second = as_float64(infrared, visible)
    base_1, base_2 = diffuse(first), diffuse(second)
    first -= base_1
    second -= base_2
    weight_1, weight_2 = principal_weights(first, second)
    return to_output((base_1 + base_2) / 2 + weight_1 * first + weight_2 * second, visible)


def diffuse(image: np.ndarray) -> np.ndarray:
    """Return the image, (H, W), after ten steps of diffusion."""
    old = np.pad(image / KAPPA, 1)  # in units of kappa; the zero border stays
    new = np.zeros_like(old)
    height = len(image)
    for _ in range(ITERATIONS):
        for top in range(0, height, STRIP):
            bottom = min(top + STRIP, height)
            new[top + 1 : bottom + 1, 1:-1] = _step(old[top : bottom + 2])
        old, new = new, old
    diffused: np.ndarray = old[1:-1, 1:-1] * KAPPA
    return diffused


def _step(strip: np.ndarray) -> np.ndarray:
    """One step for all rows but the first and the last.

    What flows along an edge leaves one pixel and enters the other, so four directions do for eight neighbours.
    """
    across = _flow(strip[1:-1, 1:], strip[1:-1, :-1])
    change = across[:, 1:] - across[:, :-1]
    down = _flow(strip[1:, 1:-1], strip[:-1, 1:-1])
    change += down[1:]
    change -= down[:-1]
    change *= 2
    falling = _flow(strip[1:, 1:], strip[:-1, :-1])
    change += falling[1:, 1:]
    change -= falling[:-1, :-1]
    rising = _flow(strip[1:, :-1], strip[:-1, 1:])
    change += rising[1:, :-1]
    change -= rising[:-1, 1:]
    change *= STEP / 2
    change += strip[1:-1, 1:-1]
    result: np.ndarray = change
    return result


def _flow(ahead: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """D exp(-d^2); d^2 is at most 72, which exp(d^2) stands."""
    difference = ahead - behind
    weight = difference * difference
    cv2.exp(weight, dst=weight)
    difference /= weight
    flow: np.ndarray = difference
    return flow


def principal_weights(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the principal eigenvector of the 2 x 2 covariance of the two images, divided by its sum."""
    _, vectors = np.linalg.eigh(np.cov(first.ravel(), second.ravel()))
    vector = vectors[:, -1]
    if abs(vector.sum()) < 1e-6:
        return 0.5, 0.5
    weights = vector / vector.sum()
    return float(weights[0]), float(weights[1])
