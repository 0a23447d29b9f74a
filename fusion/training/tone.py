"""Brightness and contrast of a pair drawn anew, so that a network sees dark, bright, flat and saturated images."""

from __future__ import annotations

import numpy as np

FLAT_PROBABILITY, NEGATIVE_PROBABILITY = 0.02, 0.1


def change_tone(crop: dict[str, np.ndarray], rng: np.random.Generator, probability: float) -> None:
    """Draw gamma and gain of "visible" and "infrared" anew, each by `probability`; float32 in [0, 1], in place.

    An infrared image is negated now and then (hot is black in some cameras), and a pair in fifty is two flat images of
    one level.
    """
    if rng.random() < FLAT_PROBABILITY * probability:
        level = np.float32(rng.random())
        crop |= {name: np.full_like(crop[name], level) for name in ("visible", "infrared")}
        return
    for name in ("visible", "infrared"):
        if rng.random() < probability:
            gamma, gain = float(np.exp(rng.normal(0, 0.35))), float(np.exp(rng.uniform(-1.2, 0.2)))
            lift = float(rng.uniform(0, max(1 - gain, 0.0))) / 2
            crop[name] = np.clip(crop[name] ** np.float32(gamma) * np.float32(gain) + np.float32(lift), 0, 1)
    if rng.random() < NEGATIVE_PROBABILITY * probability:
        crop["infrared"] = 1 - crop["infrared"]
