"""SD, the standard deviation of the fused image."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """SD = sqrt(mean of (F - mean F)^2), the population form (divisor H W), in grey levels.

    The sources are not used. A constant image has 0. Standard, vifb (there called "Variance") and cddfuse. Source: Ma,
    Ma and Li, "Infrared and visible image fusion methods and applications: a survey", Information Fusion 45, 2019.
    """
    return _difference(t).square().mean(dim=(1, 2, 3)).sqrt()


def saturated(t: Triplet) -> Tensor:
    """tang2022: in 8-bit integers, d = F - mean F rounded and cut to 0..255, d^2 cut to 255. Never above 15.97."""
    whole = round_half_away(_difference(t)).clamp(min=0)
    return whole.square().clamp(max=255).mean(dim=(1, 2, 3)).sqrt()


def round_half_away(image: Tensor) -> Tensor:
    """Round halves away from zero, as MATLAB does; any shape."""
    return image.abs().add(0.5).floor() * image.sign()


def _difference(t: Triplet) -> Tensor:
    return t.fused - t.fused.mean(dim=(1, 2, 3), keepdim=True)
