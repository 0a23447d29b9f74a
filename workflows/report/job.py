"""duskfuse report: scores, plots, pictures and training curves in one self-contained HTML page.

duskfuse report --scores DIR --out report.html [--run RUN ...] [--detect DIR ...] [--evolution DIR ...]
                [--variants DIR ...] [--search DIR ...]
"""

from __future__ import annotations

import io
import json
import shlex

from fusion import storage
from fusion.errors import UserError
from fusion.report.html import render
from workflows.provenance import revision, versions
from workflows.report.gallery import choose_images, find_items, gallery_rows
from workflows.report.options import Args
from workflows.report.results import Scores, TrainingRun, read_command, read_run, read_scores
from workflows.report.search import search_section
from workflows.report.sections import curves, detection_section, evolution_section, experts_section
from workflows.report.variants import variants_section

SCORE_COLUMNS = ["method", "image", "degradation", "level", "metric", "value"]
MAX_NOTES = 20  # problems that are named


def run(args: Args, command: list[str]) -> None:
    """Read the results, write the page. UserError: nothing to report, or a result that is not finished."""
    import pandas as pd

    if args.scores is None and not (args.detect or args.evolution or args.variants or args.search):
        raise UserError(
            "give --scores, --detect, --evolution, --variants or --search, one or more: what the report is of."
        )
    runs = [read_run(folder) for folder in dict.fromkeys(args.run)]
    sections = [detection_section(folder, number) for number, folder in enumerate(args.detect, 1)]
    sections += [evolution_section(folder, number) for number, folder in enumerate(args.evolution, 1)]
    sections += [variants_section(folder, number) for number, folder in enumerate(args.variants, 1)]
    sections += [search_section(folder, number) for number, folder in enumerate(args.search, 1)]
    if args.scores is None:
        scores, rows = None, []
    else:
        scores = read_scores(args.scores)
        items = find_items(scores, choose_images(scores.table, args.num_images))
        rows = gallery_rows(scores, items)
        experts = experts_section(scores.methods, runs, items)
        sections = [*sections, experts] if experts else sections
    page = render(
        title=args.title,
        scores=scores.table if scores else pd.DataFrame(columns=SCORE_COLUMNS),
        gallery=rows,
        provenance=(scoring_facts(scores) if scores else {}) | run_facts(runs) | page_facts(),
        commands=commands(scores, runs, args, command),
        training=curves((run.recipe["name"], run.history) for run in runs),
        notes=problem_notes(scores) if scores else [],
        dialect=scores.dialect if scores else "standard",
        sections=sections,
    )
    storage.write_text(args.out, page)
    print(f"report: {args.out}")


def scoring_facts(scores: Scores) -> dict[str, str]:
    """Return what was scored, against what, for the page's table of origins."""
    facts = {"scored against": f"the {scores.reference} pair, {scores.scored}", "dialect": scores.dialect}
    if scores.niqe_model:
        facts["NIQE against"] = scores.niqe_model
    source = scores.source
    if "corpus" in source:
        facts["corpus"] = f"{source['corpus']}, split {source['split']}, content sha256 {source['content_sha256']}"
        facts["corpus settings"] = json.dumps(source["config"])
    else:
        facts["pairs"] = str(source["pairs"])
    return facts | {f"methods: {name}": folder for name, folder in scores.methods.items()}


def run_facts(runs: list[TrainingRun]) -> dict[str, str]:
    """Return the recipes of the runs."""
    return {f"run: {run.folder}": json.dumps(run.recipe) for run in runs}


def page_facts() -> dict[str, str]:
    """Return which sources and packages made the page."""
    numbers = ", ".join(f"{name} {number}" for name, number in versions().items())
    return {"source revision": revision(), "versions": numbers}


def commands(scores: Scores | None, runs: list[TrainingRun], args: Args, command: list[str]) -> list[str]:
    """Return the commands behind the page: corpus, training, fusing, scoring, detection, evolution, this report."""
    lines = [run.command for run in runs]
    if scores is not None:
        corpus = read_command(scores.source.get("corpus"), "manifest.json")
        fused = [read_command(folder, "fused.json") for folder in scores.methods.values()]
        lines = [line for line in (corpus, *lines, *fused, scores.command) if line is not None]
    lines += [line for folder in args.detect if (line := read_command(folder, "detect.json"))]
    for folder in args.evolution:
        number = 1  # every evolution had a command of its own
        while line := read_command(storage.join(folder, "evolutions", str(number), "training"), "run.json"):
            lines.append(line)
            number += 1
    lines += [line for folder in args.variants if (line := read_command(folder, "variants.json"))]
    return [*lines, shlex.join(["duskfuse", "report", *command])]


def problem_notes(scores: Scores) -> list[str]:
    """Return what could not be scored, by name, up to MAX_NOTES of them."""
    import pandas as pd

    if not scores.num_problems:
        return []
    path = storage.join(scores.folder, "problems.csv")
    table = pd.read_csv(io.BytesIO(storage.read_bytes(path)), keep_default_na=False)
    lines = [f"{row.method or 'pair'} {row.image}: {row.problem}" for row in table.head(MAX_NOTES).itertuples()]
    left = len(table) - len(lines)
    return lines + ([f"and {left} more, in {path}"] if left > 0 else [])
