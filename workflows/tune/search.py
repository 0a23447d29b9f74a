"""Running a search: Ray Tune over trials, with ASHA and Optuna, which are told of the trials that have ended before."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fusion import storage
from fusion.config import to_dict
from fusion.training.search_space import Choice, label
from workflows.console import log_progress
from workflows.tune.resources import DRIVER_CPUS, READING_CPUS
from workflows.tune.trial import (
    FAILED,
    RUNNING,
    STOPPED,
    identify,
    key_of,
    name_of,
    read,
    record_of,
    records,
    trial,
    write,
)

if TYPE_CHECKING:
    from workflows.tune.options import Args
    from workflows.tune.plan import Plan
    from workflows.tune.resources import TrialResources


def search(
    args: Args, plan: Plan, objectives: Mapping[str, bool], ended: dict[str, dict], room: TrialResources
) -> None:
    """Run what is left of the plan. Every trial leaves its files; returns when all have ended."""
    # Ctrl-C ends the search like any other job; Tune would go on to write a state that nothing reads.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # every epoch is in the trial's own files
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    # In the end Tune looks for files of the loggers that are off, and would list every trial without them.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    from ray import tune

    def absolute(path: str | None) -> str | None:  # trials may run in another folder
        return path and storage.absolute(path)

    first, better = next(iter(objectives.items()))
    metric, mode = key_of(first), "max" if better else "min"
    scheduler = scheduler_of(args, metric, mode, ended) if plan.stops else None
    starts = len({path.partition("/")[0] for path in storage.list_files(storage.join(args.out, "tune"))})
    task = {
        "recipe": to_dict(args.recipe),
        "options": {name: absolute(getattr(args, name)) for name in ("corpus", "start", "detector")},
        "out": storage.absolute(args.out),
        "workers": args.workers,
        "room": asdict(room),
        "begun": starts + 1,
        "joint": type(args.recipe).__name__ == "JointRecipe",
    }
    if plan.search == "optuna":
        searcher = optuna_of(plan, args.seed, metric, mode, args.out, ended)
        samples, space = plan.samples - len(ended), None
    else:
        left = [(values, seed) for values, seed in plan.trials if name_of(values, seed) not in ended]
        searcher, samples = None, 1
        space = {"number": tune.grid_search(list(range(len(left))))}
        task["settings"] = left
    task |= {"dimensions": plan.dimensions, "seed": plan.seeds[0]}
    place, inner = storage.resolve(storage.join(args.out, "tune"))
    total = plan.samples if plan.search == "optuna" else len(plan.trials)
    record = recorder(task, args.recipe.epochs, first, len(ended), total)
    bundles = [{"CPU": DRIVER_CPUS}, {"CPU": READING_CPUS}]
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, task=task), tune.PlacementGroupFactory(bundles)),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=samples,
            max_concurrent_trials=room.max_concurrent,
            trial_dirname_creator=lambda one: one.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"{starts + 1}",
            storage_path=inner,
            storage_filesystem=place if storage.is_uri(args.out) else None,
            callbacks=[record],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    tuner.fit()


def scheduler_of(args: Args, metric: str, mode: str, ended: Mapping[str, dict]):
    """ASHA over epochs, which has seen the trials that have ended."""
    from ray.tune.schedulers import ASHAScheduler

    epochs = args.recipe.epochs
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=epochs,
        grace_period=min(args.grace or max(1, epochs // 8), epochs),
        reduction_factor=args.reduction,
        stop_last_trials=False,  # a trial ends by itself, with its run finished
    )
    for name, about in ended.items():
        known = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, known)
        for numbers in about["history"]:
            scheduler.on_trial_result(None, known, numbers)
        scheduler.on_trial_complete(None, known, about["history"][-1] if about["history"] else {})
    return scheduler


def optuna_of(plan: Plan, seed: int, metric: str, mode: str, out: str, ended: Mapping[str, dict]):
    """Optuna's TPE: unfinished trials first, and told of those that have ended. One objective leads it."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {one.name: distribution(one) for one in plan.dimensions}
    begun = [about["raw"] for about in records(out).values() if about["state"] in (RUNNING, FAILED)]
    searcher = OptunaSearch(space, metric=metric, mode=mode, points_to_evaluate=begun or None, seed=seed + len(ended))
    for about in ended.values():
        if about["history"] and math.isfinite(value := about["history"][-1].get(metric, math.nan)):
            searcher.add_evaluated_point(about["raw"], value)
    return searcher


def distribution(dimension):
    """What Optuna draws for a dimension: the value, the place of a choice, or a share of the way to a named end."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(list(range(len(dimension.values))))
    if dimension.depends:
        return FloatDistribution(0.0, 1.0)
    if dimension.step:
        return IntDistribution(int(dimension.low), int(dimension.high), step=dimension.step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def recorder(task: Mapping[str, Any], epochs: int, objective: str, ended: int, total: int):
    """Tune's callback: a line for every epoch of a trial, and the end of those that were stopped or died."""
    from ray.tune import Callback

    class Recorder(Callback):
        ended_so_far = ended

        def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
            me = identify(trial.config, task)
            value = result.get(key_of(objective), math.nan)
            self.line(me, f"epoch {result.get('epoch', 0)}/{epochs}  {objective} {value:.4f}")

        def on_trial_complete(self, iteration, trials, trial, **info) -> None:
            me = identify(trial.config, task)
            about = read(record_of(task["out"], me["name"]))
            if about["state"] == RUNNING:
                write(task["out"], about, STOPPED)
            self.ended_so_far += 1
            about = read(record_of(task["out"], me["name"]))
            self.line(me, f"{about['state']} after {len(about['history'])} epochs {about['error']}".rstrip())

        def on_trial_error(self, iteration, trials, trial, **info) -> None:
            me = identify(trial.config, task)
            lines = str(trial.get_error() or "it died").strip().splitlines()
            write(task["out"], (read(record_of(task["out"], me["name"])) or me), FAILED, lines[-1][:300])
            self.ended_so_far += 1
            self.line(me, f"failed: {lines[-1][:300]}")

        def line(self, me: Mapping[str, Any], text: str) -> None:

            log_progress(f"[{self.ended_so_far}/{total}] {label(me['values'])}, seed {me['seed']}  {text}")

    return Recorder()
