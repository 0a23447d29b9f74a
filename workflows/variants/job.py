"""duskfuse variants: the network-architecture study of AE-Netv2 (its Table VII) on the labels of an evolution.

    duskfuse variants --evolution EVOLVED --out DIR                          200 steps, two seeds
    duskfuse variants --evolution EVOLVED --out DIR --steps 0 --num-seeds 1      the full recipe

Every block is trained alike; the held-out pairs are fused and scored by the paper's columns. OUT/table.csv has means
and deviations over the seeds, OUT/runs.csv every run, OUT/bubbles.svg quality over time; finished runs are kept.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace

import torch

from fusion import checkpoint, inference, storage
from fusion.data.pairs import find_pairs
from fusion.data.splits import FILE, read_frozen_splits
from fusion.errors import UserError
from fusion.images.colour import to_grey
from fusion.metrics import score
from fusion.models.aenet import BLOCKS
from fusion.models.configs import AENetConfig
from fusion.report.variants import bubbles
from fusion.training.recipes import aenet
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.evolve import train as evolve_train
from workflows.evolve.store import image_path, latest, read_labels
from workflows.inputs import items
from workflows.outputs import claim_output
from workflows.provenance import provenance
from workflows.variants.options import Args

METRICS = ("e2", "niqe", "ssim", "en", "psnr", "brenner", "viff")
TIMED = (400, 400)
TURNS = 12
ADAM_BYTES = 12  # of a parameter in a checkpoint with both moments: what the paper calls size


def run(args: Args, command: list[str]) -> None:
    import pandas as pd

    named = (name.strip() for name in args.blocks.split(","))
    blocks = tuple(dict.fromkeys(filter(None, named))) or tuple(BLOCKS)
    unknown = [name for name in blocks if name not in BLOCKS]
    if unknown:
        raise UserError(f"unknown block {unknown[0]!r}. Known: {', '.join(BLOCKS)}.")
    if args.num_seeds < 1 or args.steps < 0:
        raise UserError("--num-seeds must be at least 1, and --steps at least 0 (0: the full recipe).")
    rows, test, number = labelled(args.evolution)
    content = {"evolution": storage.absolute(args.evolution), "number": number}
    claim_output(
        args.out, "settings.json", content | {k: getattr(args, k) for k in ("steps", "batch_size", "patch")}, "study"
    )
    storage.remove(storage.join(args.out, "variants.json"))  # from here to the end the folder is not complete
    connect()
    runs = []
    for block in blocks:
        for seed in range(args.num_seeds):
            runs.append(one(args, block, seed, rows, test, ["variants", *command]))
            log_progress("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in runs[-1].items()))
    frame = pd.DataFrame(runs)
    log_progress("timing the networks, in turns")
    table = summarise(
        frame, list(in_parallel([{"checkpoints": {b: network(args.out, b, 0) for b in blocks}}], measure))
    )
    storage.write_text(storage.join(args.out, "runs.csv"), frame.to_csv(index=False))
    storage.write_text(storage.join(args.out, "table.csv"), table.to_csv(index=False))
    storage.write_bytes(storage.join(args.out, "bubbles.svg"), bubbles(table))
    about = {
        "provenance": provenance(["variants", *command]),
        "pairs": len(test),
        "blocks": list(blocks),
        "seeds": args.num_seeds,
    }
    storage.write_text(storage.join(args.out, "variants.json"), json.dumps(about, indent=1) + "\n")
    show(table, len(test))
    print(f"{args.out}: {len(blocks)} blocks, {args.num_seeds} seeds each")


def labelled(where: str) -> tuple[list[dict], list[dict], int]:
    """(labelled pairs for training, held-out pairs, number of the evolution) of a finished evolution."""

    number, _ = latest(where)
    if not number:
        raise UserError(f"{where} holds no finished evolution. Give the --out folder of `duskfuse evolve`.")
    settings = json.loads(storage.read_bytes(storage.join(where, "settings.json")))
    refs, _ = read_frozen_splits(find_pairs(settings["pairs"]).refs, storage.join(where, FILE))
    labels = read_labels(where, number)
    rows = [
        {"ref": asdict(ref), "label": storage.absolute(image_path(where, labels[ref.key].method, ref.key))}
        for ref in refs
        if ref.key in labels
    ]
    test = [asdict(ref) for ref in refs if ref.split == "test"]
    if not test:
        raise UserError(f"{where} has no held-out pair to score. Evolve with a --test-fraction.")
    return rows, test, number


def recipe_of(args: Args, block: str, seed: int, pairs: int):

    full = aenet()
    made = replace(
        full,
        name=f"aenet-{block}",
        model=AENetConfig(block=block),
        crops=replace(full.crops, size=args.patch),
        batch_size=args.batch_size,
        seed=seed,
    )
    if not args.steps:
        return made
    epochs = max(1, math.ceil(args.steps / max(1, pairs // args.batch_size)))
    return replace(made, epochs=epochs, optim=replace(full.optim, milestones=(max(1, epochs // 2),)))


def network(out: str, block: str, seed: int) -> str:
    """Where the trained network of a run is."""

    return storage.absolute(storage.join(out, "runs", f"{block}-{seed}", "training", "checkpoint"))


def one(args: Args, block: str, seed: int, rows: list[dict], test: list[dict], command: list[str]) -> dict:
    """Train and score a variant, unless it is there."""

    folder = storage.join(args.out, "runs", f"{block}-{seed}")
    path = storage.join(folder, "scores.json")
    if storage.exists(path):
        there = json.loads(storage.read_bytes(path))
        return {name: there[name] for name in ("block", "seed", *METRICS)}
    pairs = sum(row["ref"]["split"] == "train" for row in rows)
    training = storage.join(folder, "training")
    evolve_train.train(training, recipe_of(args, block, seed, pairs), rows, None, command)
    where = network(args.out, block, seed)
    scored = 0
    sums: dict[str, list[float]] = {name: [] for name in METRICS}
    units = [{"checkpoint": where, "refs": test[i : i + 8]} for i in range(0, len(test), 8)]
    for row in in_parallel(units, score_network):
        scored += 1
        for name, value in row["values"].items():
            sums[name] += [value] if math.isfinite(value) else []
    for name, values in sums.items():
        if len(values) < len(test):
            unread = f", {len(test) - scored} cannot be read" if scored < len(test) else ""
            log_progress(
                f"{block}, seed {seed}: {name} is the mean of {len(values)} of {len(test)} held-out pairs{unread}"
            )
    means = {name: sum(values) / len(values) if values else math.nan for name, values in sums.items()}
    result = {"block": block, "seed": seed, **means}
    storage.write_text(path, json.dumps(result) + "\n")
    return result


def score_network(row: dict) -> list[dict]:
    """The metrics of a network on a few pairs, in a Ray task."""

    torch.set_num_threads(1)
    model = checkpoint.load(checkpoint.fetch(row["checkpoint"])).model
    results = []
    for item in items({"refs": row["refs"]}):
        if isinstance(item, tuple):
            continue
        fused = inference.fuse(model, to_grey(item.visible), item.infrared)
        images = (fused[..., None], item.visible, item.infrared[..., None])
        tensors = (torch.tensor(image).permute(2, 0, 1)[None] for image in images)
        found = score(*tensors, names=METRICS)
        values = {name: float(value[0]) for name, value in found.items()}
        values["brenner"] /= item.infrared.size  # per pixel, as pairs have different sizes
        results.append({"key": item.key, "values": values})
    return results


def measure(row: dict) -> list[dict]:
    """Parameters, size and plain PyTorch time at 400 x 400 on one thread of every network: block -> checkpoint.

    Processor time, in turns, and of each the least: a busy machine only ever adds.
    """

    torch.set_num_threads(1)
    models = {block: checkpoint.load(checkpoint.fetch(where)).model for block, where in row["checkpoints"].items()}
    first, second = torch.rand(2, 1, 1, *TIMED)
    least = dict.fromkeys(models, math.inf)
    with torch.inference_mode():
        for _ in range(TURNS):
            for block, model in models.items():
                start = time.thread_time()
                model(first, second)
                least[block] = min(least[block], time.thread_time() - start)
    counts = {block: sum(p.numel() for p in model.parameters()) for block, model in models.items()}
    return [
        {"block": block, "ms": least[block] * 1e3, "parameters": count}
        | {"size_mb": count * ADAM_BYTES / 1e6, "weights_kb": count * 4 / 1e3}
        for block, count in counts.items()
    ]


def summarise(frame, costs: list[dict]):
    """A row a block: means over the seeds, the deviation of the index, what it costs."""
    import pandas as pd

    cost = {row["block"]: row for row in costs}
    rows = []
    for block, part in frame.groupby("block", sort=False):
        row = {"block": block, "seeds": len(part)} | {name: part[name].mean() for name in METRICS}
        row["e2_sd"] = part["e2"].std(ddof=1) if len(part) > 1 else math.nan
        rows.append(row | cost[block])
    return pd.DataFrame(rows)


def show(table, pairs: int) -> None:
    heads = ("E2", "sd", "NIQE", "SSIM", "EN", "PSNR", "Brenner", "VIFF", "ms", "MB")
    names = ("e2", "e2_sd", "niqe", "ssim", "en", "psnr", "brenner", "viff", "ms", "size_mb")
    log_progress(f"{'block':14}" + "".join(f"{head:>9}" for head in heads))
    for row in table.to_dict("records"):
        log_progress(f"{row['block']:14}" + "".join(f"{row[name]:9.4g}" for name in names))
    log_progress(
        f"means over {pairs} held-out pairs; Brenner dominates E2, which rewards sharpness, and noise, above all else"
    )
