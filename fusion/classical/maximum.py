"""Choose-max: F = max(V, I)."""

import numpy as np


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] twice -> float32 (H, W)."""
    return np.maximum(visible, infrared)
