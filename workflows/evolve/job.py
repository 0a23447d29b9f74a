"""duskfuse evolve: a library of fusion methods labels the pairs, AE-Netv2 learns from the best result of each.

    duskfuse evolve --pairs DIR --out DIR
    duskfuse evolve --pairs DIR --out DIR --checkpoint moefusion=RUN       the library grows, the network evolves
    duskfuse evolve --pairs DIR --from DIR --out DIR2 --checkpoint ...     the same in another folder

Every method fuses and E2 scores the training and validation pairs; the best result of a pair is its label. Running it
again with more methods (--methods, --checkpoint NAME=RUN, --fused NAME=DIR) scores only those, replaces labels where
they win, and trains on from the network that is there if any label was. Nothing is redone.

OUT/library/NAME has a method's results and scores, OUT/evolutions/N the labels and the training, OUT/checkpoint the
latest network; OUT/evolve.json, written last, who won how often, and scores on the held-out pairs before and after.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fusion import storage
from fusion.config import to_dict
from fusion.data.finding import PairList, PairRef, Rejected
from fusion.data.pairs import find_pairs
from fusion.data.synthetic import resolve_pairs_uri
from fusion.errors import UserError
from fusion.training import evolution
from fusion.training.evolution import Label
from fusion.training.recipes import Recipe
from workflows.cluster.connect import connect
from workflows.console import log_progress
from workflows.evolve import train as evolve_train
from workflows.evolve.earlier import check_start, copy_evolutions
from workflows.evolve.library import UNREADABLE, held_out_means, library, score_method
from workflows.evolve.options import Args
from workflows.evolve.store import (
    Evolution,
    LabelledPair,
    MethodSpec,
    PairScore,
    count_evolutions,
    evolution_folder,
    labelled_pairs,
    network_checkpoint,
    network_spec,
    read_evolution,
    read_labels,
    write_labels,
)
from workflows.outputs import Lease, claim_output, write_json
from workflows.provenance import provenance
from workflows.splits import split_pairs
from workflows.train.trainer import copy_checkpoint


def run(args: Args, command: list[str]) -> None:
    """Check the options, claim the folder, and evolve."""
    if args.recipe.model_name != "aenet":
        raise UserError(f"evolution trains AE-Netv2; the recipe {args.recipe.name} is of {args.recipe.model_name}.")
    if not 0 <= args.max_sharpness < math.inf:
        raise UserError(f"--max-sharpness {args.max_sharpness:g}: give a number of at least 0.")
    methods = library(args)
    found = find_pairs(args.pairs)
    if args.start is not None:
        check_start(args.start, settings(args))
    claim_output(args.out, "settings.json", settings(args), "evolution")
    with Lease(args.out) as lease:
        claim_output(args.out, "settings.json", settings(args), "evolution")  # another one may have claimed it just now
        if args.start is not None:
            copy_evolutions(args.start, args.out)
        evolve(args, command, methods, found, lease)


def evolve(args: Args, command: list[str], methods: dict[str, MethodSpec], found: PairList, lease: Lease) -> None:
    """Score what is new, label, train, and write down what came of it."""
    connect()
    refs = split_pairs(found.refs, args, args.out)
    check_batch(args, refs)
    scores = score_library(args, methods, refs, found.rejected, lease)
    number = count_evolutions(args.out)
    before = read_evolution(args.out, number).library if number else []
    joined = [name for name in methods if name not in before]
    if not joined:
        finish(args.out, number, ["evolve", *command])  # it may have been killed before that
        print(f"{args.out}: nothing new in the library; its network is in {storage.join(args.out, 'checkpoint')}")
        return
    number += 1
    old = read_labels(args.out, number - 1)
    labels = assign_labels(args.out, number, {name: scores[name] for name in joined}, refs)
    epochs = train_network(args, number, labelled_pairs(args.out, refs, labels), labels == old, ["evolve", *command])
    score_method(args, f"network-{number}", network_spec(args.out, number), refs, ("test",))
    means, counts = held_out_means(args, [*before, *joined], refs, number)
    result = Evolution(
        evolution=number,
        library=[*before, *joined],
        joined=joined,
        labels=len(labels),
        replaced=sum(key in old and old[key] != label for key, label in labels.items()),
        wins=evolution.wins(labels.values()),
        label_score=evolution.mean_score([label.score for label in labels.values()]),
        held_out_pairs=sum(ref.split == "test" for ref in refs),
        held_out_scores=means,
        held_out_scored=counts,
        failures={name: sum(bool(reason) for _, reason in by_key.values()) for name, by_key in scores.items()},
        forgetting=evolve_train.measure_forgetting(args.out, number, refs),
        epochs=epochs,
    )
    lease.check()
    write_json(storage.join(evolution_folder(args.out, number), "evolution.json"), asdict(result))
    finish(args.out, number, ["evolve", *command])
    print(f"{args.out}: evolution {number}, the network is in {storage.join(args.out, 'checkpoint')}")


def check_batch(args: Args, refs: Sequence[PairRef]) -> None:
    """Raise UserError when the training pairs do not fill a batch."""
    count = sum(ref.split == "train" for ref in refs)
    if count * args.recipe.crops.per_image < args.recipe.batch_size:
        raise UserError(
            f"{count} pairs to train on are too few for a batch of {args.recipe.batch_size}. "
            "Lower --recipe.batch-size, or --test-fraction and --val-fraction."
        )


def score_library(
    args: Args, methods: dict[str, MethodSpec], refs: Sequence[PairRef], rejected: Sequence[Rejected], lease: Lease
) -> dict[str, dict[str, PairScore]]:
    """Return method -> key -> E2 on all pairs. UserError when too many pairs cannot be read."""
    scores = {}
    for name, spec in methods.items():
        scores[name] = score_method(args, name, spec, refs)
        lease.check()
    unread = {
        key for by_key in scores.values() for key, result in by_key.items() if result.reason.startswith(UNREADABLE)
    }
    unread |= {item.key for item in rejected}
    if len(unread) > args.max_rejected_fraction * (len(refs) + len(rejected)):
        raise UserError(f"{len(unread)} pairs cannot be read, more than --max-rejected-fraction: {min(unread)} is one.")
    return scores


def assign_labels(
    out: str, number: int, scores: Mapping[str, Mapping[str, PairScore]], refs: Sequence[PairRef]
) -> dict[str, Label]:
    """Return the labels of an evolution, of the training and validation pairs, and write them.

    `scores`: of the methods that join. UserError when no method has a result.
    """
    learnt = {ref.key for ref in refs if ref.split in ("train", "val")}
    values = {name: {k: s for k, (s, _) in by_key.items() if k in learnt} for name, by_key in scores.items()}
    labels = evolution.evolve(read_labels(out, number - 1), values)
    if not labels:
        failures = ((key, reason) for by_key in scores.values() for key, (_, reason) in by_key.items() if reason)
        key, reason = next(failures, ("", ""))
        raise UserError(f"no method has a result with a score on any pair ({key}: {reason}). E2 needs images for NIQE.")
    write_labels(evolution_folder(out, number), evolution.to_csv(labels))
    won = evolution.wins(labels.values())
    log_progress(
        f"evolution {number}: {len(labels)} labels by " + ", ".join(f"{name} {count}" for name, count in won.items())
    )
    return labels


def recipe_for(args: Args, number: int) -> Recipe:
    """Return the recipe of an evolution: after the first one a tenth of the rate, and fewer epochs."""
    if number == 1:
        return args.recipe
    optim = replace(args.recipe.optim, lr=args.recipe.optim.lr * 0.1, milestones=())
    return replace(args.recipe, epochs=args.finetune_epochs, optim=optim)


def train_network(args: Args, number: int, pairs: list[LabelledPair], unchanged: bool, command: list[str]) -> int:
    """Train the network of an evolution on from the one before. Returns the epochs.

    `unchanged`: no label was replaced, so that the network stays as it is, after 0 epochs.
    """
    training = storage.join(evolution_folder(args.out, number), "training")
    if not storage.exists(storage.join(training, "checkpoint", "state.json")):  # scores of one that was deleted
        for name in ("scores.json", "method.json"):
            storage.remove(storage.join(args.out, "library", f"network-{number}", name))
    if number > 1 and unchanged:
        log_progress(f"evolution {number}: no label is replaced, and the network stays as it is")
        claim = {"labels": evolve_train.labels_fingerprint(pairs), "network_of_evolution": number - 1}
        claim_output(training, "settings.json", claim, "training")
        copy_checkpoint(network_checkpoint(args.out, number - 1), storage.join(training, "checkpoint"))
        return 0
    start = network_checkpoint(args.out, number - 1) if number > 1 else None
    return len(evolve_train.train(training, recipe_for(args, number), pairs, start, command, args.workers))


def finish(out: str, number: int, command: list[str]) -> None:
    """Write OUT/checkpoint and OUT/evolve.json of the evolutions up to `number`, unless they are there."""
    path = storage.join(out, "evolve.json")
    if storage.exists(path) and len(json.loads(storage.read_bytes(path))["evolutions"]) == number:
        return
    copy_checkpoint(network_checkpoint(out, number), storage.join(out, "checkpoint"))
    write_evolutions(path, [read_evolution(out, n) for n in range(1, number + 1)], command)


def write_evolutions(path: str, evolutions: Sequence[Evolution], command: list[str]) -> None:
    """Write evolve.json, and print what came of the last evolution."""
    write_json(path, {"provenance": provenance(command), "evolutions": [asdict(result) for result in evolutions]})
    print_evolutions(evolutions)


def settings(args: Args) -> dict[str, Any]:
    """Return what a folder of evolutions is of."""
    names = ("splits", "sequences", "val_fraction", "test_fraction", "seed")
    content = {"pairs": resolve_pairs_uri(args.pairs), "recipe": to_dict(args.recipe)}
    content |= {name: getattr(args, name) for name in names}
    content |= {"sequence_pattern": args.sequence_pattern} if args.sequence_pattern else {}
    return content | ({"max_sharpness": args.max_sharpness} if args.max_sharpness else {})


def print_evolutions(evolutions: Sequence[Evolution]) -> None:
    """Print the scores and labels of the last evolution, and what every one forgot."""
    last = evolutions[-1]
    log_progress(f"{'E2 on ' + str(last.held_out_pairs) + ' held-out pairs':28} labels won")
    for name, value in last.held_out_scores.items():
        count = last.held_out_scored[name]
        fewer = f"   over {count} pairs only" if count < last.held_out_pairs else ""
        log_progress(f"{name:18} {value:9.4f} {last.wins.get(name, 0):10}{fewer}")
    for result in evolutions:
        if loss := result.forgetting:
            log_progress(
                f"evolution {result.evolution}: loss on the labels before it {loss.before:.4f} -> {loss.after:.4f}"
            )
