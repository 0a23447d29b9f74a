"""Score a network of a study on pairs: it fuses their grey images, and every result is scored in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fusion import checkpoint, inference, realtime, storage
from fusion.data.finding import PairRef, Rejected
from fusion.images.colour import to_grey
from fusion.metrics import score
from fusion.metrics.triplet import to_batch
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.inputs import Item, PairUnit, pair_units, read_items

METRICS = ("e2", "niqe", "ssim", "en", "psnr", "brenner", "viff")


@dataclass(frozen=True)
class NetworkTask:
    """A few pairs that a network fuses."""

    checkpoint: str
    unit: PairUnit


@dataclass(frozen=True)
class PairMetrics:
    """The metrics of a network's result on a pair."""

    key: str
    values: dict[str, float]


def mean_metrics(what: str, refs: Sequence[PairRef], trained: str) -> dict[str, float]:
    """Return metric -> mean over the pairs on which it is finite; those left out are told, as of `what`."""
    scored = 0
    finite: dict[str, list[float]] = {name: [] for name in METRICS}
    for result in score_pairs(refs, trained):
        scored += 1
        for name, value in result.values.items():
            finite[name] += [value] if math.isfinite(value) else []
    for name, values in finite.items():
        if len(values) < len(refs):
            unread = f", {len(refs) - scored} cannot be read" if scored < len(refs) else ""
            log_progress(f"{what}: {name} is the mean of {len(values)} of {len(refs)} held-out pairs{unread}")
    return {name: sum(values) / len(values) if values else math.nan for name, values in finite.items()}


def score_pairs(refs: Sequence[PairRef], checkpoint_path: str) -> Iterator[PairMetrics]:
    """Score a network on pairs, on Ray; those that cannot be read are left out."""
    path = storage.absolute(checkpoint_path)
    return in_parallel([NetworkTask(path, unit) for unit in pair_units(refs)], score_network)


def score_network(task: NetworkTask) -> list[PairMetrics]:
    """Compute the metrics of a network on a few pairs, in a Ray task."""
    torch.set_num_threads(1)
    model = realtime.fastest(checkpoint.load(checkpoint.fetch(task.checkpoint)).model, "cpu", threads=1)
    results = []
    for item in read_items(task.unit):
        if isinstance(item, Rejected):
            continue
        values = fuse_and_score(model, item, METRICS)
        values["brenner"] /= item.infrared.size  # per pixel, as pairs have different sizes
        results.append(PairMetrics(item.key, values))
    return results


def fuse_and_score(model: nn.Module, item: Item, names: Sequence[str]) -> dict[str, float]:
    """Fuse the grey images of a pair and return the metrics of the result by name."""
    fused = inference.fuse(model, to_grey(item.visible), item.infrared)
    metrics = score(to_batch(fused), to_batch(item.visible), to_batch(item.infrared), names)
    return {name: float(value[0]) for name, value in metrics.items()}
