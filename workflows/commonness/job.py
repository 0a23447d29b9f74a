"""duskfuse commonness: one AE-Netv2 for several fusion tasks against one for each, and what of them is common.

    duskfuse commonness --out DIR
    duskfuse commonness --tasks roadscene=DIR,multifocus=DIR,scenes:200 --sequence-pattern '(\\d+)\\d{3}' --out DIR

Every task is evolved on its own (OUT/tasks/TASK: labels, and a network from random weights), one network learns all
labels together (OUT/mixed), and from it one more for each task (OUT/tuned/TASK): the networks that
`fusion.training.commonness` takes apart into a common part C and unique parts U_t. All networks make about as many
steps. All splits are drawn together, so that no scene is on both sides of any task (OUT/splits).

OUT/table.csv     a row a task: mean E2 of every network on its held-out pairs; "kept" is mixed over tuned: what the
                  common network keeps of the task's own; beta and unique: the degradation coefficient, and the share of
                  U_t in what the task's network has learnt
OUT/unique.csv    E2 of theta_0 + beta_t C + a U_t on task t: a = 0 is the common part alone, 1 the tuned network
OUT/transfer.csv  E2 of theta_0 + beta_t C + U_t + a U_s on tasks t and s
OUT/similarity.csv  the cosine of every two unique parts
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fusion import checkpoint, storage
from fusion.config import to_dict
from fusion.data.finding import PairRef
from fusion.data.synthetic import resolve_pairs_uri
from fusion.errors import UserError
from fusion.models.configs import AENetConfig
from fusion.training.commonness import Parts, Weights, decompose
from fusion.training.engine import Engine
from fusion.training.evolution import mean_score
from fusion.training.recipes import Recipe
from workflows.cluster.connect import connect
from workflows.commonness.options import Args
from workflows.commonness.score import Key, score_weights
from workflows.commonness.tasks import (
    Task,
    crops_per_pair,
    find_tasks,
    mixed_recipe,
    split_tasks,
    splits_file,
    task_recipe,
    tuned_recipe,
)
from workflows.console import log_progress
from workflows.evolve import job as evolve_job
from workflows.evolve import options as evolve_options
from workflows.evolve import train as evolve_train
from workflows.evolve.store import mix_tasks
from workflows.outputs import claim_output, completing
from workflows.provenance import provenance
from workflows.variants.job import read_evolved_pairs
from workflows.variants.score import score_pairs


def run(args: Args, command: list[str]) -> None:
    """Evolve every task, train one network for all and one from it for each, take them apart, and score them."""
    import pandas as pd

    amounts = parse_amounts(args.amounts)
    if args.max_scored < 0:
        raise UserError(f"--max-scored {args.max_scored}: give 0 for all held-out pairs, or a number of them.")
    if args.recipe.model_name != "aenet":
        raise UserError(f"the study is of AE-Netv2; the recipe {args.recipe.name} is of {args.recipe.model_name}.")
    tasks = find_tasks(args)
    claim_output(args.out, "settings.json", settings(args, tasks), "study")
    with completing(args.out, "commonness.json") as complete:
        connect()
        splits = split_tasks(tasks, args)
        networks, held_out = train_networks(args, tasks, splits, ["commonness", *command])
        parts = take_apart(args.recipe, networks, list(held_out))
        table = [score_task(name, refs, networks, parts) for name, refs in held_out.items()]
        log_progress("scoring sums of unique parts")
        unique, transfer = score_sums(
            parts, args, {name: shorten(refs, args) for name, refs in held_out.items()}, amounts
        )
        files = {"table": [*table, mean_row(table)], "unique": unique, "transfer": transfer}
        files["similarity"] = [
            {"task": task, **{other: parts.similarity(task, other) for other in parts.unique}} for task in parts.unique
        ]
        for name, rows in files.items():
            storage.write_text(storage.join(args.out, f"{name}.csv"), pd.DataFrame(rows).to_csv(index=False))
        complete(
            {
                "provenance": provenance(["commonness", *command]),
                "tasks": {task.name: {"pairs": task.uri, "methods": task.methods} for task in tasks},
            }
        )
    print_tables(files["table"], unique, transfer)
    print(f"{args.out}: {len(tasks)} tasks, each with networks of its own, and one for all")


def parse_amounts(text: str) -> list[float]:
    """Parse --amounts, numbers in 0..1. UserError: another one, or none."""
    try:
        amounts = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        amounts = []
    if not amounts or not all(0 <= a <= 1 for a in amounts):
        raise UserError(f"--amounts {text!r}: give numbers of 0 to 1, such as 0.5,1.")
    return amounts


def settings(args: Args, tasks: list[Task]) -> dict[str, Any]:
    """Return what the networks of a folder are of; the tables can be made again over other a."""
    names = ("sequences", "sequence_pattern", "val_fraction", "test_fraction", "seed")
    content: dict[str, Any] = {name: getattr(args, name) for name in names}
    content |= {"tasks": {task.name: resolve_pairs_uri(task.uri) for task in tasks}, "recipe": to_dict(args.recipe)}
    return content | {"methods": {task.name: task.methods for task in tasks}}


def train_networks(
    args: Args, tasks: list[Task], splits: Mapping[str, list[PairRef]], command: list[str]
) -> tuple[dict[str, str], dict[str, list[PairRef]]]:
    """Train all networks. Returns name -> checkpoint, and task -> held-out pairs.

    The networks are one a task, called as it, "mixed", and "tuned/TASK".
    """
    crops = crops_per_pair(splits, args.recipe)
    recipes = {task.name: task_recipe(args.recipe, crops[task.name]) for task in tasks}
    networks, held_out, labelled = {}, {}, {}
    for task in tasks:
        folder = storage.join(args.out, "tasks", task.name)
        options = evolve_options.Args(
            pairs=task.uri,
            out=folder,
            recipe=recipes[task.name],
            methods=task.methods,
            splits=splits_file(args.out, task.name),
            seed=args.seed,
            max_rejected_fraction=args.max_rejected_fraction,
        )
        log_progress(f"task {task.name}, labelled by {task.methods}")
        evolve_job.run(options, command)
        evolved = read_evolved_pairs(folder)
        held_out[task.name], labelled[task.name] = evolved.held_out, evolved.labelled
        networks[task.name] = storage.join(folder, "checkpoint")
    mixed = storage.join(args.out, "mixed")
    evolve_train.train(mixed, mixed_recipe(args.recipe, len(tasks)), mix_tasks(labelled), None, command)
    networks["mixed"] = storage.join(mixed, "checkpoint")
    for task in tasks:
        name = f"tuned/{task.name}"
        folder = storage.join(args.out, name)
        recipe = tuned_recipe(recipes[task.name])
        evolve_train.train(folder, recipe, labelled[task.name], networks["mixed"], command)
        networks[name] = storage.join(folder, "checkpoint")
    return networks, held_out


def take_apart(recipe: Recipe, networks: Mapping[str, str], tasks: list[str]) -> Parts:
    """Return the parts of the tuned networks, and of the mixed one; the start is that of the recipe's seed."""

    def load(name: str) -> nn.Module:
        return checkpoint.load(checkpoint.fetch(networks[name]), expect="aenet").model

    start = Engine(recipe, batches_per_epoch=1, device=torch.device("cpu")).model
    return decompose(start, load("mixed"), {task: load(f"tuned/{task}") for task in tasks})


def shorten(refs: list[PairRef], args: Args) -> list[PairRef]:
    """Return the held-out pairs for the tables over a: --max-scored of them, spread evenly."""
    most = args.max_scored or len(refs)
    return refs[:: max(1, math.ceil(len(refs) / most))]


def score_task(task: str, refs: list[PairRef], networks: Mapping[str, str], parts: Parts) -> dict[str, Any]:
    """Return a row of table.csv: mean E2 of the networks on a task, over the pairs that all have a score on."""
    chosen = {name: path for name, path in networks.items() if "/" not in name} | {"tuned": networks[f"tuned/{task}"]}
    scores = {name: score_e2(refs, path) for name, path in chosen.items()}
    keys = [key for key in sorted(scores[task]) if all(math.isfinite(by_key[key]) for by_key in scores.values())]
    row: dict[str, Any] = {"task": task, "pairs": len(keys), "unscored": len(refs) - len(keys)}
    row |= {name: mean_score([by_key[key] for key in keys]) for name, by_key in scores.items()}
    return row | {"kept": row["mixed"] / row["tuned"], "beta": parts.beta[task], "unique": parts.unique_share(task)}


def mean_row(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the last row of table.csv: sums of the counts, and means over the tasks of all else."""
    counts = {name: sum(row[name] for row in table) for name in ("pairs", "unscored")}
    return {
        name: "mean" if name == "task" else counts[name] if name in counts else mean_score([row[name] for row in table])
        for name in table[0]
    }


def score_e2(refs: list[PairRef], path: str) -> dict[str, float]:
    """Return key -> E2 of a network on the held-out pairs of a task that can be read."""
    return {result.key: result.values["e2"] for result in score_pairs(refs, path)}


def score_sums(
    parts: Parts, args: Args, held_out: Mapping[str, list[PairRef]], amounts: list[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of unique.csv and of transfer.csv."""
    tasks = list(parts.unique)
    others = {t: [s for s in tasks if s != t] for t in tasks}
    wanted: dict[Key, tuple[Weights, tuple[str, ...]]]
    wanted = {Key(t, "", a): (parts.unique_and_common(t, a), (t,)) for t in tasks for a in (0.0, *amounts) if a != 1}
    wanted |= {Key(t, "", 1.0): (parts.unique_and_common(t, 1.0), tuple(tasks)) for t in tasks}
    added = [a for a in amounts if a]
    wanted |= {Key(t, s, a): (parts.transfer(t, s, a), (t, s)) for t in tasks for s in others[t] for a in added}
    assert isinstance(args.recipe.model, AENetConfig)
    means = score_weights(args.recipe.model, wanted, held_out)
    unique = [{"task": key.task, "a": key.a, "e2": means[key][key.task]} for key in sorted(wanted) if not key.other]
    transfer = []
    for t in tasks:
        for s in others[t]:
            for key, a in ((Key(t, "", 1.0), 0.0), *((Key(t, s, a), a) for a in added)):
                transfer.append({"task": t, "from": s, "a": a, "e2": means[key][t], "e2_from": means[key][s]})
    return unique, transfer


def print_tables(table: list[dict[str, Any]], unique: list[dict[str, Any]], transfer: list[dict[str, Any]]) -> None:
    """Print the table of networks, and the verdict."""
    names = [name for name in table[0] if name not in ("task", "pairs", "unscored")]
    log_progress(f"{'E2 of':16}" + "".join(f"{name[:11]:>12}" for name in names))
    for row in table:
        log_progress(f"{row['task'][:15]:16}" + "".join(f"{row[name]:12.4f}" for name in names))
    for line in verdict(table, unique, transfer):
        log_progress(line)


def verdict(table: list[dict[str, Any]], unique: list[dict[str, Any]], transfer: list[dict[str, Any]]) -> list[str]:
    """Return what the tables say, in three lines."""
    rows = table[:-1]
    least = min(rows, key=lambda row: row["kept"])
    most = max(rows, key=lambda row: row["kept"])
    best = {row["task"]: max((u for u in unique if u["task"] == row["task"]), key=lambda u: u["e2"]) for row in rows}
    own = {(row["task"], row["from"]): row for row in transfer if row["a"] == 0}
    full = [row for row in transfer if row["a"] == max(r["a"] for r in transfer)]
    helped = sum(row["e2"] > own[row["task"], row["from"]]["e2"] for row in full)
    brought = sum(row["e2_from"] > own[row["task"], row["from"]]["e2_from"] for row in full)
    return [
        f"common: the mixed network keeps {least['kept']:.3f} ({least['task']}) to {most['kept']:.3f} ({most['task']}) "
        "of the E2 of the tasks' own",
        "unique: E2 is best at a = " + ", ".join(f"{b['a']:g} ({name})" for name, b in best.items()),
        f"transfer, a = {full[0]['a']:g}: of {len(full)} pairs of tasks the task gains in {helped}, "
        f"the other task in {brought}",
    ]
