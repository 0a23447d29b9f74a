"""Metrics of fused images: how well a fused image keeps what the visible and the infrared image show.

One file per metric, and the table METRICS below with direction, range, source and dialects. To add a metric, write a
file with `compute(t)` on a `Triplet` and add one line here.

`standard` is the correct definition in float64, the only one with every metric; the other dialects repeat what named
evaluators compute, quirks included, so that numbers can stand beside published ones (`dialects.py`). Sources are what
the caller gives: for fused images of degraded pairs the clean pair, which is also the reference of PSNR, MSE and SSIM.
A value that the definition leaves open (0/0, or an image smaller than a filter) is NaN, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from fusion.errors import UserError
from fusion.metrics import (
    ag,
    brenner,
    cc,
    ce,
    e2,
    ei,
    en,
    mi,
    mse,
    msssim,
    nabf,
    niqe,
    nmi,
    psnr,
    qabf,
    qcb,
    qcv,
    rmse,
    scd,
    sd,
    sf,
    ssim,
    vif,
    viff,
)
from fusion.metrics.dialects import DIALECTS, STANDARD, Dialect
from fusion.metrics.triplet import Triplet

Compute = Callable[[Triplet], Tensor]
FUSED, BOTH = ("fused",), ("fused", "visible", "infrared")


@dataclass(frozen=True)
class Metric:
    """One row of the table. `dialects`: name -> function of a Triplet to B float64 values."""

    name: str  # the value of the "metric" column in result files, lower case
    label: str  # as printed in papers
    higher_is_better: bool
    range: str  # of the standard dialect
    source: str
    needs: tuple[str, ...]
    dialects: Mapping[str, Compute]


def _row(
    name: str,
    label: str,
    direction: str,
    range: str,
    source: str,
    needs: tuple[str, ...],
    standard: Compute,
    **others: Compute,
) -> Metric:
    return Metric(name, label, direction == "up", range, source, needs, {STANDARD: standard} | others)


_TABLE = (
    _row("en", "EN", "up", "0..8 bit", "Roberts, van Aardt and Ahmed 2008", FUSED,
         en.compute, vifb=en.compute, tang2022=en.compute, cddfuse=en.compute),
    _row("sf", "SF", "up", "0..361 grey levels", "Eskicioglu and Fisher 1995", FUSED,
         sf.compute, vifb=sf.side_by_side, tang2022=sf.unit_scale, cddfuse=sf.compute),
    _row("sd", "SD", "up", "0..127.5 grey levels", "Ma, Ma and Li 2019 (survey)", FUSED,
         sd.compute, vifb=sd.compute, tang2022=sd.saturated, cddfuse=sd.compute),
    _row("mi", "MI", "up", "0..16 bit, sum of both sources", "Qu, Zhang and Yan 2002", BOTH,
         mi.compute, vifb=mi.nats, tang2022=mi.merged, cddfuse=mi.nats),
    _row("vif", "VIF", "up", "0 up, 2 if identical, sum of both sources", "Sheikh and Bovik 2006", BOTH,
         vif.compute, tang2022=vif.saturated, cddfuse=vif.compute),
    _row("ag", "AG", "up", "0..255 grey levels", "Cui et al. 2015", FUSED,
         ag.compute, vifb=ag.fewer_pixels, tang2022=ag.fewer_pixels, cddfuse=ag.compute),
    _row("scd", "SCD", "up", "-2..2, sum of both sources", "Aslantas and Bendes 2015", BOTH,
         scd.compute, tang2022=scd.compute, cddfuse=scd.compute),
    _row("qabf", "Q_abf", "up", "0..1", "Xydeas and Petrovic 2000", BOTH,
         qabf.compute, vifb=qabf.on_squared_scale, tang2022=qabf.on_unit_scale, cddfuse=qabf.compute),
    _row("qabf_visible", "Q_AF", "up", "0..1", "Xydeas and Petrovic 2000", BOTH, qabf.of_visible),
    _row("qabf_infrared", "Q_BF", "up", "0..1", "Xydeas and Petrovic 2000", BOTH, qabf.of_infrared),
    _row("qabf_smaller", "min(Q_AF, Q_BF)", "up", "0..1", "Xydeas and Petrovic 2000", BOTH, qabf.of_either),
    _row("vif_visible", "VIF_AF", "up", "0 up, 1 if identical", "Sheikh and Bovik 2006", BOTH, vif.of_visible),
    _row("vif_infrared", "VIF_BF", "up", "0 up, 1 if identical", "Sheikh and Bovik 2006", BOTH, vif.of_infrared),
    _row("vif_smaller", "min(VIF_AF, VIF_BF)", "up", "0 up", "Sheikh and Bovik 2006", BOTH, vif.of_either),
    _row("psnr", "PSNR", "up", "0..inf dB, from the mean MSE", "Ma, Ma and Li 2019 (survey)", BOTH,
         psnr.compute, vifb=psnr.of_norm, tang2022=psnr.mixed_scales, cddfuse=psnr.own_peak),
    _row("ssim", "SSIM", "up", "-1..1, mean of both sources", "Wang et al. 2004", BOTH,
         ssim.compute, vifb=ssim.summed, cddfuse=ssim.uniform),
    _row("cc", "CC", "up", "-1..1, mean of both sources", "Ma, Ma and Li 2019 (survey)", BOTH,
         cc.compute, tang2022=cc.compute, cddfuse=cc.compute),
    _row("mse", "MSE", "down", "0..65025, mean of both sources", "Ma, Ma and Li 2019 (survey)", BOTH,
         mse.compute, tang2022=mse.unit_scale, cddfuse=mse.compute),
    _row("nabf", "N_abf", "down", "0..1", "Kumar 2013", BOTH, nabf.compute),
    _row("msssim", "MS-SSIM", "up", "0..1, mean of both sources", "Wang, Simoncelli and Bovik 2003", BOTH,
         msssim.compute),
    _row("viff", "VIFF", "up", "0 up, 1 if identical", "Han, Cai, Cao and Xu 2013", BOTH, viff.compute),
    _row("niqe", "NIQE", "down", "0 up", "Mittal, Soundararajan and Bovik 2013", FUSED, niqe.compute),
    _row("brenner", "Brenner", "up", "0 up, a sum: grows with the image", "Sun, Duthaler and Nelson 2004", FUSED,
         brenner.compute),
    _row("ce", "CE", "down", "about 0 up, bit, mean of both sources", "VIFB 2020", BOTH,
         ce.compute, vifb=ce.compute),
    _row("ei", "EI", "up", "0..1140 grey levels", "VIFB 2020", FUSED, ei.compute, vifb=ei.compute),
    _row("rmse", "RMSE", "down", "0..255 grey levels, mean of both sources", "Jagalingam and Hegde 2015", BOTH,
         rmse.compute, vifb=rmse.by_norm),
    _row("qcb", "Q_cb", "up", "0..1", "Chen and Blum 2009", BOTH, qcb.compute, vifb=qcb.toolbox),
    _row("qcv", "Q_cv", "down", "0 up, squared grey levels", "Chen and Varshney 2007", BOTH,
         qcv.compute, vifb=qcv.toolbox),
    _row("e2", "E2", "up", "0 up; sharpness dominates", "AE-Netv2 2020", BOTH, e2.compute),
    _row("nmi", "NMI", "up", "0..2", "Hossny, Nahavandi and Creighton 2008", BOTH, nmi.compute),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
USUAL = ("en", "sf", "sd", "mi", "vif", "ag", "scd", "qabf", "psnr", "ssim")  # what a table shows unless told


def choose(names: Sequence[str] | None = None, dialect: str = STANDARD) -> list[str]:
    """Return the names, checked against the dialect; None: the usual ones that the dialect has. UserError otherwise."""
    if dialect not in DIALECTS:
        raise UserError(f"unknown dialect {dialect!r}: choose from {', '.join(DIALECTS)}.")
    there = [name for name, metric in METRICS.items() if dialect in metric.dialects]
    if names is None:
        return [name for name in USUAL if name in there]
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {', '.join(map(str, unknown))}: choose from {', '.join(METRICS)}.")
    absent = [name for name in names if name not in there]
    if absent:
        raise UserError(f"the {dialect} dialect has no {', '.join(absent)}: it has {', '.join(there)}.")
    return list(names)


@torch.no_grad()
def score(
    fused: Tensor,
    visible: Tensor,
    infrared: Tensor,
    names: Sequence[str] | None = None,
    dialect: str = STANDARD,
    instead: Mapping[str, Compute] | None = None,
) -> dict[str, Tensor]:
    """Every metric in `names` (None: the usual ones) for a batch of fused images and their two sources.

    Each image tensor is B x 1 x H x W (grey) or B x 3 x H x W (RGB), uint8 or float, on the 0..255 scale, all on one
    device. Which grey planes of a colour image count is the dialect's matter. Returns name -> float64 tensor of B
    values on that device; a value depends on its own image only. Fractional values are used as they are, except that
    histograms round them to 8 bits: for numbers to put beside published ones, round images first. An image with a NaN
    or an infinite pixel in it or in one of its sources scores NaN throughout. `instead` puts other functions in the
    place of metrics, as in `{"niqe": niqe.with_model(...)}`. On a CPU, images are shared out among torch's threads.

    Raises ValueError if batches or sizes differ or images are not B x 1 or 3 x H x W, UserError for an unknown name.
    """
    chosen = choose(names, dialect)
    images = (fused, visible, infrared)
    shapes = [tuple(image.shape) for image in images]
    if any(len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape[2:] for shape in shapes):
        raise ValueError(f"images must be B x 1 or 3 x H x W (at least one pixel), got {', '.join(map(str, shapes))}")
    if len({(shape[0], *shape[2:]) for shape in shapes}) > 1:
        raise ValueError("fused {}, visible {} and infrared {} must have one batch and size".format(*shapes))
    images = (fused.double(), visible.double(), infrared.double())
    usable_B = torch.stack([image.sum(dim=(1, 2, 3)).isfinite() for image in images]).all(dim=0)
    work = {name: (instead or {}).get(name, METRICS[name].dialects[dialect]) for name in chosen}
    # a CPU is 3 times faster image by image (the planes stay in its cache); an accelerator wants the whole batch
    step = 1 if fused.device.type == "cpu" else max(shapes[0][0], 1)
    parts = list(zip(*(torch.split(image, step) for image in images), strict=True))
    threads = min(len(parts), torch.get_num_threads()) if fused.device.type == "cpu" else 0
    scored = _shared_out(lambda part: _score_part(part, work, DIALECTS[dialect]), parts, threads)
    return {name: torch.cat([part[name] for part in scored]).where(usable_B, torch.nan) for name in chosen}


def _shared_out(
    work: Callable[[tuple[Tensor, ...]], dict[str, Tensor]], parts: list[tuple[Tensor, ...]], threads: int
) -> list[dict[str, Tensor]]:
    """Return [work(part) ...], by so many one-core threads (0: here): sums never depend on their number."""
    if torch.get_num_threads() == 1 or not threads:
        return [work(part) for part in parts]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(torch.no_grad()(work), parts))
    finally:
        torch.set_num_threads(before)  # what a thread sets is also what new threads start with


def _score_part(images: tuple[Tensor, ...], work: Mapping[str, Compute], dialect: Dialect) -> dict[str, Tensor]:
    planes_BPHW = [dialect.planes(image) for image in images]
    batch, planes = planes_BPHW[0].shape[:2]
    triplet = Triplet(*(image.flatten(0, 1).unsqueeze(1) for image in planes_BPHW))
    values = {name: triplet.get(compute) for name, compute in work.items()}
    return {name: value.view(batch, planes).mean(dim=1) for name, value in values.items()}


__all__ = ["DIALECTS", "METRICS", "STANDARD", "USUAL", "Metric", "Triplet", "choose", "score"]
