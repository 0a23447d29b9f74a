"""duskfuse tune RECIPE: a search over fields of a recipe, with Ray Tune; every trial is a run of `duskfuse train`.

    duskfuse tune moefusion-tiny --corpus DIR --preset experts --num-seeds 2 --out DIR   the grid of the paper's Fig. 7
    duskfuse tune moefusion --corpus DIR --preset nka --num-samples 40 --out DIR         N, K, alpha and balance
    duskfuse tune tgecnet --corpus DIR --out DIR \\                                       both stages of TG-ECNet
        --space model.experts=2..16 --space model.top-k=1..model.experts --space fuse.loss.gradient=1..40:log

All trials read one finished corpus. The same command resumes a killed search and keeps finished trials; more
--num-samples or --num-seeds add trials. OUT/trials/NAME are the runs, OUT/trials.csv and summary.csv the tables,
OUT/figures the figures, OUT/best.json the best recipe, which `duskfuse train` takes; OUT/tune.json is written last.
Of a recipe of two stages OUT/restore/trials/NAME are the runs of stage 1, which trials share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fusion import storage
from fusion.config import to_dict
from fusion.data.corpus import open_corpus
from fusion.errors import UserError
from fusion.training.recipes import Recipe
from fusion.training.two_stage import FUSE, TwoStageRecipe, of_stage
from workflows.cluster.connect import connect
from workflows.console import log_progress
from workflows.outputs import Lease, claim_output
from workflows.train.job import with_first_stage
from workflows.tune.options import Args
from workflows.tune.plan import (
    Plan,
    check_search,
    check_settings,
    parse_objectives,
    plan_search,
    with_objective_metrics,
)
from workflows.tune.records import TrialRecord, ended_trials, metric_key, read_records
from workflows.tune.resources import CPU_OVERSUBSCRIPTION, TrialResources, plan_resources
from workflows.tune.results import save_tables, tables, write_results
from workflows.tune.search import run_search
from workflows.tune.two_stage import OBJECTIVE as FIRST_OBJECTIVE
from workflows.tune.two_stage import first_stage_out, first_stage_plan, write_blocked


def run(args: Args, command: list[str]) -> None:
    """Search, or resume a search, and write its tables, figures and recipes."""
    objectives = parse_objectives(args)
    args = replace(args, recipe=with_objective_metrics(args.recipe, objectives))
    plan = plan_search(args)
    check_search(args, plan)
    manifest = open_corpus(args.corpus)
    check_settings(args, plan, manifest)
    rows = of_stage(args.recipe, FUSE).validation.rows
    if list(objectives) != ["loss"] and not (manifest.rows("val") and rows):
        raise UserError(
            f"{args.corpus} has no rows to validate on, which --objective {args.objective} needs. Build a corpus with "
            "--val-fraction, and leave recipe.validation.rows above 0."
        )
    init_checkpoint = None
    if args.start is not None and isinstance(args.recipe, Recipe):
        recipe, init_checkpoint = with_first_stage(args.recipe, args.start, args.given)
        args = replace(args, recipe=recipe)
    settings: dict[str, Any] = {
        "recipe": to_dict(args.recipe),
        "corpus": manifest.content,
        "space": plan.about,
        "search": plan.search,
        "objective": list(objectives),
        "seed": args.seed,
        "init_checkpoint": init_checkpoint,
    }
    settings |= {"detector": storage.absolute(args.detector)} if args.detector else {}
    claim_output(args.out, "search.json", settings, "search")
    with Lease(args.out):
        ended = ended_trials(args.out)
        # Optuna may try a setting again: fewer trials than samples are there when it is done
        num_left = 0 if plan.samples and finished_samples(args.out) >= plan.samples else plan.num_left(ended)
        if num_left:
            storage.remove(storage.join(args.out, "tune.json"))  # from here to the end the search is not complete
            resources = plan_resources(args, connect(CPU_OVERSUBSCRIPTION))
            if isinstance(args.recipe, TwoStageRecipe):
                ended |= search_first_stage(args, plan, ended, resources)
            log_progress(
                f"{args.recipe.name}: {plan.num_left(ended)} trials, {len(ended)} are there; {plan.search} over "
                f"{plan.words}"
            )
            if plan.num_left(ended):
                run_search(args, plan, objectives, ended, resources)
        else:
            log_progress(f"{args.out}: all {len(ended)} trials are there")
        write_results(args, command, objectives, plan)


def search_first_stage(
    args: Args, plan: Plan, ended: Mapping[str, TrialRecord], resources: TrialResources
) -> dict[str, TrialRecord]:
    """Run what is left of stage 1; return the records of the trials whose stage 1 was stopped early or failed."""
    first = first_stage_plan(plan)
    first_args = replace(args, out=first_stage_out(args.out), detector=None)
    there = ended_trials(first_args.out)
    if first.num_left(there):
        log_progress(
            f"{args.recipe.name}, stage 1: {first.num_left(there)} trainings, {len(there)} are there; for "
            f"{plan.samples or len(plan.trials)} trials"
        )
        run_search(first_args, first, {FIRST_OBJECTIVE: True}, there, resources)
    records = read_records(first_args.out)
    blocked = write_blocked(args.out, plan, records, ended)
    save_tables(first_args.out, *tables(records, first), first, [metric_key(FIRST_OBJECTIVE)])
    return blocked


def finished_samples(out: str) -> int:
    """Return how many samples of Optuna the finished search in `out` is of."""
    path = storage.join(out, "tune.json")
    return json.loads(storage.read_bytes(path)).get("samples", 0) if storage.exists(path) else 0
