from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detection.moefusion.attention import DUAL_DETECTORS
from fusion import checkpoint, inference
from fusion.classical import CLASSICAL, fuse_colour


def classical_fuse_fn(method: str, colour: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(visible, infrared) -> fused, all uint8, by a method of the library; a grey pair has luma only."""

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        if colour == "channels" and visible.ndim == 3:
            return fuse_colour(CLASSICAL[method], visible, infrared)
        return inference.fuse(CLASSICAL[method].fuse, visible, infrared)

    return fuse


def load_network(where: str):
    """(checkpoint, its detectors or None, what its images depend on) of a run or checkpoint folder."""

    folder = checkpoint.fetch(where)
    loaded = checkpoint.load(folder)
    detectors = checkpoint.part(folder, "detectors")
    if detectors is None:
        return loaded, None, loaded.fingerprint

    twin = checkpoint.load(detectors, models=DUAL_DETECTORS)
    return loaded, twin.model, f"{loaded.fingerprint}+{twin.fingerprint}"
