"""MSE, the mean squared error of the fused image against both sources."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.triplet import Triplet


def errors(t: Triplet) -> Tensor:
    """Mean (X - F)^2 of each source, B x S, in squared grey levels."""
    return (t.source_BSHW - t.fused).square().mean(dim=(-2, -1))


def compute(t: Triplet) -> Tensor:
    """MSE = (mean (A - F)^2 + mean (B - F)^2) / 2, in squared grey levels. 0 only for F = A = B.

    Standard and cddfuse. Source: Ma, Ma and Li, "Infrared and visible image fusion methods and applications: a
    survey", Information Fusion 45, 2019.
    """
    return t.get(errors).mean(dim=1)


def unit_scale(t: Triplet) -> Tensor:
    """tang2022: on 0..1, 1/65025 of the standard value."""
    return compute(t) / 255**2
