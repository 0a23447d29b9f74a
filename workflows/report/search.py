"""The section of the report about a search."""

from __future__ import annotations

import io
from dataclasses import replace

from fusion import storage
from fusion.report.html import Section, plot
from fusion.report.tables import paper_table, summarise
from fusion.report.trials import FINISHED
from workflows.report.sections import read_json

TOP = 12  # settings in the table


def search_section(folder: str, number: int = 1):
    """What `duskfuse tune` wrote: the best settings, and its pictures. UserError: it is not finished."""
    import pandas as pd

    about = read_json(storage.join(folder, "tune.json"), f"{folder} holds no finished `duskfuse tune`.")
    settings = read_json(storage.join(folder, "search.json"), f"{folder} holds no search.")
    trials, summary = (
        pd.read_csv(io.BytesIO(storage.read_bytes(storage.join(folder, name))))
        for name in ("trials.csv", "summary.csv")
    )
    best = list(summary["label"][:TOP])
    values = trials[(trials["state"] == FINISHED) & trials["label"].isin(best)]
    names = [name for name in trials if name.startswith("val/")]
    long = values.melt(["label", "trial"], names, "metric", "value").assign(degradation="clean", level="0")
    long["metric"] = long["metric"].str.removeprefix("val/")
    long = long.rename(columns={"label": "method", "trial": "image"})
    long["place"] = long["method"].map(best.index)
    table = summarise(long.sort_values("place", kind="stable").drop(columns="place"))
    plots = []
    for file, title in TITLES.items():
        path = storage.join(folder, "figures", f"{file}.svg")
        if storage.exists(path):
            plots.append(plot(title, storage.read_bytes(path)))
    told = ", ".join(f"{count} {state}" for state, count in about["trials"].items())
    space = settings["space"] if isinstance(settings["space"], str) else ", ".join(settings["space"])
    notes = [f"The best setting is {about['best']['label']}."]
    if about["front"]:
        notes.append(f"No other is better in all of {', '.join(about['objective'])}: {'; '.join(about['front'])}.")
    notes += [f"Failed: {error}" for error in dict.fromkeys(about["failed"])]
    return Section(
        f"search-{number}",
        "Search" if number == 1 else f"Search ({number})",
        f"{settings['recipe']['name']}, {settings['search']} over {space}: {told}. Each value is of the validation "
        "after the last epoch; differences that are not larger than those between seeds are noise.",
        (("", replace(paper_table(table), head="Setting", counted="Seeds")),) if len(table) else (),
        tuple(plots),
        (),
        tuple(notes),
    )


TITLES = {
    "settings": "Metrics over the setting",
    "parallel": "All trials",
    "front": "Pareto front",
    "curves": "Learning curves",
}
