"""Column non-uniformity of an uncooled infrared sensor.

    J(y, x) = I(y, x) + s [ u(x) + g(x) (I(y, x) - 0.5) ]
    u = normalised(w + d),    w, g: white over the columns,    d(x) = sum over k = 1..3 of a_k cos(2 pi k x / W + p_k)

Every column has a read-out amplifier of its own, so every column has an offset and a gain of its own: J = G I + O with
G(x) = 1 + s g(x) and O(x) = s (u(x) - 0.5 g(x)), the same in all rows; d is the slow drift of the bias from left to
right. The unit pattern u has zero mean and unit standard deviation over the columns of this image, so the pattern
added at mid-grey (I = 0.5) has the standard deviation s of full range exactly, before clipping to [0, 1], which
happens once at the end of the chain. g is N(0, 0.5^2): at black and white the gain adds or takes a quarter of u's
size. An image one column wide has no pattern over columns: u = 0.

The offset-and-gain model of the non-uniformity correction literature (Perry & Dereniak, Opt. Eng. 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MODALITY = "infrared"
LEVELS = {1: 0.02, 2: 0.05, 3: 0.10}  # standard deviation at mid-grey, of full range

GAIN_STD = 0.5  # of g
DRIFT = 0.35  # standard deviation of d where that of w is 1
WAVES = 3


@dataclass(frozen=True)
class Columns:
    """u and g of one image, float32 (width,) each."""

    pattern: np.ndarray
    gain: np.ndarray


def draw(rng: np.random.Generator, height: int, width: int, channels: int) -> Columns:
    """Draw the unit pattern and the gain of every column; worked out in float64, kept in float32."""
    white = rng.standard_normal(width)
    gain = GAIN_STD * rng.standard_normal(width)
    amplitude = rng.standard_normal(WAVES) / np.arange(1, WAVES + 1)
    phase = rng.uniform(0, 2 * np.pi, WAVES)

    waves = np.arange(1, WAVES + 1)[:, None] * np.arange(width) / width
    drift = (amplitude[:, None] * np.cos(2 * np.pi * waves + phase[:, None])).sum(axis=0)
    pattern = _normalised(white) + DRIFT * _normalised(drift)
    return Columns(_normalised(pattern).astype(np.float32), gain.astype(np.float32))


def _normalised(values: np.ndarray) -> np.ndarray:
    """Scale to zero mean and unit standard deviation; all zero if there is no variation to scale."""
    centred = values - values.mean()
    std = centred.std()
    return centred / std if std > 1e-12 else np.zeros_like(centred)


def apply(
    image_HW: np.ndarray, draws: Columns, strength: float, depth_HW: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Add the pattern at standard deviation `strength`. `depth_HW` has no part in it.

    image_HW: float32 in [0, 1]. Returns the striped image, of the same kind, not clipped, and what was used.
    """
    s = np.float32(strength)
    striped = image_HW * (1 + s * draws.gain) + s * (draws.pattern - np.float32(0.5) * draws.gain)
    return striped, {"std": strength, "gain_std": strength * float(draws.gain.std())}
