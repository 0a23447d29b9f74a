"""Sensor noise of the visible camera.

    J = I + sigma n,    n ~ N(0, 1) independent for every pixel and channel

Additive white Gaussian noise, the setting of the denoising literature (sigma 15, 25, 50 of 255), as in TG-ECNet's
DeMMI-RF. In a colour image sigma is that of each of R, G and B; the three are independent, so the luma of the noise has
0.668 sigma (the root of 0.299^2 + 0.587^2 + 0.114^2). A grey image has one channel here: it stays grey, with all of
sigma in its luma. Clipping to [0, 1] happens once, at the end of the imaging chain.
"""

from __future__ import annotations

import numpy as np

MODALITY = "visible"
LEVELS = {1: 15.0, 2: 25.0, 3: 50.0}  # sigma, in grey levels of 255


def draw(rng: np.random.Generator, height: int, width: int, channels: int) -> np.ndarray:
    """Draw unit noise, float32 (height, width, channels)."""
    return rng.standard_normal((height, width, channels), dtype=np.float32)


def apply(
    image_HWC: np.ndarray, draws: np.ndarray, strength: float, depth_HW: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Add `draws` scaled to a standard deviation of `strength` / 255. `depth_HW` has no part in it.

    image_HWC: float32 in [0, 1], three channels or one. Returns the noisy image, of the same kind, not clipped, and
    sigma of full range.
    """
    sigma = strength / 255
    noisy_HWC = draws * np.float32(sigma)
    noisy_HWC += image_HWC
    return noisy_HWC, {"sigma": sigma}
