"""SD, the standard deviation of the fused image."""

from __future__ import annotations

from torch import Tensor


def compute(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """SD = sqrt(mean of (F - mean F)^2), the population form (divisor H W), in grey levels.

    The sources are not used. A constant image has 0. Float arithmetic throughout: evaluators that stay in 8-bit
    integers saturate the squares and print values near 10 for images whose SD is near 40.

    B x 1 x H x W float64 on 0..255 -> B. Source: Ma, Ma and Li, "Infrared and visible image fusion methods and
    applications: a survey", Information Fusion 45, 2019.
    """
    return (fused - fused.mean(dim=(1, 2, 3), keepdim=True)).square().mean(dim=(1, 2, 3)).sqrt()
