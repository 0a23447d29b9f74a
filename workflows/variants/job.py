"""duskfuse variants: the network-architecture study of AE-Netv2 (its Table VII) on the labels of an evolution.

    duskfuse variants --evolution EVOLVED --out DIR                          200 steps, two seeds
    duskfuse variants --evolution EVOLVED --out DIR --steps 0 --num-seeds 1  the full recipe
    duskfuse variants --evolution A --evolution B --out DIR                  several tasks, as in the paper
    duskfuse variants --costs --out DIR                                      its Table VI alone, of every network

Every block is trained alike; the held-out pairs are fused and scored by the paper's columns. Of several tasks, every
network learns all, each as often as the others, and a column is the mean over the tasks of the means over their
held-out pairs; "e2_of_TASK" is that of one. OUT/table.csv has means and deviations over the seeds, OUT/runs.csv every
run, OUT/costs.csv parameters and multiply-adds, OUT/bubbles.svg quality over time; finished runs are kept.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fusion import checkpoint, storage
from fusion.data.finding import PairRef
from fusion.data.pairs import find_pairs
from fusion.data.splits import FILE, read_frozen_splits
from fusion.errors import UserError
from fusion.models.aenet import BLOCKS
from fusion.models.configs import AENetConfig
from fusion.models.costs import NetworkCost, count_costs
from fusion.report.variants import bubbles
from fusion.training.recipes import Recipe, aenet
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.evolve import train as evolve_train
from workflows.evolve.store import LabelledPair, count_evolutions, labelled_pairs, mix_tasks, read_labels
from workflows.outputs import claim_output, completing
from workflows.provenance import provenance
from workflows.variants.costs import ALL_NETWORKS, block_costs, write_costs
from workflows.variants.options import Args
from workflows.variants.score import METRICS, mean_metrics

if TYPE_CHECKING:
    import pandas as pd

TIMED_SIZE = (400, 400)
NUM_TURNS = 12
OF_TASK = "e2_of_"  # begins the columns of E2 on one of several tasks
ADAM_BYTES = 12  # of a parameter in a checkpoint with both moments: what the paper calls size


@dataclass(frozen=True)
class EvolvedPairs:
    """What a finished evolution gives to studies.

    Args:
        number: Of the evolution.
        labelled: The pairs with labels, for training and validation.
        held_out: The pairs to score.
    """

    number: int
    labelled: list[LabelledPair]
    held_out: list[PairRef]


@dataclass(frozen=True)
class BlockCost:
    """What a block costs: time at 400 x 400, parameters, size of a checkpoint with optimiser, and of its weights."""

    block: str
    ms: float
    parameters: int
    size_mb: float
    weights_kb: float


def run(args: Args, command: list[str]) -> None:
    """Train and score every block, and write the tables."""
    import pandas as pd

    named = (name.strip() for name in args.blocks.split(","))
    blocks = tuple(dict.fromkeys(filter(None, named))) or tuple(BLOCKS)
    unknown = [name for name in blocks if name not in BLOCKS]
    if unknown:
        raise UserError(f"unknown block {unknown[0]!r}. Known: {', '.join(BLOCKS)}.")
    if args.num_seeds < 1 or args.steps < 0:
        raise UserError("--num-seeds must be at least 1, and --steps at least 0 (0: the full recipe).")
    if args.costs:
        count_only(args, command)
        return
    pairs = read_tasks(args.evolution)
    found = [
        {"evolution": storage.absolute(path), "number": p.number}
        for path, p in zip(args.evolution, pairs.values(), strict=True)
    ]
    claim: dict[str, Any] = found[0] if len(found) == 1 else {"evolutions": found}
    claim |= {name: getattr(args, name) for name in ("steps", "batch_size", "patch")}
    claim_output(args.out, "settings.json", claim, "study")
    with completing(args.out, "variants.json") as complete:
        connect()
        runs = []
        for block in blocks:
            for seed in range(args.num_seeds):
                runs.append(train_and_score(args, block, seed, pairs, ["variants", *command]))
                log_progress(
                    "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in runs[-1].items())
                )
        frame = pd.DataFrame(runs)
        log_progress("timing the networks, in turns")
        networks = {block: network(args.out, block, 0) for block in blocks}
        counts = block_costs(blocks)
        table = summarise(frame, list(in_parallel([networks], measure_costs)), counts)
        write_costs(args.out, list(counts.values()))
        storage.write_text(storage.join(args.out, "runs.csv"), frame.to_csv(index=False))
        storage.write_text(storage.join(args.out, "table.csv"), table.to_csv(index=False))
        storage.write_bytes(storage.join(args.out, "bubbles.svg"), bubbles(table))
        complete(
            {
                "provenance": provenance(["variants", *command]),
                "pairs": sum(len(task.held_out) for task in pairs.values()),
                "tasks": list(pairs),
                "blocks": list(blocks),
                "seeds": args.num_seeds,
            }
        )
    print_table(table, sum(len(task.held_out) for task in pairs.values()), len(pairs))
    print(f"{args.out}: {len(blocks)} blocks, {args.num_seeds} seeds each")


def count_only(args: Args, command: list[str]) -> None:
    """Count what every network costs. UserError for options of trainings."""
    if args.evolution or args.blocks:
        raise UserError("--costs counts every network and trains none; leave out --evolution and --blocks.")
    claim_output(args.out, "settings.json", {"costs": True}, "study")
    with completing(args.out, "variants.json") as complete:
        write_costs(args.out, count_costs(ALL_NETWORKS))
        complete({"provenance": provenance(["variants", *command]), "networks": list(ALL_NETWORKS)})
    print(f"{args.out}: {len(ALL_NETWORKS)} networks")


def read_tasks(evolutions: Sequence[str]) -> dict[str, EvolvedPairs]:
    """Return task -> its pairs; a task is called as its folder. UserError: none given, or two of one name."""
    if not evolutions:
        raise UserError("give --evolution, the --out folder of `duskfuse evolve` (or --costs, to count alone).")
    tasks: dict[str, EvolvedPairs] = {}
    for path in evolutions:
        name = path.rstrip("/").rpartition("/")[2]
        if name in tasks:
            raise UserError(f"--evolution {path}: two are called {name!r}. Give each task a folder of its own name.")
        tasks[name] = read_evolved_pairs(path)
    return tasks


def read_evolved_pairs(out: str) -> EvolvedPairs:
    """Read the pairs and labels of the latest evolution. UserError: none is finished, or no pair is held out."""
    number = count_evolutions(out)
    if not number:
        raise UserError(f"{out} holds no finished evolution. Give the --out folder of `duskfuse evolve`.")
    settings = json.loads(storage.read_bytes(storage.join(out, "settings.json")))
    refs, _ = read_frozen_splits(find_pairs(settings["pairs"]).refs, storage.join(out, FILE))
    held_out = [ref for ref in refs if ref.split == "test"]
    if not held_out:
        raise UserError(f"{out} has no held-out pair to score. Evolve with a --test-fraction.")
    return EvolvedPairs(number, labelled_pairs(out, refs, read_labels(out, number)), held_out)


def recipe_for(args: Args, block: str, seed: int, num_pairs: int) -> Recipe:
    """Return the recipe of a run: that of AE-Netv2 with another block, as many epochs as the steps need."""
    full = aenet()
    recipe = replace(
        full,
        name=f"aenet-{block}",
        model=AENetConfig(block=block),
        crops=replace(full.crops, size=args.patch),
        batch_size=args.batch_size,
        seed=seed,
    )
    if not args.steps:
        return recipe
    epochs = max(1, math.ceil(args.steps / max(1, num_pairs // args.batch_size)))
    return replace(recipe, epochs=epochs, optim=replace(full.optim, milestones=(max(1, epochs // 2),)))


def network(out: str, block: str, seed: int) -> str:
    """Return where the trained network of a run is."""
    return storage.absolute(storage.join(out, "runs", f"{block}-{seed}", "training", "checkpoint"))


def train_and_score(
    args: Args, block: str, seed: int, tasks: Mapping[str, EvolvedPairs], command: list[str]
) -> dict[str, Any]:
    """Train and score a variant, unless it is done. Returns its row of runs.csv."""
    folder = storage.join(args.out, "runs", f"{block}-{seed}")
    path = storage.join(folder, "scores.json")
    if storage.exists(path):
        done = json.loads(storage.read_bytes(path)).items()
        return {k: v for k, v in done if k in ("block", "seed", *METRICS) or k.startswith(OF_TASK)}
    labelled = mix_tasks({name: task.labelled for name, task in tasks.items()})
    num_pairs = sum(pair.ref.split == "train" for pair in labelled)
    evolve_train.train(
        storage.join(folder, "training"), recipe_for(args, block, seed, num_pairs), labelled, None, command
    )
    trained = network(args.out, block, seed)
    means = {
        name: mean_metrics(f"{block}, seed {seed}, {name}", task.held_out, trained) for name, task in tasks.items()
    }
    row = {"block": block, "seed": seed}
    row |= {metric: sum(task[metric] for task in means.values()) / len(means) for metric in METRICS}
    if len(tasks) > 1:
        row |= {f"{OF_TASK}{name}": task["e2"] for name, task in means.items()}
    storage.write_text(path, json.dumps(row) + "\n")
    return row


def measure_costs(checkpoints: dict[str, str]) -> list[BlockCost]:
    """Measure every network, block -> checkpoint, in a Ray task: plain PyTorch on one thread.

    Processor time, in turns, and of each the least: a busy machine only ever adds.
    """
    torch.set_num_threads(1)
    models = {block: checkpoint.load(checkpoint.fetch(path)).model for block, path in checkpoints.items()}
    first, second = torch.rand(2, 1, 1, *TIMED_SIZE)
    least = dict.fromkeys(models, math.inf)
    with torch.inference_mode():
        for _ in range(NUM_TURNS):
            for block, model in models.items():
                start = time.thread_time()
                model(first, second)
                least[block] = min(least[block], time.thread_time() - start)
    counts = {block: sum(p.numel() for p in model.parameters()) for block, model in models.items()}
    return [
        BlockCost(block, least[block] * 1e3, count, count * ADAM_BYTES / 1e6, count * 4 / 1e3)
        for block, count in counts.items()
    ]


def summarise(runs: pd.DataFrame, costs: Sequence[BlockCost], counts: Mapping[str, NetworkCost]) -> pd.DataFrame:
    """Return a row a block: means over the seeds, the deviation of the index, what it costs.

    parameters_x_pixels is what the paper calls FLOPs, multiply_adds are those that are made; both at 400 x 400.
    """
    import pandas as pd

    cost = {row.block: asdict(row) for row in costs}
    rows = []
    for block, part in runs.groupby("block", sort=False):
        columns = [*METRICS, *(name for name in runs.columns if name.startswith(OF_TASK))]
        row = {"block": block, "seeds": len(part)} | {name: part[name].mean() for name in columns}
        row["e2_sd"] = part["e2"].std(ddof=1) if len(part) > 1 else math.nan
        count = counts[str(block)]
        row |= {"parameters_x_pixels": count.parameters_x_pixels, "multiply_adds": count.multiply_adds}
        rows.append(row | cost[block])
    return pd.DataFrame(rows)


def print_table(table: pd.DataFrame, num_pairs: int, num_tasks: int) -> None:
    """Print a line a block."""
    heads = ("E2", "sd", "NIQE", "SSIM", "EN", "PSNR", "Brenner", "VIFF", "ms", "MB")
    names = ("e2", "e2_sd", "niqe", "ssim", "en", "psnr", "brenner", "viff", "ms", "size_mb")
    log_progress(f"{'block':14}" + "".join(f"{head:>9}" for head in heads))
    for row in table.to_dict("records"):
        log_progress(f"{row['block']:14}" + "".join(f"{row[name]:9.4g}" for name in names))
    of_tasks = f" of {num_tasks} tasks" if num_tasks > 1 else ""
    log_progress(
        f"means over {num_pairs} held-out pairs{of_tasks}; Brenner dominates E2, which rewards sharpness, and noise, "
        "above all else"
    )
