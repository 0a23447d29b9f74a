"""The report: scores, plots, pictures and how to get them again, in one HTML file that needs nothing else.

Escaping is on for all that comes from data, and the page carries a content policy under which only its own few lines of
script run and nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import pandas as pd

from fusion.report import plots, style
from fusion.report.gallery import GalleryRow, data_uri, strips
from fusion.report.tables import (
    ALL,
    Metrics,
    PaperTable,
    check_scores,
    degradation_order,
    level_order,
    metric_label,
    metric_names,
    metric_table,
    missing_notes,
    paper_table,
    summarise,
)


@dataclass(frozen=True)
class Plot:
    """A plot twice, as data URIs, for light and for dark paper; its natural width is in CSS pixels."""

    title: str
    width: int
    light: str
    dark: str


@dataclass(frozen=True)
class Condition:
    """The tables of one degradation, one per level."""

    name: str
    facts: str
    tables: tuple[PaperTable, ...]


@dataclass(frozen=True)
class FullWidthImage:
    """A picture over the whole width, as a data URI."""

    title: str
    uri: str


@dataclass(frozen=True)
class Section:
    """Something a page has beside scores: `name` is its anchor. tables: caption and table; notes: plain sentences."""

    name: str
    title: str
    lead: str
    tables: tuple[tuple[str, PaperTable], ...] = ()
    plots: tuple[Plot, ...] = ()
    sheets: tuple[FullWidthImage, ...] = ()
    notes: tuple[str, ...] = ()


def render(
    *,
    title: str,
    scores: pd.DataFrame,
    gallery: Sequence[GalleryRow],
    provenance: Mapping[str, str],
    commands: Sequence[str],
    training: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
    dialect: str = "standard",
    metrics: Metrics | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """Return the whole page as text. The same input gives the same text.

    scores: `method, image, degradation, level, metric, value` (see `tables`); training: `run, epoch, name, value`.
    An empty table or gallery leaves its section out. Raises UserError as `check_scores` and `training_curves` do.
    """
    scores = check_scores(scores)
    table = metric_table(metrics)
    summary = summarise(scores, table)
    names = metric_names(scores, table)
    methods = list(dict.fromkeys(scores["method"]))
    columns, rows = strips(gallery)
    return _template().render(
        title=title,
        sentence="" if scores.empty and sections else _sentence(scores, names, dialect),
        dialect=dialect,
        few=style.MAX_CLEAR_LINES,
        overall=paper_table(summary, metrics=table) if methods else None,
        conditions=_conditions(summary, table),
        plots=_levels(summary, names, table),
        training=_training(training, methods),
        columns=columns,
        rows=rows,
        sections=sections,
        notes=[*notes, *missing_notes(scores, table)],
        provenance=dict(provenance),
        commands="\n".join(commands),
    )


def _levels(summary: pd.DataFrame, names: Sequence[str], table: Metrics) -> list[Plot]:
    """Return the plots over the level, for those metrics that were scored at several levels."""
    return [
        plot(f"{metric_label(name, table)} over the level", plots.metric_over_level(summary, name, metrics=table))
        for name in names
        if plots.level_families(summary[summary["metric"] == name])
    ]


def _training(log: pd.DataFrame | None, methods: Sequence[str]) -> Plot | None:
    if log is None or log.empty:
        return None
    return plot("Training curves", plots.training_curves(log, order=methods))


def plot(title: str, svg: bytes) -> Plot:
    """Return a plot of `plots` as the page shows it."""
    return Plot(title, style.css_width(svg), data_uri(svg, "svg+xml"), data_uri(style.to_dark(svg), "svg+xml"))


def _sentence(scores: pd.DataFrame, names: Sequence[str], dialect: str) -> str:
    """Return what was scored, in one sentence or two."""
    if scores.empty:
        return "No scores were given."
    degraded = sorted(set(scores["degradation"]) - {"clean"}, key=degradation_order)
    conditions = len(scores[["degradation", "level"]].drop_duplicates())
    clean = "clean input" if (scores["degradation"] == "clean").any() else ""
    kinds = f"{_number(len(degraded), 'degradation')} ({', '.join(degraded)})" if degraded else ""
    under = " and ".join(part for part in (clean, kinds) if part)
    methods, images = _number(scores["method"].nunique(), "method"), _number(scores["image"].nunique(), "image")
    total = f", {conditions} conditions in all" if conditions > 1 else ""
    return f"{methods} on {images} under {under}{total}. {_number(len(names), 'metric')}, in the {dialect} dialect."


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _conditions(summary: pd.DataFrame, table: Metrics) -> list[Condition]:
    result = []
    for name in sorted(set(summary["degradation"]) - {ALL}, key=degradation_order):
        levels = sorted(set(summary.loc[summary["degradation"] == name, "level"]), key=level_order)
        tables = tuple(paper_table(summary, name, level, table) for level in levels)
        fewest, most = min(t.images for t in tables), max(t.images for t in tables)
        images = _number(most, "image") if fewest == most else f"{fewest} to {_number(most, 'image')}"
        facts = "" if name == "clean" else f"level{'s' * (len(levels) > 1)} {', '.join(levels)} · "
        result.append(Condition(name, f"{facts}{images}{' each' if len(levels) > 1 else ''}", tables))
    return result


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    source = resources.files("fusion.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(source)
