"""Trials of a search as tables: one row per setting with means over its seeds, and the Pareto front.

A table of trials has one row per trial: `trial` (name), `label` (short text of the setting), the searched parameters by
their dotted recipe names, `seed`, `state` ("finished", "stopped early" or "failed"), `epochs`, and metrics of the last
epoch as `val/NAME`, where NaN says that there is none. A table of curves has rows of `trial`, `label`, `seed`, `epoch`
and metrics. Metrics may be asked for as `qabf` or `val/qabf`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fusion.errors import UserError
from fusion.report.tables import metric_label, metric_table

FINISHED, STOPPED, FAILED = STATES = ("finished", "stopped early", "failed")
TRIALS = ("trial", "label", "seed", "state", "epochs")
CURVES = ("trial", "label", "seed", "epoch")
PERCENT = {"map50": "mAP50 (%)", "map50_95": "mAP50-95 (%)"}  # of the detector; they are no metrics of images


def column(metric: str) -> str:
    """Return the column of a metric: `qabf` -> `val/qabf`."""
    return metric if "/" in metric else f"val/{metric}"


def label_of(metric: str) -> str:
    """As printed: `val/qabf` -> `Q_abf`; losses keep their names."""
    split, _, name = column(metric).partition("/")
    if split != "val":
        return column(metric)
    table = metric_table(None)
    return PERCENT.get(name) or (metric_label(name, table) if name in table else name)


def higher_is_better(metric: str) -> bool:
    """By the table of metrics; average precision is better high, a loss is better low. UserError for another name."""
    split, _, name = column(metric).partition("/")
    table = metric_table(None)
    if split == "val" and (name in table or name in PERCENT):
        return name in PERCENT or bool(table[name].higher_is_better)
    if split == "train" or "loss" in name:
        return False
    raise UserError(f"unknown direction for metric {metric}: choose from {', '.join([*table, *PERCENT])}.")


def check(table: pd.DataFrame, what: str, columns: Sequence[str], metrics: Sequence[str] = ()) -> None:
    """UserError for a table without these columns or without rows."""
    absent = [name for name in (*columns, *map(column, metrics)) if name not in table.columns]
    if absent or table.empty:
        found = f"has no column {', '.join(absent)}" if absent else "is empty"
        raise UserError(f"the table of {what} {found}; it needs rows of {', '.join(columns)}.")


def finite(values: pd.Series) -> np.ndarray:
    """Float values, NaN for what is none."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def mean_and_sd(values: np.ndarray) -> tuple[float, float, int]:
    """Over the finite values: mean, standard deviation (n - 1; NaN for one value), and their number."""
    values = values[np.isfinite(values)]
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return (float(values.mean()) if len(values) else float("nan"), spread, len(values))


def summary(trials: pd.DataFrame, parameters: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return one row per setting, with the means of its seeds.

    Columns: `label`, the parameters, `seeds`, `state`, `epochs`, and of each metric the mean over the seeds (under its
    own name), `NAME_sd` (n - 1; NaN for one seed) and `NAME_n`, the values that the mean is over.

    A setting is what its parameters say, without the seed. Finished trials count; where a setting has none, those
    stopped early do, and `state` says so: their values are of an earlier epoch. Failed ones have no values. Settings
    of which every seed finished come first, so that one lucky seed is not the best; then those of which some did, then
    those stopped early, then the failed; each group is ordered by the first metric, the best on top.
    """
    check(trials, "trials", (*TRIALS, *parameters), metrics)
    keys = trials[list(parameters)].map(repr).agg(tuple, axis=1) if parameters else pd.Series("", trials.index)
    rows, partly = [], []
    for _, group in trials.groupby(keys, sort=False):
        state = next((state for state in STATES if (group["state"] == state).any()), FAILED)
        counted = group[group["state"] == state]
        partly.append(len(counted) < len(group))
        row = {"label": group["label"].iloc[0]} | {name: group[name].iloc[0] for name in parameters}
        row |= {"seeds": counted["seed"].nunique(), "state": state, "epochs": counted["epochs"].max()}
        for name in metrics:
            values = finite(counted[column(name)])
            row[name], row[f"{name}_sd"], row[f"{name}_n"] = mean_and_sd(values[:0] if state == FAILED else values)
        rows.append(row)
    table = pd.DataFrame(rows)
    first = table[metrics[0]] * (-1 if higher_is_better(metrics[0]) else 1) if metrics else pd.Series(0, table.index)
    order = pd.DataFrame({"state": table["state"].map(STATES.index), "partly": partly, "value": first})
    return table.loc[order.sort_values(["state", "partly", "value"], kind="stable").index].reset_index(drop=True)


def pareto_front(values: np.ndarray, higher_is_better: Sequence[bool]) -> np.ndarray:
    """Return which rows of N x K values no other row beats: as good in all K objectives and better in one.

    Equal rows stay together. A row with a value that is not a number is never on the front and beats nobody.
    Returns N bools.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[1] != len(higher_is_better):
        raise ValueError(f"values must be N x {len(higher_is_better)}, not of shape {values.shape}")
    good = np.where(np.asarray(higher_is_better, bool), values, -values)
    there = np.asarray(~np.isnan(good).any(axis=1))
    front = there.copy()
    for place in np.flatnonzero(there):
        others = good[there]
        beaten = (others >= good[place]).all(axis=1) & (others > good[place]).any(axis=1)
        front[place] = not beaten.any()
    return front
