"""IFEVIP: what is brighter in infrared than its smooth background is added to the visible image.

    background: infrared at 512 x 512, quadtree of blocks (512 down to 32 pixels) whose range is at most 0.2, each
                block a Bezier surface through 16 samples of the image eroded by 32 x 32; resized back, Gaussian 9 x 9
    feature    E = max(I - background, 0) + (I - V) H(I) / H(V)              H: entropy of the grey levels
    result     F = V + max(E, 0) min(0.8, 1 / mean of the brightest 0.1 % of V + max(E, 0))

Resizing is bicubic and rounds to 8 bits as the authors' program does. A constant visible image has no entropy; the
ratio is then 1. The entropy and the brightest pixels of a colour image are those of all three channels.

Source: Zhang, Zhang, Bai and Zhang, Infrared and visual image fusion through infrared feature extraction and visual
information preservation, Infrared Physics & Technology 83, 2017.
"""

from __future__ import annotations

import cv2
import numpy as np

from fusion.classical.filters import ZERO, as_float64, gaussian, to_output
from fusion.images.colour import quantise, to_grey

SIDE = 512
BLOCK = 32
RANGE = 51  # 0.2 of 255
BRIGHTEST = 0.001
GAIN = 0.8
BEZIER = np.array([[-1, 3, -3, 1], [3, -6, 3, 0], [-3, 3, 0, 0], [1, 0, 0, 0]], np.float64)


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    return _fuse(visible, infrared, background(quantise(infrared)))


def fuse_colour(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Float (H, W, 3) twice -> float (H, W, 3); the infrared image counts by its grey version."""
    levels = to_grey(quantise(infrared))
    return _fuse(visible, levels[..., None].astype(np.float64) / 255, background(levels)[..., None])


def _fuse(visible: np.ndarray, infrared: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Visible (H, W) or (H, W, C); infrared of the same shape or with one channel; dark in grey levels."""
    first, second = (image * 255 for image in as_float64(visible, infrared))
    known = entropy(quantise(visible))
    ratio = entropy(quantise(infrared)) / known if known else 1.0
    added = np.maximum(np.maximum(second - dark, 0) + (second - first) * ratio, 0)
    count = max(1, int(BRIGHTEST * added.size + 0.5))
    top = np.partition((first + added).ravel(), -count)[-count:].mean()
    added *= min(255 / max(top, 1), GAIN)
    added += first
    added /= 255
    return to_output(added, visible)


def entropy(levels: np.ndarray) -> float:
    """Return the entropy of the 256 grey levels, in bits; `levels` is uint8 of any shape."""
    share = np.bincount(levels.ravel(), minlength=256) / levels.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def background(levels: np.ndarray) -> np.ndarray:
    """Return the smooth dark background of an 8-bit image, (H, W), in grey levels, rounded."""
    surface = resize(bezier_surface(resize(levels, (SIDE, SIDE))), levels.shape)
    return np.floor(gaussian(surface, 9, 4.5, ZERO) + 0.5)


def bezier_surface(square: np.ndarray) -> np.ndarray:
    """Return the background of an image, uint8 (512, 512): float64 (512, 512) in grey levels.

    Quadtree blocks of equal grey are filled with Bezier surfaces through samples of the eroded image.
    """
    # 32 x 32 around a pixel reaches from 15 before it to 16 after it
    low = cv2.erode(square, np.ones((BLOCK, BLOCK), np.uint8), anchor=(BLOCK // 2 - 1, BLOCK // 2 - 1))
    low = np.pad(low.astype(np.float64), (0, 1), mode="edge")
    surface = np.zeros_like(low)
    blocks = sorted(quadtree(square), key=lambda block: (-block[0], block[2], block[1]))
    for size, top, left in blocks:  # a block's last row and column belong to its neighbour, which comes later
        at = np.array([0, size // 2 - 1, 3 * size // 4 - 1, size])
        t = np.arange(size + 1) / size
        curve = np.stack([t**3, t**2, t, t**0], axis=1) @ BEZIER
        surface[top : top + size + 1, left : left + size + 1] = curve @ low[np.ix_(top + at, left + at)] @ curve.T
    return surface[:-1, :-1]


def quadtree(square: np.ndarray, top: int = 0, left: int = 0, size: int = SIDE) -> list[tuple[int, int, int]]:
    """Return (size, top, left) of the largest blocks in which max - min <= RANGE, or of the smallest size.

    `square` is uint8 (512, 512); only the block of `size` at `top`, `left` is divided.
    """
    block = square[top : top + size, left : left + size]
    if size == BLOCK or int(block.max()) - int(block.min()) <= RANGE:
        return [(size, top, left)]
    half = size // 2
    return [
        found for down in (0, half) for right in (0, half) for found in quadtree(square, top + down, left + right, half)
    ]


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return an image (H, W) in another `shape`, the axis that shrinks more first; uint8 stays uint8."""
    axes = sorted((0, 1), key=lambda axis: shape[axis] / image.shape[axis])
    for axis in axes:
        image = _resize(image, shape[axis], axis)
    return image


def _resize(image: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Resize an image (H, W) by a bicubic (a = -1/2) along one axis.

    Borders are mirrored; the kernel is wider when shrinking; 8-bit stays 8-bit.
    """
    before = image.shape[axis]
    scale = length / before
    stretch = max(1, 1 / scale)
    centre = (np.arange(length) + 0.5) / scale - 0.5
    taps = int(np.ceil(4 * stretch)) + 2
    at = np.floor(centre - 2 * stretch).astype(int)[:, None] + np.arange(taps)
    weight = cubic((centre[:, None] - at) / stretch)
    weight /= weight.sum(axis=1, keepdims=True)
    at %= 2 * before
    at = np.where(at < before, at, 2 * before - 1 - at)
    lines = image if axis == 0 else np.ascontiguousarray(image.T)
    result = np.zeros((length, lines.shape[1]))
    for tap in range(taps):
        if weight[:, tap].any():
            result += lines[at[:, tap]] * weight[:, tap, None]
    if axis == 1:
        result = np.ascontiguousarray(result.T)
    if image.dtype == np.uint8:
        return np.clip(np.floor(result + 0.5), 0, 255).astype(np.uint8)
    return result


def cubic(x: np.ndarray) -> np.ndarray:
    """Return Keys' cubic kernel (a = -0.5) at distances of any shape, in pixels."""
    x = np.abs(x)
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0))
