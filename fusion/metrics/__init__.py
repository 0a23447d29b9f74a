"""Metrics of fused images: how well a fused image keeps what the visible and the infrared image show.

One file per metric, and the table METRICS below with direction, range and source. To add a metric, write a file
with `compute(fused, visible, infrared)` and add one line here.

All metrics read grey images on the 0..255 scale (BT.601 luma rounded to 8 bits) and work in float64 on any device.
A value that the definition leaves open (0/0, or an image smaller than a filter) is NaN, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusion.errors import UserError
from fusion.metrics import ag, en, mi, psnr, qabf, scd, sd, sf, ssim, vif


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    `compute(fused, visible, infrared)`: three float64 tensors B x 1 x H x W on the 0..255 scale -> B float64 values.
    """

    name: str  # the value of the "metric" column in result files, lower case
    label: str  # as printed in papers
    higher_is_better: bool
    range: str
    source: str
    compute: Callable[[Tensor, Tensor, Tensor], Tensor]


_TABLE = (
    Metric("en", "EN", True, "0..8 bit", "Roberts, van Aardt and Ahmed 2008", en.compute),
    Metric("sf", "SF", True, "0..361 grey levels", "Eskicioglu and Fisher 1995", sf.compute),
    Metric("sd", "SD", True, "0..127.5 grey levels", "Ma, Ma and Li 2019 (survey)", sd.compute),
    Metric("mi", "MI", True, "0..16 bit, sum of both sources", "Qu, Zhang and Yan 2002", mi.compute),
    Metric("vif", "VIF", True, "0 up, 2 if identical, sum of both sources", "Sheikh and Bovik 2006", vif.compute),
    Metric("ag", "AG", True, "0..255 grey levels", "Cui et al. 2015", ag.compute),
    Metric("scd", "SCD", True, "-2..2, sum of both sources", "Aslantas and Bendes 2015", scd.compute),
    Metric("qabf", "Q_abf", True, "0..1", "Xydeas and Petrovic 2000", qabf.compute),
    Metric("psnr", "PSNR", True, "0..inf dB, from the mean MSE", "Ma, Ma and Li 2019 (survey)", psnr.compute),
    Metric("ssim", "SSIM", True, "-1..1, mean of both sources", "Wang et al. 2004", ssim.compute),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}


@torch.no_grad()
def score(fused: Tensor, visible: Tensor, infrared: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Every metric in `names` (default: all, in table order) for a batch of fused images and their two sources.

    Each image tensor is B x 1 x H x W, uint8 or float, on the 0..255 scale, all on one device. Returns name -> float64
    tensor of B values on that device; a value depends on its own image only. Fractional values are used as they are,
    except that histograms round them to 8 bits: for numbers to put beside published ones, round images first.
    An image with a NaN or an infinite pixel in it or in one of its sources scores NaN throughout.

    Raises ValueError if the shapes differ or are not B x 1 x H x W, UserError for an unknown name.
    """
    chosen = list(METRICS) if names is None else list(names)
    unknown = [name for name in chosen if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {', '.join(map(str, unknown))}: choose from {', '.join(METRICS)}.")
    shape = tuple(fused.shape)
    if not shape == tuple(visible.shape) == tuple(infrared.shape):
        raise ValueError(
            f"fused {shape}, visible {tuple(visible.shape)} and infrared {tuple(infrared.shape)} must have one shape"
        )
    if len(shape) != 4 or shape[1] != 1 or 0 in shape[2:]:
        raise ValueError(f"images must be B x 1 x H x W (grey, at least one pixel), got {shape}")
    images = [image.to(torch.float64) for image in (fused, visible, infrared)]
    usable_B = torch.stack([image.isfinite().all(dim=(1, 2, 3)) for image in images]).all(dim=0)
    # a CPU is 3 times faster image by image (the planes stay in its cache); an accelerator wants the whole batch
    step = 1 if fused.device.type == "cpu" else max(shape[0], 1)
    parts = list(zip(*(image.split(step) for image in images), strict=True))
    return {
        name: torch.cat([METRICS[name].compute(*part) for part in parts]).where(usable_B, torch.nan) for name in chosen
    }


__all__ = ["METRICS", "Metric", "score"]
