"""duskfuse evolve: a library of fusion methods labels the pairs, AE-Netv2 learns from the best result of each.

    duskfuse evolve --pairs DIR --out DIR
    duskfuse evolve --pairs DIR --out DIR --checkpoint moefusion=RUN       the library grows, the network evolves

Every method fuses and E2 scores the training and validation pairs; the best result of a pair is its label. Running it
again with more methods (--methods, --checkpoint NAME=RUN, --fused NAME=DIR) scores only those, replaces labels where
they win, and trains on from the network that is there if any label was. Nothing is redone.

OUT/library/NAME has a method's results and scores, OUT/evolutions/N the labels and the training, OUT/checkpoint the
latest network; OUT/evolve.json, written last, who won how often, and scores on the held-out pairs before and after.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

from fusion import storage
from fusion.config import fingerprint, to_dict
from fusion.data.pairs import find_pairs
from fusion.data.synthetic import resolve_pairs_uri
from fusion.errors import UserError
from fusion.training import evolution
from workflows.cluster.connect import connect
from workflows.console import log_progress
from workflows.evolve import train as evolve_train
from workflows.evolve.library import held_out_means, library, score_method
from workflows.evolve.options import Args
from workflows.evolve.store import image_path, latest, network_spec, read, read_labels, write_labels
from workflows.outputs import Lease, claim_output
from workflows.provenance import provenance
from workflows.splits import split_pairs
from workflows.train.trainer import copy_checkpoint


def run(args: Args, command: list[str]) -> None:

    if args.recipe.model_name != "aenet":
        raise UserError(f"evolution trains AE-Netv2; the recipe {args.recipe.name} is of {args.recipe.model_name}.")
    if not 0 <= args.max_sharpness < math.inf:
        raise UserError(f"--max-sharpness {args.max_sharpness:g}: give a number of at least 0.")
    methods = library(args)
    found = find_pairs(args.pairs)
    claim_output(args.out, "settings.json", settings(args), "evolution")
    with Lease(args.out) as lease:
        claim_output(args.out, "settings.json", settings(args), "evolution")  # another one may have claimed it just now
        evolve(args, command, methods, found, lease)


def evolve(args: Args, command: list[str], methods: dict[str, dict], found, lease) -> None:
    """Score what is new, label, train, and write down what came of it."""

    connect()
    refs = split_pairs(found.refs, args, args.out)
    learn = sum(ref.split == "train" for ref in refs)
    if learn * args.recipe.crops.per_image < args.recipe.batch_size:
        raise UserError(
            f"{learn} pairs to train on are too few for a batch of {args.recipe.batch_size}. "
            "Lower --recipe.batch-size, or --test-fraction and --val-fraction."
        )
    scores = {}
    for name, spec in methods.items():
        scores[name] = score_method(args, name, spec, refs)
        lease.check()
    rejected = {key for by_key in scores.values() for key, (_, reason) in by_key.items() if reason.startswith("pair: ")}
    rejected |= {item.key for item in found.rejected}
    if len(rejected) > args.max_rejected_fraction * (len(refs) + len(found.rejected)):
        raise UserError(
            f"{len(rejected)} pairs cannot be read, more than --max-rejected-fraction: {min(rejected)} is one."
        )

    number, earlier = latest(args.out)
    before = earlier.get("library", [])
    fresh = [name for name in methods if name not in before]
    if not fresh:
        finish(args.out, number, ["evolve", *command])  # it may have been killed before that
        print(f"{args.out}: nothing new in the library; its network is in {storage.join(args.out, 'checkpoint')}")
        return
    number += 1
    folder = storage.join(args.out, "evolutions", str(number))
    old = read_labels(args.out, number - 1)
    trained = {ref.key for ref in refs if ref.split in ("train", "val")}
    values = {name: {k: s for k, (s, _) in scores[name].items() if k in trained} for name in fresh}
    labels = evolution.evolve(old, values)
    if not labels:
        key, why = next(((k, why) for by_key in scores.values() for k, (_, why) in by_key.items() if why), ("", ""))
        raise UserError(f"no method has a result with a score on any pair ({key}: {why}). E2 needs images for NIQE.")
    write_labels(folder, evolution.to_csv(labels))
    network = storage.join(args.out, "library", f"network-{number}")
    training = storage.join(folder, "training")
    if not storage.exists(storage.join(training, "checkpoint", "state.json")):  # scores of one that was deleted
        for name in ("scores.json", "method.json"):
            storage.remove(storage.join(network, name))
    won = evolution.wins(labels.values())
    log_progress(
        f"evolution {number}: {len(labels)} labels by " + ", ".join(f"{name} {count}" for name, count in won.items())
    )

    recipe = args.recipe
    if number > 1:
        optim = replace(recipe.optim, lr=recipe.optim.lr * 0.1, milestones=())
        recipe = replace(recipe, epochs=args.finetune_epochs, optim=optim)
    start = storage.join(args.out, "evolutions", str(number - 1), "training", "checkpoint") if number > 1 else None
    rows = [
        {"ref": asdict(ref), "label": storage.absolute(image_path(args.out, labels[ref.key].method, ref.key))}
        for ref in refs
        if ref.key in labels
    ]
    if labels == old:
        log_progress(f"evolution {number}: no label is replaced, and the network stays as it is")
        claim_output(
            training, "settings.json", {"labels": fingerprint(rows), "network_of_evolution": number - 1}, "training"
        )
        copy_checkpoint(start, storage.join(training, "checkpoint"))
        history = []
    else:
        history = evolve_train.train(training, recipe, rows, start, ["evolve", *command], args.workers)
    score_method(args, f"network-{number}", network_spec(args.out, number), refs, ("test",))
    means, counts = held_out_means(args, [*before, *fresh], refs, number)
    facts = {
        "evolution": number,
        "library": [*before, *fresh],
        "joined": fresh,
        "labels": len(labels),
        "replaced": sum(key in old and old[key] != label for key, label in labels.items()),
        "wins": won,
        "label_score": evolution.mean_score([label.score for label in labels.values()]),
        "held_out_pairs": sum(ref.split == "test" for ref in refs),
        "held_out_scores": means,
        "held_out_scored": counts,
        "failures": {name: sum(bool(r) for _, r in by_key.values()) for name, by_key in scores.items()},
        "forgetting": evolve_train.forgetting(args.out, number, refs),
        "epochs": len(history),
    }
    lease.check()
    storage.write_text(storage.join(folder, "evolution.json"), json.dumps(facts, indent=1) + "\n")
    finish(args.out, number, ["evolve", *command])
    print(f"{args.out}: evolution {number}, the network is in {storage.join(args.out, 'checkpoint')}")


def finish(out: str, number: int, command: list[str]) -> None:
    """OUT/checkpoint and OUT/evolve.json of the evolutions up to `number`, unless they are there."""

    path = storage.join(out, "evolve.json")
    if storage.exists(path) and len(json.loads(storage.read_bytes(path))["evolutions"]) == number:
        return
    copy_checkpoint(
        storage.join(out, "evolutions", str(number), "training", "checkpoint"), storage.join(out, "checkpoint")
    )
    every = [read(out, n) for n in range(1, number + 1)]
    storage.write_text(path, json.dumps({"provenance": provenance(command), "evolutions": every}, indent=1) + "\n")
    show(every)


def settings(args: Args) -> dict:

    names = ("splits", "sequences", "val_fraction", "test_fraction", "seed")
    found = {"pairs": resolve_pairs_uri(args.pairs), "recipe": to_dict(args.recipe)} | {
        one: getattr(args, one) for one in names
    }
    return found | ({"max_sharpness": args.max_sharpness} if args.max_sharpness else {})


def show(evolutions: list[dict]) -> None:
    last = evolutions[-1]
    pairs = last["held_out_pairs"]
    log_progress(f"{'E2 on ' + str(pairs) + ' held-out pairs':28} labels won")
    for name, value in last["held_out_scores"].items():
        count = last["held_out_scored"][name]
        fewer = f"   over {count} pairs only" if count < pairs else ""
        log_progress(f"{name:18} {value:9.4f} {last['wins'].get(name, 0):10}{fewer}")
    for one in evolutions:
        old = one["forgetting"]
        if old:
            log_progress(
                f"evolution {one['evolution']}: loss on the labels before it {old['before']:.4f} -> {old['after']:.4f}"
            )
