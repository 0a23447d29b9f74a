"""Brenner, the sharpness of the fused image."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """Brenner = sum over pixels of (F(y, x+2) - F(y, x))^2: along rows only, not divided by the pixels.

    Grows with the number of pixels and with noise: compare images of one size only. In squared grey levels. The sources
    are not used. NaN for images under 3 pixels wide. Other forms (both axes, steps of one, means) are in use and give
    other numbers. Source: Brenner et al., "An automated microscope for cytologic research", J. Histochemistry and
    Cytochemistry 24, 1976; form F-3 of Sun, Duthaler and Nelson, Microscopy Research and Technique 65, 2004.
    """
    if t.width < 3:
        return t.nan()
    return (t.fused[..., 2:] - t.fused[..., :-2]).square().sum(dim=(1, 2, 3))
