"""The filters that several of the classical methods share, with the borders their authors used.

Images are float (H, W). All run in the precision they are given; the means of large windows need float64, because
a variance as the difference of two means loses seven digits. Every function returns a new array.
"""

from __future__ import annotations

import cv2
import numpy as np

ZERO, REPLICATE, SYMMETRIC = cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT


def widen(*images: np.ndarray) -> list[np.ndarray]:
    """float64 copies; 8-bit values that came as float32 k / 255 are exact again to 1e-16."""
    return [_exact(image) for image in images]


def _exact(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.float64:
        return image.copy()
    levels = (image * np.float32(255)).astype(np.float64)  # float32(k / 255) * 255 rounds to k for k in 0..255
    levels /= 255
    return levels


def finish(fused: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Clipped to [0, 1], in the precision of `like`."""
    return np.clip(fused, 0, 1).astype(like.dtype, copy=False)


def box_mean(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over the part of the (2 radius + 1)^2 window that lies inside the image."""
    height, width = image.shape
    rows, columns = min(radius, height - 1), min(radius, width - 1)
    total = cv2.boxFilter(image, -1, (2 * columns + 1, 2 * rows + 1), normalize=False, borderType=ZERO)
    total *= (1 / _count(height, rows))[:, None].astype(image.dtype)
    total *= (1 / _count(width, columns)).astype(image.dtype)
    return total


def _count(length: int, radius: int) -> np.ndarray:
    """How many of the 2 radius + 1 positions around each of 0..length - 1 are inside."""
    at = np.arange(length)
    return np.minimum(at + radius, length - 1) - np.maximum(at - radius, 0) + 1


def guided_filter(guide: np.ndarray, image: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """q = mean(a) I + mean(b), a = cov(I, p) / (var(I) + epsilon), b = mean(p) - a mean(I); I guide, p image.

    Means over windows cut off at the border. He, Sun and Tang, Guided image filtering, TPAMI 2013, eqs. 5, 6, 8.
    """
    return _guided(guide, box_mean(guide, radius), image, box_mean(image, radius), radius, epsilon)


def _guided(
    guide: np.ndarray, mean_guide: np.ndarray, image: np.ndarray, mean: np.ndarray, radius: int, epsilon: float
) -> np.ndarray:
    variance = box_mean(guide * guide, radius) - mean_guide * mean_guide
    if image is guide:
        a = variance / (variance + epsilon)
    else:
        a = (box_mean(guide * image, radius) - mean_guide * mean) / (variance + epsilon)
    b = mean - a * mean_guide
    return box_mean(a, radius) * guide + box_mean(b, radius)


def self_guided_filter(image: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """guided_filter(image, image, ...) with the means computed once."""
    mean = box_mean(image, radius)
    return _guided(image, mean, image, mean, radius, epsilon)


def mutual_guided_filter(
    first: np.ndarray, second: np.ndarray, radius: int, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """(guided_filter(first, second), guided_filter(second, first)) with the shared means computed once."""
    mean_1, mean_2 = box_mean(first, radius), box_mean(second, radius)
    covariance = box_mean(first * second, radius) - mean_1 * mean_2
    results = []
    for guide, mean_guide, mean in ((first, mean_1, mean_2), (second, mean_2, mean_1)):
        variance = box_mean(guide * guide, radius) - mean_guide * mean_guide
        a = covariance / (variance + epsilon)
        b = mean - a * mean_guide
        results.append(box_mean(a, radius) * guide + box_mean(b, radius))
    return results[0], results[1]


def gaussian_taps(size: int, sigma: float) -> np.ndarray:
    """`size` (odd) samples of exp(-x^2 / (2 sigma^2)) around 0, with sum 1."""
    x = np.arange(size) - (size - 1) / 2
    taps = np.exp(-(x * x) / (2 * sigma * sigma))
    return taps / taps.sum()


def gaussian(image: np.ndarray, size: int, sigma: float, border: int) -> np.ndarray:
    """Gaussian of size x size taps (odd), cut off and normalised; `border` ZERO, REPLICATE or SYMMETRIC."""
    taps = gaussian_taps(size, sigma)
    return cv2.sepFilter2D(image, -1, taps, taps, borderType=border)


def rolling_guidance(image: np.ndarray, sigma: int, range_sigma: float, iterations: int = 4) -> np.ndarray:
    """J_0 = Gaussian(I), J_t+1 = guided_filter(J_t, I): removes what is smaller than sigma, keeps edges.

    The guided filter (radius sigma, epsilon range_sigma^2) stands for the joint bilateral filter, as in VSM-WLS.
    Zhang, Shen, Xu and Jia, Rolling guidance filter, ECCV 2014.
    """
    result = gaussian(image, 6 * sigma + 1, sigma, REPLICATE)
    mean = box_mean(image, sigma)
    for _ in range(iterations):
        result = _guided(result, box_mean(result, sigma), image, mean, sigma, range_sigma * range_sigma)
    return result
