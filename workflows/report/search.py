"""The section of the report about a search."""

from __future__ import annotations

import io
from dataclasses import replace

from fusion import storage
from fusion.report.html import Section, plot
from fusion.report.tables import paper_table, summarise
from fusion.report.trials import FINISHED
from workflows.report.results import read_json

MAX_TABLE_ROWS = 12  # settings in the table
FIGURES = {
    "settings": "Metrics over the setting",
    "parallel": "All trials",
    "front": "Pareto front",
    "curves": "Learning curves",
}


def search_section(folder: str, number: int = 1) -> Section:
    """Return the section of what `duskfuse tune` wrote: the best settings, and its figures.

    UserError: it is not finished.
    """
    import pandas as pd

    result = read_json(storage.join(folder, "tune.json"), f"{folder} holds no finished `duskfuse tune`.")
    settings = read_json(storage.join(folder, "search.json"), f"{folder} holds no search.")
    trials, summary = (
        pd.read_csv(io.BytesIO(storage.read_bytes(storage.join(folder, name))))
        for name in ("trials.csv", "summary.csv")
    )
    best = list(summary["label"][:MAX_TABLE_ROWS])
    values = trials[(trials["state"] == FINISHED) & trials["label"].isin(best)]
    metrics = [name for name in trials if name.startswith("val/")]
    scores = values.melt(["label", "trial"], metrics, "metric", "value").assign(degradation="clean", level="0")
    scores["metric"] = scores["metric"].str.removeprefix("val/")
    scores = scores.rename(columns={"label": "method", "trial": "image"})
    scores["rank"] = scores["method"].map(best.index)
    table = summarise(scores.sort_values("rank", kind="stable").drop(columns="rank"))
    plots = []
    for name, title in FIGURES.items():
        path = storage.join(folder, "figures", f"{name}.svg")
        if storage.exists(path):
            plots.append(plot(title, storage.read_bytes(path)))
    counts = ", ".join(f"{count} {state}" for state, count in result["trials"].items())
    space = settings["space"] if isinstance(settings["space"], str) else ", ".join(settings["space"])
    notes = [f"The best setting is {result['best']['label']}."]
    if result["front"]:
        notes.append(f"No other is better in all of {', '.join(result['objective'])}: {'; '.join(result['front'])}.")
    notes += [f"Failed: {error}" for error in dict.fromkeys(result["failed"])]
    return Section(
        f"search-{number}",
        "Search" if number == 1 else f"Search ({number})",
        f"{settings['recipe']['name']}, {settings['search']} over {space}: {counts}. Each value is of the validation "
        "after the last epoch; differences that are not larger than those between seeds are noise.",
        (("", replace(paper_table(table), head="Setting", counted="Seeds")),) if len(table) else (),
        tuple(plots),
        (),
        tuple(notes),
    )
