"""A trial of a search: a run of `duskfuse train` whose epochs are reported to Ray Tune.

OUT/trials/NAME is the run, OUT/trials/NAME.json its record. Trials that have ended are told to the scheduler and to
Optuna as if they had just run.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from detection.moefusion.recipes import JointRecipe
from fusion import storage
from fusion.models.configs import TGECNET_STAGES
from fusion.training.recipes import Recipe
from fusion.training.search_space import Choice, Dimension, apply
from fusion.training.two_stage import RESTORE, TwoStageRecipe, of_stage
from workflows.cluster.errors import user_error_in
from workflows.train import job as train_job
from workflows.train import options as train_options
from workflows.tune.records import FAILED, FINISHED, RUNNING, TrialRecord, read_record, trial_name, write_record
from workflows.tune.resources import TrialResources
from workflows.tune.two_stage import first_stage_run

Setting = tuple[dict[str, Any], int]  # values of the searched fields, and the seed


@dataclass(frozen=True)
class TrialTask:
    """What every trial of a search needs to know; paths are absolute, as trials run in another folder.

    stage       which stage of a recipe of two is trained
    attempt     which start of the search this is, from 1
    settings    those left to try, where they are planned; Tune gives the number of one
    dimensions  what Optuna draws from otherwise, for trials of `seed`
    """

    recipe: Recipe | JointRecipe | TwoStageRecipe
    stage: str
    corpus: str
    start: str | None
    detector: str | None
    out: str
    workers: int
    resources: TrialResources
    attempt: int
    seed: int
    settings: tuple[Setting, ...] | None = None
    dimensions: tuple[Dimension, ...] = ()


def values_of(dimensions: Iterable[Dimension], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the fields for what Optuna drew."""
    values: dict[str, Any] = {}
    for dimension in dimensions:
        draw = drawn[dimension.name]
        if isinstance(dimension, Choice):
            values[dimension.name] = dimension.values[draw]
        else:
            values[dimension.name] = dimension.at(draw, values) if dimension.depends else draw
    return values


def trial_info(config: Mapping[str, Any], task: TrialTask) -> TrialRecord:
    """Return the trial that Tune's `config` stands for."""
    if task.settings is not None:
        values, seed = task.settings[config["number"]]
        return TrialRecord(trial_name(values, seed), values, seed, attempt=task.attempt)
    drawn = {dimension.name: config[dimension.name] for dimension in task.dimensions}
    values = values_of(task.dimensions, drawn)
    return TrialRecord(trial_name(values, task.seed), values, task.seed, drawn, task.attempt)


def run_trial(config: dict[str, Any], task: TrialTask) -> None:
    """Run a trial in a process of its own, as a run of `duskfuse train` whose epochs are reported to Tune."""
    from ray import tune

    trial = replace(trial_info(config, task), trial_id=tune.get_context().get_trial_id())
    existing = read_record(task.out, trial.name)
    if existing is not None and existing.attempt == trial.attempt and existing.trial_id != trial.trial_id:
        for numbers in wait_for_history(task.out, existing):  # Optuna has proposed the same twice
            tune.report(numbers)
        return
    write_record(task.out, trial, RUNNING)
    read_by_own_cpu()
    try:
        # its lines are not the search's
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            train_trial(trial, task)
    except Exception as error:  # Ray wraps a UserError; anything else is raised, and Tune tries the trial again
        user_error = user_error_in(error)
        if user_error is None:
            raise
        write_record(task.out, trial, FAILED, str(user_error))
    else:
        write_record(task.out, trial, FINISHED)


def read_by_own_cpu() -> None:
    """Let Ray Data of this process read with the CPU that is set aside for this trial (`plan_resources`)."""
    import ray.data
    from ray.util import get_current_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    context = ray.data.DataContext.get_current()
    group = get_current_placement_group()
    assert group is not None, "Tune runs trials in placement groups"
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    with warnings.catch_warnings():  # 2.60 calls the second one deprecated, and needs it to look at the group at all
        warnings.simplefilter("ignore")
        context.scheduling_strategy = context.scheduling_strategy_large_args = strategy


def train_trial(trial: TrialRecord, task: TrialTask) -> None:
    """Run `duskfuse train` with the values of a trial."""
    from ray.tune.integration.ray_train import TuneReportCallback

    args, command = train_command(trial, task)
    train_job.run(
        args,
        command,
        verbose=False,
        take_lease=False,
        threads=task.resources.threads,
        callbacks=[TuneReportCallback()],
    )


def train_command(trial: TrialRecord, task: TrialTask) -> tuple[train_options.Args, list[str]]:
    """Return the options of the training of a trial, and the command that it stands for."""
    whole = apply(task.recipe, trial.values | {"seed": trial.seed})
    recipe, start = of_stage(whole, task.stage), task.start
    if isinstance(whole, TwoStageRecipe) and task.stage != RESTORE:
        start = first_stage_run(task.out, trial.values, trial.seed)
    args = train_options.Args(
        recipe=recipe,
        corpus=task.corpus,
        out=storage.join(task.out, "trials", trial.name),
        start=start,
        detector=task.detector,
        workers=task.workers,
        cpus_per_worker=task.resources.cpus,
    )
    command = [recipe.name, "--corpus", args.corpus, "--out", args.out, *(("--from", start) if start else ())]
    for name, value in trial.values.items():
        own = name.removeprefix(f"{task.stage}.")
        if own.partition(".")[0] not in TGECNET_STAGES:  # a field of the other stage
            command += [f"--recipe.{own}", str(value)]
    return args, [*command, "--recipe.seed", str(trial.seed)]


def wait_for_history(out: str, trial: TrialRecord) -> list[dict[str, float]]:
    """Wait until another process has ended a trial; return the numbers of its epochs."""
    record: TrialRecord | None = trial
    while record is not None and record.state == RUNNING:
        time.sleep(2)
        record = read_record(out, trial.name)
    return list(record.history) if record is not None else []
