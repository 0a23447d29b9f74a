"""Plain average: F = (V + I) / 2."""

import numpy as np


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    fused: np.ndarray = (visible + infrared) / 2
    return fused
