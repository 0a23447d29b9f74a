"""What the classical methods share: windows, guided filters and Gaussians with the borders their authors used.

Images are float64 (H, W), contiguous: a variance as the difference of two means loses half of all digits, and the
published images come out pixel by pixel only in this precision. Working memory is reused and formulas run in short
strips: asking the system for fresh memory costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from fusion.images.colour import quantise, to_grey

ZERO, REPLICATE, SYMMETRIC = cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT
NOISE = 1e-12  # differences below are rounding
STRIP = 8192  # pixels of a strip: the arrays of one formula fit into the first two caches


def as_float64(*images: np.ndarray) -> list[np.ndarray]:
    """Return float64 copies of images of any shape in [0, 1].

    8-bit values that came as float32 k / 255 are k / 255 to 1e-16 again.
    """
    return [apply_in_strips(_exact, image) for image in images]


def _exact(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.float64:
        return image
    return (image * np.float32(255)).astype(np.float64) / 255  # in float32, k / 255 * 255 rounds to k, for 0..255


def to_output(fused: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return the fused image, (H, W) or (H, W, 3), clipped to [0, 1], in the precision of `like`."""
    return apply_in_strips(lambda part: np.clip(part, 0, 1), fused, out=np.empty(fused.shape, like.dtype))


def grey_levels(image: np.ndarray) -> np.ndarray:
    """Return the luma of an image (H, W, 3) in [0, 1], rounded to 8 bits, in [0, 1]: (H, W)."""
    return to_grey(quantise(image)) / 255


def apply_in_strips(
    function: Callable[..., np.ndarray], *images: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Return function(*images), computed a strip of pixels at a time.

    The images, of one shape, are passed as flat strips. `out` may be one of them; float64 unless `out` is not.
    """
    out = np.empty(images[0].shape) if out is None else out
    flat, target = [np.ascontiguousarray(image).reshape(-1) for image in images], out.reshape(-1)
    for start in range(0, target.size, STRIP):
        target[start : start + STRIP] = function(*(image[start : start + STRIP] for image in flat))
    return out


def lerp(share: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (1 - share) first + share second; three arrays of one shape."""
    mixed: np.ndarray = first + share * (second - first)
    return mixed


def second_is_stronger(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return 1.0 where |second| >= |first|, else 0.0, of the shape of both.

    Equal up to rounding counts as equal, as in regions where both are flat.
    """
    return apply_in_strips(lambda first, second: np.abs(second) > np.abs(first) - NOISE, first, second)


class Box:
    """Means over the part of the (2 radius + 1)^2 window inside an image of `shape`, and guided filters with them.

    q = mean(a) I + mean(b), a = cov(I, p) / (var(I) + epsilon), b = mean(p) - a mean(I); I guide, p image.
    He, Sun and Tang, Guided image filtering, TPAMI 2013, eqs. 5, 6, 8.

    An `out` receives the result and must be no argument of the same call.
    """

    def __init__(self, shape: tuple[int, ...], radius: int, memory: list[np.ndarray] | None = None) -> None:
        self.shape = shape
        self.reach = [min(radius, length - 1) for length in shape]
        self.window = tuple(2 * reach + 1 for reach in reversed(self.reach))
        self.memory = memory or [np.empty(shape) for _ in range(5)]

    def of(self, radius: int) -> Box:
        """Return the same with another radius, in the same working memory."""
        return Box(self.shape, radius, self.memory)

    def mean(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the mean around each pixel, (H, W) -> (H, W)."""
        out = cv2.boxFilter(image, -1, self.window, dst=out, borderType=ZERO)
        _leave_out_zeros(out, self.reach[0])
        _leave_out_zeros(out.T, self.reach[1])
        return out

    def guided(
        self,
        guide: np.ndarray,
        image: np.ndarray,
        epsilon: float,
        mean: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return q, (H, W), for one guide; `mean` is that of the image, for callers that have it already."""
        first, second, _, _, product = self.memory
        mean_guide = self.mean(guide, first)
        if image is guide:
            return self._guided(guide, mean_guide, mean_guide, None, epsilon, out)
        mean = self.mean(image, second) if mean is None else mean
        return self._guided(guide, mean_guide, mean, self._product(guide, image, product), epsilon, out)

    def mutual(
        self,
        first: np.ndarray,
        second: np.ndarray,
        epsilon: float,
        out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return guided(first, second) and guided(second, first), (H, W) each; what they share is computed once."""
        mean_1, mean_2 = self.mean(first, self.memory[0]), self.mean(second, self.memory[1])
        product = self._product(first, second, self.memory[4])
        return (
            self._guided(first, mean_1, mean_2, product, epsilon, out[0]),
            self._guided(second, mean_2, mean_1, product, epsilon, out[1]),
        )

    def _product(self, first: np.ndarray, second: np.ndarray, out: np.ndarray) -> np.ndarray:
        return self.mean(np.multiply(first, second, out=self.memory[2]), out)

    def _guided(
        self,
        guide: np.ndarray,
        mean_guide: np.ndarray,
        mean: np.ndarray,
        product: np.ndarray | None,
        epsilon: float,
        out: np.ndarray | None,
    ) -> np.ndarray:
        """Q from the means of I, p and I p (None: p is I)."""
        _, _, b, a, _ = self.memory
        square = self._product(guide, guide, a)

        def slope(square: np.ndarray, product: np.ndarray, mean_guide: np.ndarray, mean: np.ndarray) -> np.ndarray:
            a: np.ndarray = (product - mean_guide * mean) / (square - mean_guide * mean_guide + epsilon)
            return a

        apply_in_strips(slope, square, square if product is None else product, mean_guide, mean, out=a)
        apply_in_strips(lambda a, mean_guide, mean: mean - a * mean_guide, a, mean_guide, mean, out=b)
        q = self.mean(a, out)
        return apply_in_strips(lambda a, guide, b: a * guide + b, q, guide, self.mean(b, a), out=q)


def _leave_out_zeros(mean: np.ndarray, reach: int) -> None:
    """Rows near the border, from means over 2 reach + 1 rows with zeros outside to means over the rows inside."""
    length = len(mean)
    near = min(reach, length)
    for start, stop in ((0, near), (max(near, length - reach), length)):
        at = np.arange(start, stop)
        inside = np.minimum(at + reach, length - 1) - np.maximum(at - reach, 0) + 1
        mean[start:stop] *= ((2 * reach + 1) / inside)[:, None]


def gaussian_taps(size: int, sigma: float) -> np.ndarray:
    """Return `size` (odd) samples of exp(-x^2 / (2 sigma^2)) around 0, with sum 1."""
    x = np.arange(size) - (size - 1) / 2
    taps = np.exp(-(x * x) / (2 * sigma * sigma))
    normalised: np.ndarray = taps / taps.sum()
    return normalised


def gaussian(image: np.ndarray, size: int, sigma: float, border: int, out: np.ndarray | None = None) -> np.ndarray:
    """Return the image, (H, W), under a Gaussian of size x size taps (odd), cut off and normalised.

    `border` is ZERO, REPLICATE or SYMMETRIC.
    """
    taps = gaussian_taps(size, sigma)
    return cv2.sepFilter2D(image, -1, taps, taps, dst=out, borderType=border)


def wide_gaussian(image: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """Return gaussian(..., SYMMETRIC), (H, W), through the Fourier transform: for windows of hundreds of pixels."""
    for axis in (1, 0):
        length = image.shape[axis]
        # mirrored once, the image is periodic, so that a circular convolution is exact for any window
        taps = np.zeros(2 * length)
        np.add.at(taps, (np.arange(size) - size // 2) % (2 * length), gaussian_taps(size, sigma))
        response = np.fft.rfft(taps).real
        mirrored = np.concatenate([image, np.flip(image, axis)], axis)
        spectrum = np.fft.rfft(mirrored, axis=axis)
        spectrum *= response if axis == 1 else response[:, None]
        image = np.fft.irfft(spectrum, axis=axis)[(slice(None),) * axis + (slice(length),)]
    return np.ascontiguousarray(image)
