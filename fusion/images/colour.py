"""Luma and colour: networks see BT.601 luma; the fused luma goes back under the visible image's colour.

Shapes: H height, W width; RGB last.
"""

from __future__ import annotations

import numpy as np

BT601 = np.array([0.299, 0.587, 0.114], np.float32)


def luma(image: np.ndarray) -> np.ndarray:
    """Return Y = 0.299 R + 0.587 G + 0.114 B: uint8 H W 3 (or grey H W) -> float32 H W in [0, 1]."""
    if image.ndim == 2:
        return image.astype(np.float32) / 255
    luma_HW: np.ndarray = (image @ BT601) / np.float32(255)
    return luma_HW


def to_grey(image: np.ndarray) -> np.ndarray:
    """Round luma to 8 bit, halves up: uint8 H W 3 (or grey, returned as it is) -> uint8 H W.

    In integers, so that the halves, one pixel in a thousand, do not depend on the order of a sum.
    """
    if image.ndim == 2:
        return image
    r, g, b = (image[..., i].astype(np.int32) for i in range(3))
    return ((299 * r + 587 * g + 114 * b + 500) // 1000).astype(np.uint8)


def is_grey(image: np.ndarray) -> bool:
    """Whether an H W 3 image has three equal channels; true for H W."""
    return image.ndim == 2 or bool((image[..., :1] == image).all())


def quantise(image: np.ndarray) -> np.ndarray:
    """Round floats in [0, 1] (clipped) to uint8 of the same shape, halves to even."""
    levels: np.ndarray = np.rint(np.clip(image, 0, 1) * 255)
    return levels.astype(np.uint8)


def attach_colour(fused: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Give fused luma the visible image's Cb and Cr.

    With Cb and Cr kept, YCbCr -> RGB adds the same change of luma to each channel, so no conversion is needed.
    `fused` float H W in [0, 1]; `visible` uint8 H W 3 -> uint8 H W 3 (H W when the visible image is grey).
    """
    if is_grey(visible):
        return quantise(fused)
    change = fused - luma(visible)
    return quantise(visible.astype(np.float32) / 255 + change[..., None])


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Repeat H W to H W 3; H W 3 is returned as it is."""
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
