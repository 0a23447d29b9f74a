"""What `duskfuse evolve` keeps: the methods of the library with their results, and every evolution with its labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fusion import storage
from fusion.config import from_dict
from fusion.data.finding import PairRef
from fusion.errors import UserError
from fusion.training import evolution
from fusion.training.evolution import Label
from workflows.fuse.methods import load_network
from workflows.legacy import upgrade_evolution, upgrade_settings


@dataclass(frozen=True)
class MethodSpec:
    """What makes a method's images; method.json.

    Args:
        kind: "library" (a classical method), "checkpoint" (a network) or "folder" (fused images).
        where: The classical method's name, or the path of the checkpoint or folder.
        identity: What a network's images depend on.
    """

    kind: str
    where: str
    identity: str | None = None


class PairScore(NamedTuple):
    """E2 of a method's result on a pair, NaN where there is none, and why ("" where there is one)."""

    score: float
    reason: str


@dataclass(frozen=True)
class LabelledPair:
    """A pair and the path of its label, a fused image."""

    ref: PairRef
    label: str


@dataclass(frozen=True)
class Forgetting:
    """The mean loss on `pairs` labels of the evolution before, by the network before and by the one after."""

    before: float
    after: float
    pairs: int


@dataclass(frozen=True)
class Evolution:
    """What came of an evolution; evolution.json.

    Args:
        evolution: Its number, from 1.
        library: All methods so far, in the order of joining.
        joined: The methods that joined in this one.
        labels: How many pairs have a label.
        replaced: How many labels are of another method or score than before.
        wins: Method -> labels won, most first.
        label_score: Mean E2 of the labels.
        held_out_pairs: How many pairs are held out.
        held_out_scores: Method or network -> mean E2 on the held-out pairs.
        held_out_scored: Method or network -> on how many of them it has a result.
        failures: Method -> on how many pairs it has no result.
        forgetting: None for the first evolution.
        epochs: Of the training; 0 where no label was replaced.
    """

    evolution: int
    library: list[str]
    joined: list[str]
    labels: int
    replaced: int
    wins: dict[str, int]
    label_score: float
    held_out_pairs: int
    held_out_scores: dict[str, float]
    held_out_scored: dict[str, int]
    failures: dict[str, int]
    forgetting: Forgetting | None
    epochs: int


def evolution_folder(out: str, number: int) -> str:
    """Return the folder of an evolution."""
    return storage.join(out, "evolutions", str(number))


def network_checkpoint(out: str, number: int) -> str:
    """Return the folder of the network that an evolution trained."""
    return storage.join(evolution_folder(out, number), "training", "checkpoint")


def image_path(out: str, method: str, key: str) -> str:
    """Return the path of a method's result on a pair."""
    return storage.join(out, "library", method, f"{key}.png")


def write_labels(folder: str, text: str) -> None:
    """Write FOLDER/labels.csv. UserError when a training of other labels has begun there."""
    path = storage.join(folder, "labels.csv")
    if storage.exists(storage.join(folder, "training", "settings.json")) and storage.read_bytes(path).decode() != text:
        raise UserError(
            f"{folder} was begun with another library and is not finished. Run that command again first; "
            "or delete the folder, and the evolution begins with this library."
        )
    storage.write_text(path, text)


def read_labels(out: str, number: int) -> dict[str, Label]:
    """Read key -> label of an evolution; {} of number 0."""
    if number == 0:
        return {}
    path = storage.join(evolution_folder(out, number), "labels.csv")
    return evolution.from_csv(storage.read_bytes(path).decode(), path)


def labelled_pairs(out: str, refs: Sequence[PairRef], labels: Mapping[str, Label]) -> list[LabelledPair]:
    """Return the pairs that have a label, with its path."""
    return [
        LabelledPair(ref, storage.absolute(image_path(out, labels[ref.key].method, ref.key)))
        for ref in refs
        if ref.key in labels
    ]


def mix_tasks(labelled: Mapping[str, Sequence[LabelledPair]]) -> list[LabelledPair]:
    """Return the pairs of all tasks; a task with few to train on has them several times, to count like the largest.

    Of several tasks, keys get the task and a number, as they name the draw of a crop.
    """
    if len(labelled) == 1:
        return list(*labelled.values())
    counts = {task: sum(pair.ref.split == "train" for pair in pairs) for task, pairs in labelled.items()}
    mixed = []
    for task, pairs in labelled.items():
        for pair in pairs:
            times = round(max(counts.values()) / counts[task]) if pair.ref.split == "train" else 1
            mixed += [replace(pair, ref=replace(pair.ref, key=f"{task}/{pair.ref.key}/{i}")) for i in range(times)]
    return mixed


def count_evolutions(out: str) -> int:
    """Return how many evolutions are finished."""
    number = 0
    while storage.exists(storage.join(evolution_folder(out, number + 1), "evolution.json")):
        number += 1
    return number


def read_evolution(out: str, number: int) -> Evolution:
    """Read what came of an evolution."""
    path = storage.join(evolution_folder(out, number), "evolution.json")
    content: dict[str, Any] = upgrade_evolution(json.loads(storage.read_bytes(path)))
    return from_dict(Evolution, content, path)


def read_spec(out: str, name: str) -> MethodSpec:
    """Read what makes the images of a method that has been scored."""
    path = storage.join(out, "library", name, "method.json")
    return from_dict(MethodSpec, upgrade_settings(json.loads(storage.read_bytes(path))), path)


def network_spec(out: str, number: int) -> MethodSpec:
    """Return the network of an evolution as a method."""
    path = storage.absolute(network_checkpoint(out, number))
    return MethodSpec("checkpoint", path, load_network(path).identity)


def parse_scores(text: bytes) -> dict[str, PairScore]:
    """Return key -> score, as scores.json holds them."""
    return {key: PairScore(float(score), reason) for key, (score, reason) in json.loads(text).items()}


def scores_to_json(scores: Mapping[str, PairScore]) -> str:
    """Return the text of scores.json; JSON knows no NaN, so numbers are text."""
    return json.dumps({key: (repr(score), reason) for key, (score, reason) in sorted(scores.items())}, indent=1) + "\n"
