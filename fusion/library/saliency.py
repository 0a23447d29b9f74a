"""Perceptual saliency of an image: contrast as the eye sees it, where there are edges.

    PS = sum over blocks of e_b g_b / sum over blocks of g_b
    g_b: sum of squared Sobel gradients; e_b: sqrt(sum |FFT of the block x eye|^2) / pixels, blocks of 40 x 40
    eye(r) = 2.6 (0.0192 + 0.114 r) exp(-(0.114 r)^1.1), r in cycles per degree, 16 at half the sampling rate

The image's outermost pixels are left out; the blocks at the right and at the bottom are what is left over.

Source: Zhou, Dong, Xie and Gao, Applied Optics 55(23), 2016; eye: Mannos and Sakrison, IEEE Transactions on
Information Theory 20(4), 1974.
"""

from __future__ import annotations

import cv2
import numpy as np

BLOCK = 40
HIGHEST = 16.0


def perceptual_saliency(image: np.ndarray) -> float:
    """Of a float64 image (H, W); in its units, 0 for a constant one."""
    gradient = cv2.Sobel(image, -1, 1, 0) ** 2 + cv2.Sobel(image, -1, 0, 1) ** 2
    gradient, image = gradient[1:-1, 1:-1], image[1:-1, 1:-1]
    seen = weight = 0.0
    for rows in _spans(image.shape[0]):
        for columns in _spans(image.shape[1]):
            here = float(gradient[rows, columns].sum())
            seen += here * _energy(image[rows, columns])
            weight += here
    return seen / weight if weight else 0.0


def _spans(length: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, length, BLOCK)]


def _energy(block: np.ndarray) -> float:
    height, width = block.shape
    spectrum = np.fft.fft2(block) * _eye(height, width)
    return float(np.sqrt((np.abs(spectrum) ** 2).sum())) / block.size


def _eye(height: int, width: int) -> np.ndarray:
    """Sensitivity at each frequency of the transform."""
    r = HIGHEST * 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return 2.6 * (0.0192 + 0.114 * r) * np.exp(-((0.114 * r) ** 1.1))
