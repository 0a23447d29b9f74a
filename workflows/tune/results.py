"""What a search found: tables, pictures, and the best recipe as a file that `duskfuse train` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusion import storage
from fusion.config import to_dict
from fusion.errors import UserError
from fusion.report.parallel import parallel_coordinates
from fusion.report.search import learning_curves, pareto_figure, settings_figure
from fusion.report.trials import pareto_front, summary
from fusion.training.search_space import apply, label
from workflows.console import log_progress
from workflows.provenance import provenance
from workflows.tune.trial import FAILED, FINISHED, key_of, name_of, records

if TYPE_CHECKING:
    import pandas as pd

    from workflows.tune.options import Args
    from workflows.tune.plan import Plan

SHOWN = 15


def write(args: Args, command: list[str], objectives: Mapping[str, bool], plan: Plan) -> None:
    """All files of the search, tune.json last. UserError where no trial has a value."""

    found = records(args.out)
    trials, curves = tables(found, plan)
    keys = [key_of(name) for name in objectives]
    broken = [about["error"] for about in found.values() if about["state"] == FAILED]
    if len(broken) == len(found):
        raise UserError(f"all {len(found)} trials failed, the first with: {broken[0]}")
    table = summary(trials, plan.names, keys)

    def save(name: str, frame: pd.DataFrame) -> None:
        storage.write_text(storage.join(args.out, name), frame.to_csv(index=False, float_format="%.10g"))

    save("trials.csv", trials)
    save("curves.csv", curves)
    save("summary.csv", table)
    for name, picture in pictures(trials, curves, plan, keys).items():
        storage.write_bytes(storage.join(args.out, "figures", f"{name}.svg"), picture)
    best = table.iloc[0]
    write_recipe(args, storage.join(args.out, "best.json"), best[list(plan.names)].to_dict(), found)
    front = write_front(args, table, plan, objectives, found) if len(objectives) > 1 else []
    states = trials["state"].value_counts().to_dict()
    about = {"provenance": provenance(["tune", *command]), "objective": list(objectives), "trials": states}
    about |= {"samples": plan.samples, "best": json.loads(best.to_json()), "front": front, "failed": broken}
    storage.write_text(storage.join(args.out, "tune.json"), json.dumps(about, indent=1) + "\n")
    show(table, list(plan.names), keys, states)
    for error in dict.fromkeys(broken):
        log_progress(f"failed: {error}")
    print(f"{args.out}: the best is {best['label']}; its recipe is {storage.join(args.out, 'best.json')}")


def tables(found: Mapping[str, dict], plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(a row a trial, with the numbers of its last epoch; a row an epoch of a trial), in the order of the plan."""
    import pandas as pd

    places = {name_of(values, seed): place for place, (values, seed) in enumerate(plan.trials)}
    trials, curves = [], []
    for name, about in sorted(found.items(), key=lambda item: places.get(item[0], len(places))):
        values, history = about["values"], about["history"]
        row = {"trial": name, "label": label(values)} | {field: values[field] for field in plan.names}
        row |= {"seed": about["seed"], "state": about["state"], "epochs": len(history)}
        trials.append(row | (history[-1] | {"epochs": len(history)} if history else {}))
        curves += [{"trial": name, "label": row["label"], "seed": row["seed"]} | numbers for numbers in history]
    return pd.DataFrame(trials).drop(columns="epoch", errors="ignore"), pd.DataFrame(curves)


def pictures(trials: pd.DataFrame, curves: pd.DataFrame, plan: Plan, keys: Sequence[str]) -> dict[str, bytes]:
    """The figures of the papers for a grid, parallel coordinates for several fields, curves, the front of two."""

    logs = [one.name for one in plan.dimensions if getattr(one, "log", False)]
    shown = [name for name in trials if name.startswith("val/")]
    shown = [*keys, *(name for name in shown if name not in keys)]
    found = {"curves": learning_curves(curves, keys[0])}
    if plan.search == "grid":
        found["settings"] = settings_figure(trials, shown)
    if len(plan.names) > 1:
        found["parallel"] = parallel_coordinates(trials, plan.names, keys[0], log=logs)
    if len(keys) == 2:
        found["front"] = pareto_figure(trials, tuple(keys))
    return found


def write_recipe(args: Args, path: str, values: Mapping[str, Any], found: Mapping[str, dict]) -> None:
    """The recipe with the values of the trials that have them: tables turn whole numbers into others."""

    exact = next(
        about["values"] for about in found.values() if all(about["values"][name] == values[name] for name in values)
    )
    storage.write_text(path, json.dumps(to_dict(apply(args.recipe, exact)), indent=1) + "\n")


def write_front(
    args: Args, table: pd.DataFrame, plan: Plan, objectives: Mapping[str, bool], found: Mapping[str, dict]
) -> list[str]:
    """OUT/front: a recipe for every setting that no other beats in all objectives, and the table of them."""

    finished = table[table["state"] == FINISHED]
    keys = [key_of(name) for name in objectives]
    front = finished[pareto_front(finished[keys].to_numpy(float), list(objectives.values()))]
    for old in storage.list_files(storage.join(args.out, "front")):
        storage.remove(storage.join(args.out, "front", old))
    for number, row in enumerate(front.to_dict("records"), 1):
        path = storage.join(args.out, "front", f"{number}.json")
        write_recipe(args, path, {name: row[name] for name in plan.names}, found)
    storage.write_text(storage.join(args.out, "front", "front.csv"), front.to_csv(index=False))
    return list(front["label"])


def show(table: pd.DataFrame, names: Sequence[str], keys: Sequence[str], states: Mapping[str, int]) -> None:
    log_progress(", ".join(f"{count} {state}" for state, count in states.items()))
    log_progress(
        f"{'setting':34}" + "".join(f"{key.rpartition('/')[2]:>12}{'sd':>10}" for key in keys) + f"{'seeds':>7}"
    )
    for row in table.head(SHOWN).to_dict("records"):
        numbers = "".join(f"{row[key]:12.5g}{row[f'{key}_sd']:10.2g}" for key in keys)
        note = "" if row["state"] == FINISHED else f"  {row['state']} after {row['epochs']:.0f} epochs"
        log_progress(f"{row['label'][:33]:34}{numbers}{row['seeds']:7d}{note}")
    if len(table) > SHOWN:
        log_progress(f"and {len(table) - SHOWN} more in summary.csv")
