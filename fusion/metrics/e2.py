"""E2, AE-Netv2's combined index: sharpness, naturalness and agreement with the sources in one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fusion.metrics import brenner, niqe, psnr, ssim, viff
from fusion.metrics.triplet import Triplet


@dataclass(frozen=True)
class Scales:
    """Factors that bring the terms to the sizes that the paper prints for its own networks.

    They are fixed, never drawn from the images being compared, so scoring one more method changes no other score.
    """

    niqe: float = 3.0  # NIQE of a clean picture: 3 / NIQE is about 0.7
    psnr: float = 30.0  # dB
    brenner: float = 100.0  # squared grey levels per pixel


def compute(t: Triplet) -> Tensor:
    """E2 = (3 / NIQE + PSNR / 30 + SSIM + Brenner / (100 H W) + VIFF) / 5, the scales as in `Scales`.

    The paper gives no formula. Its table VII fits a mean of seven terms: these five and two unknown ones that add about
    1.7 for every network; the constants of its scaling are unknown as well. So ours ranks by the five known terms, and
    its absolute values are its own. The Brenner term dominates: the index rewards sharpness, and noise, above all else.

    NaN where a term is, as for images too small for NIQE. All terms in the standard dialect. Source: Fang et al.,
    "AE-Netv2: Optimization of image fusion efficiency and network architecture", 2020.
    """
    return _mean(Scales(), niqe.compute, t)


def with_model(pristine: niqe.Pristine, scales: Scales | None = None) -> Callable[[Triplet], Tensor]:
    """Return the same with NIQE under another model of clean pictures, or with other scales."""
    return partial(_mean, scales or Scales(), niqe.with_model(pristine))


def _mean(scales: Scales, natural: Callable[[Triplet], Tensor], t: Triplet) -> Tensor:
    terms = (
        scales.niqe / t.get(natural),
        t.get(psnr.compute) / scales.psnr,
        t.get(ssim.compute),
        t.get(brenner.compute) / (t.height * t.width * scales.brenner),
        t.get(viff.compute),
    )
    return torch.stack(terms).mean(dim=0)
