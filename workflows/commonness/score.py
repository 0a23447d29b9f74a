"""Score networks that are sums of weights: they travel in the task, as they have no checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tqdm import tqdm

from fusion.data.finding import PairRef, Rejected
from fusion.models.aenet import AENet
from fusion.models.configs import AENetConfig
from fusion.training.commonness import Weights, fold_norms
from fusion.training.evolution import mean_score
from workflows.cluster.parallel import in_parallel
from workflows.inputs import PairUnit, pair_units, read_items
from workflows.variants.score import fuse_and_score


class Key(NamedTuple):
    """Which sum of weights: of `task`, with `a` of the unique part of `other` ("": of the task's own part)."""

    task: str
    other: str
    a: float


@dataclass(frozen=True)
class SumTask:
    """A few pairs of a task that a network fuses, whose weights are given."""

    key: Key
    pairs_of: str
    config: AENetConfig
    weights: Weights
    unit: PairUnit


@dataclass(frozen=True)
class SumScore:
    """E2 of a network on a pair."""

    key: Key
    pairs_of: str
    pair: str
    e2: float


def score_weights(
    config: AENetConfig,
    networks: Mapping[Key, tuple[Weights, Sequence[str]]],
    held_out: Mapping[str, Sequence[PairRef]],
) -> dict[Key, dict[str, float]]:
    """Return key -> task -> mean E2, of networks given as their weights and the tasks on whose pairs they are scored.

    The mean is over the pairs on which every network that is scored on the task has a finite E2.
    """
    tasks = [
        SumTask(key, task, config, weights, unit)
        for key, (weights, names) in networks.items()
        for task in names
        for unit in pair_units(held_out[task])
    ]
    scores: dict[tuple[Key, str], dict[str, float]] = {}
    with tqdm(total=sum(len(task.unit.refs) for task in tasks), unit="pair", desc="sums", mininterval=1) as bar:
        for result in in_parallel(tasks, score_sum):
            scores.setdefault((result.key, result.pairs_of), {})[result.pair] = result.e2
            bar.update(1)
    bad = {(task, pair) for (_, task), by_pair in scores.items() for pair, e2 in by_pair.items() if math.isnan(e2)}
    means: dict[Key, dict[str, float]] = {key: {} for key in networks}
    for (key, task), by_pair in scores.items():
        means[key][task] = mean_score([e2 for pair, e2 in sorted(by_pair.items()) if (task, pair) not in bad])
    return means


def score_sum(task: SumTask) -> list[SumScore]:
    """Fuse a few pairs and score them, in a Ray task. Pairs that cannot be read are left out."""
    torch.set_num_threads(1)
    model = fold_norms(AENet(task.config))
    model.load_state_dict(task.weights, strict=False)  # but for the counts of batches
    results = []
    for item in read_items(task.unit):
        if not isinstance(item, Rejected):
            e2 = fuse_and_score(model, item, ("e2",))["e2"]
            results.append(SumScore(task.key, task.pairs_of, item.key, e2))
    return results
