"""A trial of a search: a run of `duskfuse train` whose epochs are reported to Ray Tune.

OUT/trials/NAME is a run, OUT/trials/NAME.json says what it tries, how it ended, and every epoch's numbers. These files
are all that a restarted search knows: Tune's own state, which is pickled, is never read back. Trials that have ended
are told to the scheduler and to Optuna as if they had just run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import warnings
from collections.abc import Mapping
from typing import Any

from fusion import storage
from fusion.config import fingerprint
from fusion.training.search_space import Choice, apply, label
from workflows.cluster.errors import user_error_in
from workflows.train import job as train_job
from workflows.train import options as train_options
from workflows.train.recipes import read_recipe

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped early", "failed"


def name_of(values: Mapping[str, Any], seed: int) -> str:
    """A folder name: what it tries, the seed, and a fingerprint that keeps near values apart."""

    words = re.sub(r"[^A-Za-z0-9.]+", "-", label(values)).strip("-.")[:60]
    return f"{words}-seed{seed}-{fingerprint({'values': dict(values), 'seed': seed})[:8]}"


def key_of(metric: str) -> str:
    """The name an objective has in reports."""
    return "train/loss" if metric == "loss" else f"val/{metric}"


def records(out: str) -> dict[str, dict]:
    """What is written of every trial, by name."""

    folder = storage.join(out, "trials")
    files = [path for path in sorted(storage.list_files(folder)) if "/" not in path and path.endswith(".json")]
    return {path.removesuffix(".json"): json.loads(storage.read_bytes(storage.join(folder, path))) for path in files}


def ended(out: str) -> dict[str, dict]:
    """Trials that need not run again. Failed ones are tried again."""
    return {name: about for name, about in records(out).items() if about["state"] in (FINISHED, STOPPED)}


def values_of(dimensions, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna drew -> values of the fields."""

    values: dict[str, Any] = {}
    for one in dimensions:
        if isinstance(one, Choice):
            values[one.name] = one.values[raw[one.name]]
        else:
            values[one.name] = one.at(raw[one.name], values) if one.depends else raw[one.name]
    return values


def identify(config: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """The trial that Tune's `config` stands for: its name, values and seed, and what Optuna drew for it."""
    if "settings" in task:
        raw, (values, seed) = {}, task["settings"][config["number"]]
    else:
        raw = {one.name: config[one.name] for one in task["dimensions"]}
        values, seed = values_of(task["dimensions"], raw), task["seed"]
    return {"name": name_of(values, seed), "values": values, "seed": seed, "raw": raw}


def trial(config: dict[str, Any], task: dict[str, Any]) -> None:
    """One trial, in a process of its own: a run of `duskfuse train` whose epochs are reported to Tune."""
    from ray import tune

    me = identify(config, task) | {"begun": task["begun"], "id": tune.get_context().get_trial_id()}
    there = read(record_of(task["out"], me["name"]))
    if there is not None and there["begun"] == me["begun"] and there["id"] != me["id"]:
        for numbers in wait_for(record_of(task["out"], me["name"])):  # Optuna proposed twice the same
            tune.report(numbers)
        return
    write(task["out"], me, RUNNING)
    read_by_own_cpu()
    try:
        # its lines are not the search's
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            train(me, task)
    except Exception as error:
        known = user_error_in(error)
        if known is None:
            raise
        write(task["out"], me, FAILED, str(known))
    else:
        write(task["out"], me, FINISHED)


def read_by_own_cpu() -> None:
    """Ray Data of this process reads with the CPU that is set aside for this trial (`workflows.tune.room`)."""
    import ray.data
    from ray.util import get_current_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    context = ray.data.DataContext.get_current()
    mine = PlacementGroupSchedulingStrategy(get_current_placement_group(), placement_group_capture_child_tasks=True)
    with warnings.catch_warnings():  # 2.60 calls the second one deprecated, and needs it to look at the group at all
        warnings.simplefilter("ignore")
        context.scheduling_strategy = context.scheduling_strategy_large_args = mine


def train(me: Mapping[str, Any], task: Mapping[str, Any]) -> None:
    from ray.tune.integration.ray_train import TuneReportCallback

    recipe = apply(read_recipe(task["recipe"]), me["values"] | {"seed": me["seed"]})
    args = train_options.Args(
        recipe=recipe,
        out=storage.join(task["out"], "trials", me["name"]),
        **task["options"],
        workers=task["workers"],
        cpus_per_worker=task["room"]["cpus"],
    )
    command = [recipe.name, "--corpus", args.corpus, "--out", args.out]
    command += [word for name, value in me["values"].items() for word in (f"--recipe.{name}", str(value))]
    train_job.run(
        args,
        [*command, "--recipe.seed", str(me["seed"])],
        verbose=False,
        take_lease=False,
        threads=task["room"]["threads"],
        callbacks=[TuneReportCallback()],
    )


def record_of(out: str, name: str) -> str:

    return storage.join(out, "trials", f"{name}.json")


def write(out: str, me: Mapping[str, Any], state: str, error: str = "") -> None:
    """The file of a trial, with the epochs it has so far."""

    history = history_of(storage.join(out, "trials", me["name"]))
    storage.write_text(
        record_of(out, me["name"]), json.dumps({**me, "state": state, "error": error, "history": history})
    )


def history_of(folder: str) -> list[dict]:
    """The epochs of a run so far: of a finished one, or up to its last checkpoint."""

    if (done := read(storage.join(folder, "run.json"))) is not None:
        return done["history"]
    states = [read(storage.join(folder, path)) for path in storage.list_files(folder) if path.endswith("/state.json")]
    return max((state["history"] for state in states if state and "history" in state), key=len, default=[])


def read(path: str) -> Any:

    try:
        return json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def wait_for(path: str) -> list[dict]:
    while (about := read(path))["state"] == RUNNING:
        time.sleep(2)
    return about["history"]
