"""Haze in the scene, seen by the visible camera.

    J = I t + A (1 - t),    t = exp(-beta d)

The atmospheric scattering model (Koschmieder 1924; Narasimhan & Nayar, IJCV 2002) with a homogeneous medium. d is a
depth of unit range, 0 at the camera and 1 at the farthest; A is the airlight, nearly grey, drawn per image.

Where a data set has no depth map, d is a *proxy*, not a measurement: the depth of a flat ground plane under a horizon
(far above it, near at the bottom), pulled onto the edges of the image by a guided filter (He, Sun & Tang, TPAMI 2013;
subsampled as in He & Sun, "Fast Guided Filter", 2015). It looks right for a camera that looks ahead; seen
from a drone it is merely a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MODALITY = "visible"
LEVELS = {1: 0.6, 2: 1.2, 3: 2.0}  # beta, for a depth of unit range

AIRLIGHT = (0.70, 0.95)
TINT = 0.01  # a channel of the airlight lies at most this far from its grey
HORIZON = (0.30, 0.45)  # height of the horizon from the top, as a part of the image height
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue
SIDE = 160  # the guided filter works on about this many pixels along the longer side
RADIUS = 1 / 8  # of the guided filter's window, as a part of the shorter side
EPS = 3e-3  # edges of a variance well above this show in the depth


@dataclass(frozen=True)
class Air:
    """What is drawn for one image: the airlight (r, g, b) and the horizon, as a part of the height from the top."""

    airlight: tuple[float, float, float]
    horizon: float


def draw(rng: np.random.Generator, height: int, width: int, channels: int) -> Air:
    """Draw the airlight, a grey and a small tint with every channel in `AIRLIGHT`, then the horizon of the proxy.

    An image of one channel sees the grey alone.
    """
    grey = rng.uniform(AIRLIGHT[0] + TINT, AIRLIGHT[1] - TINT)
    tints = rng.uniform(-TINT, TINT, 3) * (channels > 1)
    red, green, blue = (float(grey + tint) for tint in tints)
    return Air((red, green, blue), float(rng.uniform(*HORIZON)))


def apply(
    image_HWC: np.ndarray, draws: Air, strength: float, depth_HW: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, float | str]]:
    """Add haze of density beta = `strength` over the given depth in [0, 1], or over the proxy of this image.

    image_HWC: float32 in [0, 1], RGB or one channel. Returns the hazy image, of the same kind, and what was drawn and
    used.
    """
    source = "proxy" if depth_HW is None else "map"
    if depth_HW is None:
        depth_HW = depth_proxy(image_HWC, draws.horizon)
    # exp in float64, rounded afterwards: its float32 form differs between processors in the last bit
    t_HW = np.exp(-strength * depth_HW.astype(np.float64)).astype(np.float32)
    hazy_HWC = np.empty_like(image_HWC)
    airlight = draws.airlight[: image_HWC.shape[2]]
    for c, air in enumerate(airlight):  # broadcasting over the three channels took three times as long
        hazy_HWC[..., c] = (image_HWC[..., c] - np.float32(air)) * t_HW + np.float32(air)
    red, green, blue = draws.airlight
    used: dict[str, float | str] = {"beta": strength, "airlight_r": red, "airlight_g": green, "airlight_b": blue}
    used["depth"] = source
    if source == "proxy":
        used["horizon"] = draws.horizon
    return hazy_HWC, used


def depth_proxy(image_HWC: np.ndarray, horizon: float) -> np.ndarray:
    """Return a depth proxy, float64 (H, W) in [0, 1], of an image in [0, 1], RGB or one channel.

    horizon: its height from the top, as a part of the image height.
    """
    height, width = image_HWC.shape[:2]
    # not a matrix product: BLAS may split and fuse it in another way on another machine
    luma_HW = np.zeros((height, width))
    for c, weight in enumerate(LUMA):
        luma_HW += weight * image_HWC[..., min(c, image_HWC.shape[2] - 1)]
    scale = min(1.0, SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    guide = cv2.resize(luma_HW, small, interpolation=cv2.INTER_AREA)
    rows = _ground_plane((np.arange(small[1]) + 0.5) / small[1], horizon)
    radius = max(1, round(RADIUS * min(small)))
    a, b = guided_coefficients(guide, np.repeat(rows[:, None], small[0], axis=1), radius, EPS)
    a, b = (cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) for c in (a, b))
    depth_HW: np.ndarray = a
    depth_HW *= luma_HW
    depth_HW += b
    return np.clip(depth_HW, 0, 1, out=depth_HW)


def _ground_plane(v: np.ndarray, horizon: float) -> np.ndarray:
    """Return the depth at the height v (0 top, 1 bottom).

    It rises from 0 at the bottom, ever faster, to 0.8 at the horizon, and to 1 at the top.

    On a plane depth goes as 1 / (distance below the horizon); here (1 - s) / (1 + 2 s), which is the same bend
    without the pole. The slope above the horizon gives the guided filter something to tell sky from roofs by.
    """
    below = np.clip((v - horizon) / (1 - horizon), 0, 1)
    above = np.clip((horizon - v) / horizon, 0, 1)
    return 0.8 * (1 - below) / (1 + 2 * below) + 0.2 * above


def guided_coefficients(
    guide: np.ndarray, target: np.ndarray, radius: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (a, b) such that a guide + b is `target` filtered with the edges of `guide`; float64 (H, W) each.

    a = cov(guide, target) / (var(guide) + eps) and b = mean(target) - a mean(guide) in every window of side
    2 radius + 1, then averaged over the windows that hold a pixel. O(1) per pixel for every radius.
    """
    mean_g, mean_t = _box(guide, radius), _box(target, radius)
    covariance = _box(guide * target, radius) - mean_g * mean_t
    variance = _box(guide * guide, radius) - mean_g * mean_g
    a = covariance / (np.maximum(variance, 0) + eps)
    b = mean_t - a * mean_g
    return _box(a, radius), _box(b, radius)


def _box(image: np.ndarray, radius: int) -> np.ndarray:
    """Return the mean over windows of side 2 radius + 1, float64 (H, W)."""
    side = 2 * radius + 1
    return cv2.boxFilter(image, -1, (side, side), borderType=cv2.BORDER_REFLECT)
