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
    seen = weight = 0.0
    for slopes, blocks in zip(_blocks(gradient[1:-1, 1:-1]), _blocks(image[1:-1, 1:-1]), strict=True):
        here = slopes.sum(axis=(1, 2))
        seen += float(here @ _energy(blocks))
        weight += float(here.sum())
    return seen / weight if weight else 0.0


def _blocks(image: np.ndarray) -> list[np.ndarray]:
    """All blocks, those of one shape in one array (N, h, w)."""
    height, width = (length - length % BLOCK for length in image.shape)
    groups = []
    for part in (image[:height, :width], image[:height, width:], image[height:, :width], image[height:, width:]):
        if part.size:
            h, w = (min(BLOCK, length) for length in part.shape)
            grid = part.reshape(part.shape[0] // h, h, part.shape[1] // w, w)
            groups.append(np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(-1, h, w))
    return groups


def _energy(blocks: np.ndarray) -> np.ndarray:
    height, width = blocks.shape[1:]
    spectrum = np.abs(np.fft.rfft2(blocks)) * _eye(height, width)
    spectrum *= spectrum
    # the half of the spectrum that a real image does not need: all columns but the first and, if even, the last
    total = 2 * spectrum.sum(axis=(1, 2)) - spectrum[:, :, 0].sum(axis=1)
    if width % 2 == 0:
        total -= spectrum[:, :, -1].sum(axis=1)
    energy: np.ndarray = np.sqrt(total) / (height * width)
    return energy


def _eye(height: int, width: int) -> np.ndarray:
    """Sensitivity at each frequency of the half transform."""
    r = HIGHEST * 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    sensitivity: np.ndarray = 2.6 * (0.0192 + 0.114 * r) * np.exp(-((0.114 * r) ** 1.1))
    return sensitivity
