"""Running a search: Ray Tune over trials, with ASHA and Optuna, which are told of the trials that have ended before."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fusion import storage
from fusion.training.search_space import Choice, Dimension, label
from fusion.training.two_stage import RESTORE, of_stage
from workflows.console import log_progress
from workflows.tune.records import (
    FAILED,
    RUNNING,
    STOPPED,
    TrialRecord,
    metric_key,
    read_record,
    read_records,
    trial_name,
    write_record,
)
from workflows.tune.resources import DRIVER_CPUS, READING_CPUS, TrialResources
from workflows.tune.trial import TrialTask, run_trial, trial_info

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from ray.tune import Callback, Tuner
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search.optuna import OptunaSearch

    from workflows.tune.options import Args
    from workflows.tune.plan import Plan


def run_search(
    args: Args,
    plan: Plan,
    objectives: Mapping[str, bool],
    ended: Mapping[str, TrialRecord],
    resources: TrialResources,
) -> None:
    """Run what is left of the plan. Every trial leaves its files; returns when all have ended."""
    # Ctrl-C ends the search like any other job; Tune would go on to write a state that nothing reads.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # every epoch is in the trial's own files
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    # In the end Tune looks for files of the loggers that are off, and would list every trial without them.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    task = trial_task(args, plan, ended, resources)
    build_tuner(args, plan, objectives, ended, task).fit()


def trial_task(args: Args, plan: Plan, ended: Mapping[str, TrialRecord], resources: TrialResources) -> TrialTask:
    """Return what the trials of this start of the search need to know."""

    def absolute(path: str | None) -> str | None:  # trials may run in another folder
        return path and storage.absolute(path)

    starts = {path.partition("/")[0] for path in storage.list_files(storage.join(args.out, "tune"))}
    left = tuple((values, seed) for values, seed in plan.trials if trial_name(values, seed) not in ended)
    return TrialTask(
        recipe=args.recipe,
        stage=plan.stage,
        corpus=storage.absolute(args.corpus),
        start=absolute(args.start),
        detector=absolute(args.detector),
        out=storage.absolute(args.out),
        workers=args.workers,
        resources=resources,
        attempt=len(starts) + 1,
        seed=plan.seeds[0],
        settings=None if plan.search == "optuna" else left,
        dimensions=plan.dimensions,
    )


def build_tuner(
    args: Args,
    plan: Plan,
    objectives: Mapping[str, bool],
    ended: Mapping[str, TrialRecord],
    task: TrialTask,
) -> Tuner:
    """Return the Tuner of Ray: over the numbers of the settings that are left, or over Optuna's proposals."""
    from ray import tune

    epochs = of_stage(args.recipe, plan.stage).epochs
    first, higher_is_better = next(iter(objectives.items()))
    metric, mode = metric_key(first), "max" if higher_is_better else "min"
    if task.settings is None:
        searcher = build_searcher(plan, args.seed, metric, mode, args.out, ended)
        num_samples, space, total = plan.samples - len(ended), None, plan.samples
    else:
        searcher, num_samples, total = None, 1, len(plan.trials)
        space = {"number": tune.grid_search(list(range(len(task.settings))))}
    filesystem, path = storage.resolve(storage.join(args.out, "tune"))
    bundles = [{"CPU": DRIVER_CPUS}, {"CPU": READING_CPUS}]
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, task=task), tune.PlacementGroupFactory(bundles)),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=build_scheduler(args, epochs, metric, mode, ended) if plan.stops else None,
            num_samples=num_samples,
            max_concurrent_trials=task.resources.max_concurrent,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{task.attempt}",
            storage_path=path,
            storage_filesystem=filesystem if storage.is_uri(args.out) else None,
            callbacks=[progress_callback(task, epochs, first, len(ended), total)],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )


def build_scheduler(
    args: Args, epochs: int, metric: str, mode: str, ended: Mapping[str, TrialRecord]
) -> TrialScheduler:
    """Return ASHA over the epochs of a training, which has seen the trials that have ended.

    It stops nothing at the last epoch: a trial that has come so far is finished.
    """
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    grace = args.grace or max(1, epochs // 8)
    if grace >= epochs:
        return FIFOScheduler()
    scheduler: Any = ASHAScheduler(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=epochs - 1,  # no rung is above
        grace_period=grace,
        reduction_factor=args.reduction,
        stop_last_trials=False,  # a trial ends by itself, with its run finished
    )
    for name, record in ended.items():
        trial = SimpleNamespace(trial_id=name)  # all that ASHA reads of a trial
        scheduler.on_trial_add(None, trial)
        for numbers in record.history:
            scheduler.on_trial_result(None, trial, numbers)
        scheduler.on_trial_complete(None, trial, record.history[-1] if record.history else {})
    return scheduler


def build_searcher(
    plan: Plan, seed: int, metric: str, mode: str, out: str, ended: Mapping[str, TrialRecord]
) -> OptunaSearch:
    """Return Optuna's TPE: unfinished trials first, and told of those that have ended. One objective leads it."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {dimension.name: distribution(dimension) for dimension in plan.dimensions}
    unfinished = [record.drawn for record in read_records(out).values() if record.state in (RUNNING, FAILED)]
    searcher = OptunaSearch(
        space, metric=metric, mode=mode, points_to_evaluate=unfinished or None, seed=seed + len(ended)
    )
    for record in ended.values():
        if record.history and math.isfinite(value := record.history[-1].get(metric, math.nan)):
            searcher.add_evaluated_point(record.drawn, value)
    return searcher


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return what Optuna draws for a dimension: the value, the index of a choice, or a share of the way to an end."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(list(range(len(dimension.values))))
    if isinstance(dimension.high, str):
        return FloatDistribution(0.0, 1.0)
    if dimension.step:
        return IntDistribution(int(dimension.low), int(dimension.high), step=dimension.step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def progress_callback(task: TrialTask, epochs: int, objective: str, ended: int, total: int) -> Callback:
    """Return Tune's callback: a line for every epoch, and the records of trials that were stopped or died."""
    from ray.tune import Callback

    stage = "stage 1 " if task.stage == RESTORE else ""

    class ProgressCallback(Callback):
        num_ended = ended

        def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
            value = result.get(metric_key(objective), math.nan)
            text = f"epoch {result.get('epoch', 0)}/{epochs}  {objective} {value:.4f}"
            self.log(trial_info(trial.config, task), text)

        def on_trial_complete(self, iteration, trials, trial, **info) -> None:
            current = trial_info(trial.config, task)
            record = read_record(task.out, current.name) or current
            if record.state == RUNNING:
                record = write_record(task.out, record, STOPPED)
            self.num_ended += 1
            self.log(record, f"{record.state} after {len(record.history)} epochs {record.error}".rstrip())

        def on_trial_error(self, iteration, trials, trial, **info) -> None:
            current = trial_info(trial.config, task)
            reason = str(trial.get_error() or "it died").strip().splitlines()[-1][:300]
            write_record(task.out, read_record(task.out, current.name) or current, FAILED, reason)
            self.num_ended += 1
            self.log(current, f"failed: {reason}")

        def log(self, trial: TrialRecord, text: str) -> None:
            log_progress(f"{stage}[{self.num_ended}/{total}] {label(trial.values)}, seed {trial.seed}  {text}")

    return ProgressCallback()
