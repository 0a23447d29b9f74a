"""duskfuse commonness: one AE-Netv2 for several fusion tasks against one for each, as its paper studies.

    duskfuse commonness --out DIR
    duskfuse commonness --tasks scenes:200,multifocus:200,/data/medical --out DIR

Every task is evolved on its own (OUT/tasks/TASK: labels and a network), then one network learns all labels together
(OUT/mixed). All networks fuse the held-out pairs of all tasks: OUT/table.csv has the mean of E2, a row a task, a column
a network. "kept" is what the mixed network keeps of the task's own: what is common to the tasks.
"""

from __future__ import annotations

import json
import math

from fusion import storage
from fusion.config import to_dict
from fusion.data.synthetic import is_synthetic, resolve_pairs_uri
from fusion.errors import UserError
from fusion.training.evolution import mean_score
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.commonness.options import Args
from workflows.console import log_progress
from workflows.evolve import job as evolve_job
from workflows.evolve import options as evolve_options
from workflows.evolve import train as evolve_train
from workflows.outputs import claim_output
from workflows.provenance import provenance
from workflows.variants.job import labelled, score_network


def run(args: Args, command: list[str]) -> None:
    import pandas as pd

    tasks = named_tasks(args.tasks)
    kept = {name: getattr(args, name) for name in ("methods", "test_fraction", "seed")}
    kept |= {"tasks": {name: resolve_pairs_uri(where) for name, where in tasks.items()}, "recipe": to_dict(args.recipe)}
    claim_output(args.out, "settings.json", kept, "study")
    storage.remove(storage.join(args.out, "commonness.json"))  # from here to the end the study is not complete
    connect()
    rows, held_out, networks = [], {}, {}
    for name, pairs in tasks.items():
        folder = storage.join(args.out, "tasks", name)
        given = {"recipe": args.recipe, "methods": args.methods, "test_fraction": args.test_fraction, "seed": args.seed}
        evolve_job.run(evolve_options.Args(pairs=pairs, out=folder, **given), ["commonness", *command])
        mine, held_out[name], _ = labelled(folder)
        rows += mine
        networks[name] = storage.join(folder, "checkpoint")
    evolve_train.train(storage.join(args.out, "mixed"), args.recipe, rows, None, ["commonness", *command])
    networks["mixed"] = storage.join(args.out, "mixed", "checkpoint")
    table = []
    for task, refs in held_out.items():
        values = {network: e2_of(refs, where) for network, where in networks.items()}
        scored = [key for key in sorted(values[task]) if all(math.isfinite(found[key]) for found in values.values())]
        row = {"task": task, "pairs": len(scored), "unscored": len(refs) - len(scored)}
        row |= {network: mean_score([found[key] for key in scored]) for network, found in values.items()}
        table.append(row | {"kept": row["mixed"] / row[task]})
    frame = pd.DataFrame(table)
    storage.write_text(storage.join(args.out, "table.csv"), frame.to_csv(index=False))
    about = {"provenance": provenance(["commonness", *command]), "tasks": tasks}
    storage.write_text(storage.join(args.out, "commonness.json"), json.dumps(about, indent=1) + "\n")
    log_progress(f"{'E2 of':16}" + "".join(f"{name[:14]:>15}" for name in networks) + f"{'kept':>8}")
    for row in table:
        log_progress(f"{row['task']:16}" + "".join(f"{row[name]:15.4f}" for name in networks) + f"{row['kept']:8.3f}")
    print(f"{args.out}: {len(tasks)} tasks, each with a network of its own, and one for all")


def named_tasks(text: str) -> dict[str, str]:
    """name -> pairs. UserError: fewer than two, or a name used twice."""

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


def e2_of(refs: list[dict], checkpoint: str) -> dict[str, float]:
    """key -> E2 of a network on the held-out pairs of a task that can be read."""

    where = storage.absolute(checkpoint)
    units = [{"checkpoint": where, "refs": refs[i : i + 8]} for i in range(0, len(refs), 8)]
    return {row["key"]: row["values"]["e2"] for row in in_parallel(units, score_network)}
