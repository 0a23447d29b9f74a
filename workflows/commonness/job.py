"""duskfuse commonness: one AE-Netv2 for several fusion tasks against one for each, as its paper studies.

    duskfuse commonness --out DIR
    duskfuse commonness --tasks scenes:200,multifocus:200,/data/medical --out DIR

Every task is evolved on its own (OUT/tasks/TASK: labels and a network), then one network learns all labels together
(OUT/mixed). All networks fuse the held-out pairs of all tasks: OUT/table.csv has the mean of E2, a row a task, a column
a network. "kept" is what the mixed network keeps of the task's own: what is common to the tasks.
"""

from __future__ import annotations

import math
from typing import Any

from fusion import storage
from fusion.config import to_dict
from fusion.data.finding import PairRef
from fusion.data.synthetic import is_synthetic, resolve_pairs_uri
from fusion.errors import UserError
from fusion.training.evolution import mean_score
from workflows.cluster.connect import connect
from workflows.commonness.options import Args
from workflows.console import log_progress
from workflows.evolve import job as evolve_job
from workflows.evolve import options as evolve_options
from workflows.evolve import train as evolve_train
from workflows.evolve.store import LabelledPair
from workflows.outputs import claim_output, completing
from workflows.provenance import provenance
from workflows.variants.job import read_evolved_pairs, score_pairs


def run(args: Args, command: list[str]) -> None:
    """Evolve every task, train one network for all, score all networks on all tasks."""
    import pandas as pd

    tasks = parse_tasks(args.tasks)
    claim: dict[str, Any] = {name: getattr(args, name) for name in ("methods", "test_fraction", "seed")}
    claim |= {"tasks": {name: resolve_pairs_uri(pairs) for name, pairs in tasks.items()}}
    claim |= {"recipe": to_dict(args.recipe)}
    claim_output(args.out, "settings.json", claim, "study")
    with completing(args.out, "commonness.json") as complete:
        connect()
        labelled: list[LabelledPair] = []
        held_out: dict[str, list[PairRef]] = {}
        networks: dict[str, str] = {}
        for name, pairs in tasks.items():
            folder = storage.join(args.out, "tasks", name)
            options = evolve_options.Args(
                pairs=pairs,
                out=folder,
                recipe=args.recipe,
                methods=args.methods,
                test_fraction=args.test_fraction,
                seed=args.seed,
            )
            evolve_job.run(options, ["commonness", *command])
            evolved = read_evolved_pairs(folder)
            held_out[name] = evolved.held_out
            labelled += evolved.labelled
            networks[name] = storage.join(folder, "checkpoint")
        evolve_train.train(storage.join(args.out, "mixed"), args.recipe, labelled, None, ["commonness", *command])
        networks["mixed"] = storage.join(args.out, "mixed", "checkpoint")
        table = [score_task(task, refs, networks) for task, refs in held_out.items()]
        storage.write_text(storage.join(args.out, "table.csv"), pd.DataFrame(table).to_csv(index=False))
        complete({"provenance": provenance(["commonness", *command]), "tasks": tasks})
    log_progress(f"{'E2 of':16}" + "".join(f"{name[:14]:>15}" for name in networks) + f"{'kept':>8}")
    for row in table:
        log_progress(f"{row['task']:16}" + "".join(f"{row[name]:15.4f}" for name in networks) + f"{row['kept']:8.3f}")
    print(f"{args.out}: {len(tasks)} tasks, each with a network of its own, and one for all")


def score_task(task: str, refs: list[PairRef], networks: dict[str, str]) -> dict[str, Any]:
    """Return a row of table.csv: mean E2 of every network on a task, over the pairs that all have a score on."""
    scores = {name: score_e2(refs, checkpoint) for name, checkpoint in networks.items()}
    keys = [key for key in sorted(scores[task]) if all(math.isfinite(by_key[key]) for by_key in scores.values())]
    row: dict[str, Any] = {"task": task, "pairs": len(keys), "unscored": len(refs) - len(keys)}
    row |= {name: mean_score([by_key[key] for key in keys]) for name, by_key in scores.items()}
    return row | {"kept": row["mixed"] / row[task]}


def parse_tasks(text: str) -> dict[str, str]:
    """Parse --tasks into name -> pairs. UserError: fewer than two, or a name used twice."""
    tasks: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, where = part.partition("=")
        if not equals:
            name, where = (part.partition(":")[0] if is_synthetic(part) else part.rstrip("/").rpartition("/")[2]), part
        if name in (*tasks, "", "mixed", "task", "pairs", "unscored", "kept") or "/" in name or name[0] == ".":
            raise UserError(f"--tasks: the name {name!r} is used twice, empty or reserved. Give NAME=DIR.")
        tasks[name] = where
    if len(tasks) < 2:
        raise UserError("--tasks needs two tasks at least, such as scenes:80,multifocus:80.")
    return tasks


def score_e2(refs: list[PairRef], checkpoint: str) -> dict[str, float]:
    """Return key -> E2 of a network on the held-out pairs of a task that can be read."""
    return {result.key: result.values["e2"] for result in score_pairs(refs, checkpoint)}
