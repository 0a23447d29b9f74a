"""Choose-max: F = max(V, I)."""

import numpy as np


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuse two images: float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    fused: np.ndarray = np.maximum(visible, infrared)
    return fused
