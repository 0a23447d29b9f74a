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
from workflows.outputs import write_json
from workflows.provenance import provenance
from workflows.tune.records import FAILED, FINISHED, TrialRecord, metric_key, read_records, trial_name

if TYPE_CHECKING:
    import pandas as pd

    from workflows.tune.options import Args
    from workflows.tune.plan import Plan

MAX_TABLE_ROWS = 15


def write_results(args: Args, command: list[str], objectives: Mapping[str, bool], plan: Plan) -> None:
    """Write all files of the search, tune.json last. Raises UserError where all trials failed."""
    records = read_records(args.out)
    trials, curves = tables(records, plan)
    keys = [metric_key(name) for name in objectives]
    errors = [record.error for record in records.values() if record.state == FAILED]
    if len(errors) == len(records):
        raise UserError(f"all {len(records)} trials failed, the first with: {errors[0]}")
    table = save_tables(args.out, trials, curves, plan, keys)
    for name, picture in pictures(trials, curves, plan, keys).items():
        storage.write_bytes(storage.join(args.out, "figures", f"{name}.svg"), picture)
    best = table.iloc[0]
    write_recipe(args, storage.join(args.out, "best.json"), best[list(plan.names)].to_dict(), records)
    front = write_front(args, table, plan, objectives, records) if len(objectives) > 1 else []
    states = trials["state"].value_counts().to_dict()
    about = {"provenance": provenance(["tune", *command]), "objective": list(objectives), "trials": states}
    about |= {"samples": plan.samples, "best": json.loads(best.to_json()), "front": front, "failed": errors}
    write_json(storage.join(args.out, "tune.json"), about)
    print_table(table, list(plan.names), keys, states)
    for error in dict.fromkeys(errors):
        log_progress(f"failed: {error}")
    print(f"{args.out}: the best is {best['label']}; its recipe is {storage.join(args.out, 'best.json')}")


def save_tables(out: str, trials: pd.DataFrame, curves: pd.DataFrame, plan: Plan, keys: Sequence[str]) -> pd.DataFrame:
    """Write trials.csv, curves.csv and summary.csv, and return the summary."""
    table = summary(trials, plan.names, keys)
    for name, frame in {"trials": trials, "curves": curves, "summary": table}.items():
        storage.write_text(storage.join(out, f"{name}.csv"), frame.to_csv(index=False, float_format="%.10g"))
    return table


def tables(records: Mapping[str, TrialRecord], plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return, in the order of the plan, (a row per trial, with its last epoch; a row per epoch of a trial)."""
    import pandas as pd

    places = {trial_name(values, seed): place for place, (values, seed) in enumerate(plan.trials)}
    trials, curves = [], []
    for name, record in sorted(records.items(), key=lambda item: places.get(item[0], len(places))):
        values, history = record.values, record.history
        row = {"trial": name, "label": label(values)} | {field: values[field] for field in plan.names}
        row |= {"seed": record.seed, "state": record.state, "epochs": len(history)}
        trials.append(row | (history[-1] | {"epochs": len(history)} if history else {}))
        curves += [{"trial": name, "label": row["label"], "seed": row["seed"]} | numbers for numbers in history]
    return pd.DataFrame(trials).drop(columns="epoch", errors="ignore"), pd.DataFrame(curves)


def pictures(trials: pd.DataFrame, curves: pd.DataFrame, plan: Plan, keys: Sequence[str]) -> dict[str, bytes]:
    """Draw the figures of the papers for a grid, parallel coordinates for several fields, curves, the front of two."""
    logs = [one.name for one in plan.dimensions if getattr(one, "log", False)]
    shown = [name for name in trials if name.startswith("val/")]
    shown = [*keys, *(name for name in shown if name not in keys)]
    figures = {"curves": learning_curves(curves, keys[0])}
    if plan.search == "grid":
        figures["settings"] = settings_figure(trials, shown)
    if len(plan.names) > 1:
        figures["parallel"] = parallel_coordinates(trials, plan.names, keys[0], log=logs)
    if len(keys) == 2:
        figures["front"] = pareto_figure(trials, (keys[0], keys[1]))
    return figures


def write_recipe(args: Args, path: str, values: Mapping[str, Any], records: Mapping[str, TrialRecord]) -> None:
    """Write the recipe with the values of the trials that have them: tables turn whole numbers into others."""
    trials = (record.values for record in records.values())
    exact = next(trial for trial in trials if all(trial[name] == values[name] for name in values))
    write_json(path, to_dict(apply(args.recipe, exact)))


def write_front(
    args: Args, table: pd.DataFrame, plan: Plan, objectives: Mapping[str, bool], records: Mapping[str, TrialRecord]
) -> list[str]:
    """Write OUT/front: a recipe for every setting that no other beats in all objectives, and the table of them."""
    finished = table[table["state"] == FINISHED]
    keys = [metric_key(name) for name in objectives]
    front = finished[pareto_front(finished[keys].to_numpy(float), list(objectives.values()))]
    for old in storage.list_files(storage.join(args.out, "front")):
        storage.remove(storage.join(args.out, "front", old))
    for number, row in enumerate(front.to_dict("records"), 1):
        path = storage.join(args.out, "front", f"{number}.json")
        write_recipe(args, path, {name: row[name] for name in plan.names}, records)
    storage.write_text(storage.join(args.out, "front", "front.csv"), front.to_csv(index=False))
    return list(front["label"])


def print_table(table: pd.DataFrame, names: Sequence[str], keys: Sequence[str], states: Mapping[str, int]) -> None:
    """Print the best settings."""
    log_progress(", ".join(f"{count} {state}" for state, count in states.items()))
    log_progress(
        f"{'setting':34}" + "".join(f"{key.rpartition('/')[2]:>12}{'sd':>10}" for key in keys) + f"{'seeds':>7}"
    )
    for row in table.head(MAX_TABLE_ROWS).to_dict("records"):
        numbers = "".join(f"{row[key]:12.5g}{row[f'{key}_sd']:10.2g}" for key in keys)
        note = "" if row["state"] == FINISHED else f"  {row['state']} after {row['epochs']:.0f} epochs"
        log_progress(f"{row['label'][:33]:34}{numbers}{row['seeds']:7d}{note}")
    if len(table) > MAX_TABLE_ROWS:
        log_progress(f"and {len(table) - MAX_TABLE_ROWS} more in summary.csv")
