"""A visible lens out of focus.

    J = I * k,    k(y, x) = |disc of radius r  ∩  pixel (y, x)| / (pi r^2),    r = level * diagonal / 800

The point-spread function of a thin lens out of focus is the image of its round aperture: a disc of constant
brightness (geometrical optics; no diffraction, no change over the field). Its rim is anti-aliased exactly: a pixel
weighs as much as the area that the disc covers of it. The radius is given for 640 x 480 (diagonal 800) and grows
with the diagonal. The blur acts on the stored grey values, not on linear light.

Border: reflect with the edge pixel repeated (cba|abc|cba), which leaves the mean of the image as it was.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

MODALITY = "visible"
LEVELS = {1: 2.0, 2: 4.0, 3: 6.0}  # radius in pixels at 640 x 480
REFERENCE_DIAGONAL = 800.0  # of 640 x 480


def draw(rng: np.random.Generator, height: int, width: int, channels: int) -> None:
    """Draw nothing: the radius follows from the level and the size."""


def radius_for(strength: float, height: int, width: int) -> float:
    """Return the radius in pixels of this image for a radius of `strength` at 640 x 480."""
    return strength * math.hypot(height, width) / REFERENCE_DIAGONAL


@lru_cache(maxsize=16)
def disc(radius: float) -> np.ndarray:
    """Return the disc point-spread function, float32 (n, n), n odd, unit sum, read-only.

    A radius up to half a pixel lies inside one pixel and gives [[1]]: no blur.
    """
    half = max(0, math.ceil(radius - 0.5))
    edges = np.arange(-half - 0.5, half + 1)  # of the pixels, n + 1 of them
    area = _area_from_origin(edges[:, None], edges[None, :], radius)
    covered = area[1:, 1:] - area[1:, :-1] - area[:-1, 1:] + area[:-1, :-1]
    covered = np.clip((covered + covered.T) / 2, 0, None)  # take out what rounding left
    psf: np.ndarray = (covered / covered.sum()).astype(np.float32)
    psf.flags.writeable = False
    return psf


def _area_from_origin(y: np.ndarray, x: np.ndarray, r: float) -> np.ndarray:
    """Return the signed area of the disc about 0 within the rectangle from the origin to (y, x).

    Four such corners give the area within any rectangle. For y, x >= 0, both cut off at r: the whole rectangle
    where its corner is inside the disc; else y a + integral from a to x of sqrt(r^2 - u^2) du, a = sqrt(r^2 - y^2).
    """
    sign = np.sign(y) * np.sign(x)
    y, x = np.minimum(np.abs(y), r), np.minimum(np.abs(x), r)
    inside = y * y + x * x <= r * r
    a = np.where(inside, x, np.sqrt(np.maximum(r * r - y * y, 0)))
    area: np.ndarray = sign * (y * a + _under_arc(x, r) - _under_arc(a, r))
    return area


def _under_arc(u: np.ndarray, r: float) -> np.ndarray:
    """Return the integral from 0 to u of sqrt(r^2 - t^2) dt."""
    integral: np.ndarray = (u * np.sqrt(np.maximum(r * r - u * u, 0)) + r * r * np.arcsin(np.clip(u / r, -1, 1))) / 2
    return integral


def apply(
    image_HWC: np.ndarray, draws: None, strength: float, depth_HW: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Blur by the disc that `strength` means at this size; the disc may be larger than the image.

    image_HWC: float32, three channels or one. Returns the blurred image, of the same kind, and the radius used in
    pixels.
    """
    radius = radius_for(strength, *image_HWC.shape[:2])
    # filter2D sums directly up to 11 x 11 and by Fourier transform in blocks above; it beat a whole-image transform
    # at every radius from 1 to 66 and every size from 640 x 480 to 3840 x 2160.
    blurred = cv2.filter2D(image_HWC, -1, disc(radius), borderType=cv2.BORDER_REFLECT)
    return blurred.reshape(image_HWC.shape), {"radius": radius}
