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


class Box:
    """Means over the part of the (2 radius + 1)^2 window that lies inside an image of this shape."""

    def __init__(self, shape: tuple[int, int], radius: int) -> None:
        reach = [min(radius, length - 1) for length in shape]
        rows, columns = (_inside(length, radius) for length, radius in zip(shape, reach, strict=True))
        self.count = rows[:, None] * columns
        self.window = (2 * reach[1] + 1, 2 * reach[0] + 1)

    def mean(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Of a float64 image; `out` must not be `image`."""
        out = cv2.boxFilter(image, -1, self.window, dst=out, normalize=False, borderType=ZERO)
        out /= self.count
        return out

    def covariance(
        self, first: np.ndarray, mean_1: np.ndarray, second: np.ndarray, mean_2: np.ndarray, work: np.ndarray
    ) -> np.ndarray:
        """mean(I p) - mean(I) mean(p), given the two means."""
        result = self.mean(np.multiply(first, second, out=work))
        result -= np.multiply(mean_1, mean_2, out=work)
        return result


def _inside(length: int, radius: int) -> np.ndarray:
    """How many of the 2 radius + 1 places around each of 0..length - 1 exist."""
    at = np.arange(length)
    return (np.minimum(at + radius, length - 1) - np.maximum(at - radius, 0) + 1).astype(np.float64)


def guided_filter(
    guide: np.ndarray,
    image: np.ndarray,
    box: Box,
    epsilon: float,
    mean_guide: np.ndarray | None = None,
    mean: np.ndarray | None = None,
    covariance: np.ndarray | None = None,
) -> np.ndarray:
    """q = mean(a) I + mean(b), a = cov(I, p) / (var(I) + epsilon), b = mean(p) - a mean(I); I guide, p image.

    Callers that have the means or the covariance over the boxes already pass them on.
    He, Sun and Tang, Guided image filtering, TPAMI 2013, eqs. 5, 6, 8.
    """
    # in place: fresh memory for every product would cost as much as the arithmetic
    work = np.empty_like(guide)
    if mean_guide is None:
        mean_guide = box.mean(guide)
    if mean is None:
        mean = mean_guide if image is guide else box.mean(image)
    variance = box.covariance(guide, mean_guide, guide, mean_guide, work)
    if image is guide:
        covariance = variance.copy()
    elif covariance is None:
        covariance = box.covariance(guide, mean_guide, image, mean, work)
    variance += epsilon
    a = np.divide(covariance, variance, out=variance)
    b = np.multiply(a, mean_guide, out=work)
    np.subtract(mean, b, out=b)
    q = box.mean(a)
    q *= guide
    q += box.mean(b, out=a)
    return q


def mutual_guided_filter(
    first: np.ndarray, second: np.ndarray, box: Box, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """(guided_filter(first, second), guided_filter(second, first)) with the shared means computed once."""
    mean_1, mean_2 = box.mean(first), box.mean(second)
    shared = box.covariance(first, mean_1, second, mean_2, np.empty_like(first))
    return (
        guided_filter(first, second, box, epsilon, mean_1, mean_2, shared),
        guided_filter(second, first, box, epsilon, mean_2, mean_1, shared),
    )


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
    box = Box(image.shape, sigma)
    mean = box.mean(image)
    for _ in range(iterations):
        result = guided_filter(result, image, box, range_sigma * range_sigma, mean=mean)
    return result
