"""Plain average: F = (V + I) / 2."""

import numpy as np


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    return (visible + infrared) / 2
