"""duskfuse tune RECIPE: a search over fields of a recipe, with Ray Tune; every trial is a run of `duskfuse train`.

    duskfuse tune moefusion-tiny --corpus DIR --preset experts --num-seeds 2 --out DIR   the grid of the paper's Fig. 7
    duskfuse tune moefusion --corpus DIR --preset nka --num-samples 40 --out DIR         N, K, alpha and balance
    duskfuse tune tgecnet-fuse --from RUN1 --corpus DIR --out DIR \\
        --space model.experts=2..16 --space model.top-k=1..model.experts --space loss.gradient=1..40:log

All trials read one finished corpus. The same command resumes a killed search and keeps finished trials; more
--num-samples or --num-seeds add trials. OUT/trials/NAME are the runs, OUT/trials.csv and summary.csv the tables,
OUT/figures the figures, OUT/best.json the best recipe, which `duskfuse train` takes; OUT/tune.json is written last.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from fusion import storage
from fusion.config import to_dict
from fusion.data.corpus import open_corpus
from fusion.errors import UserError
from workflows.cluster.connect import connect
from workflows.console import log_progress
from workflows.outputs import Lease, claim_output
from workflows.train.job import with_first_stage
from workflows.tune.options import Args
from workflows.tune.plan import check_search, parse_objectives, plan_search, with_objective_metrics
from workflows.tune.records import ended_trials
from workflows.tune.resources import CPU_OVERSUBSCRIPTION, plan_resources
from workflows.tune.results import write_results
from workflows.tune.search import run_search


def run(args: Args, command: list[str]) -> None:
    """Search, or resume a search, and write its tables, figures and recipes."""
    objectives = parse_objectives(args)
    args = replace(args, recipe=with_objective_metrics(args.recipe, objectives))
    plan = plan_search(args)
    check_search(args, plan)
    manifest = open_corpus(args.corpus)
    if list(objectives) != ["loss"] and not (manifest.rows("val") and args.recipe.validation.rows):
        raise UserError(
            f"{args.corpus} has no rows to validate on, which --objective {args.objective} needs. Build a corpus with "
            "--val-fraction, and leave recipe.validation.rows above 0."
        )
    settings: dict[str, Any] = {
        "recipe": to_dict(args.recipe),
        "corpus": manifest.content,
        "space": plan.about,
        "search": plan.search,
    }
    settings |= {"objective": list(objectives), "seed": args.seed}
    settings["init_checkpoint"] = None
    if args.start is not None:
        recipe, settings["init_checkpoint"] = with_first_stage(args.recipe, args.start, args.given)
        args = replace(args, recipe=recipe)
        settings["recipe"] = to_dict(recipe)
    settings |= {"detector": storage.absolute(args.detector)} if args.detector else {}
    claim_output(args.out, "search.json", settings, "search")
    with Lease(args.out):
        ended = ended_trials(args.out)
        # Optuna may try a setting again: fewer trials than samples are there when it is done
        num_left = 0 if plan.samples and finished_samples(args.out) >= plan.samples else plan.num_left(ended)
        if num_left:
            storage.remove(storage.join(args.out, "tune.json"))  # from here to the end the search is not complete
            oversubscription = connect(CPU_OVERSUBSCRIPTION)
            log_progress(
                f"{args.recipe.name}: {num_left} trials, {len(ended)} are there; {plan.search} over {plan.words}"
            )
            run_search(args, plan, objectives, ended, plan_resources(args, oversubscription))
        else:
            log_progress(f"{args.out}: all {len(ended)} trials are there")
        write_results(args, command, objectives, plan)


def finished_samples(out: str) -> int:
    """Return how many samples of Optuna the finished search in `out` is of."""
    path = storage.join(out, "tune.json")
    return json.loads(storage.read_bytes(path)).get("samples", 0) if storage.exists(path) else 0
