"""duskfuse report: scores, plots, pictures and training curves in one self-contained HTML page.

duskfuse report --scores DIR --out report.html [--run RUN ...] [--detect DIR ...] [--evolution DIR ...]
                [--search DIR ...]
"""

from __future__ import annotations

import io
import json
import shlex

from fusion import storage
from fusion.errors import UserError
from fusion.metrics import METRICS
from fusion.report.gallery import GalleryRow
from fusion.report.html import render
from fusion.report.tables import degradation_order, level_order
from workflows.inputs import items, open_source, read_fused_image
from workflows.legacy import upgrade_result, upgrade_score
from workflows.provenance import provenance
from workflows.report.options import Args
from workflows.report.search import search_section
from workflows.report.sections import curves, detection_section, evolution_section, experts_section

CAPTIONS = ("qabf", "vif", "psnr")  # numbers under a fused picture


def run(args: Args, command: list[str]) -> None:
    import pandas as pd

    if args.scores is None and not (args.detect or args.evolution or args.search):
        raise UserError("give --scores, --detect, --evolution or --search, one or more: what the report is of.")
    runs = {name: read_run(name) for name in args.run}
    sections = [detection_section(folder, number) for number, folder in enumerate(args.detect, 1)]
    sections += [evolution_section(folder, number) for number, folder in enumerate(args.evolution, 1)]
    sections += [search_section(folder, number) for number, folder in enumerate(args.search, 1)]
    made = provenance(["report", *command])
    if args.scores is None:
        about, table = None, pd.DataFrame(columns=["method", "image", "degradation", "level", "metric", "value"])
        facts, told, rows = {}, [], []
    else:
        about, table = read_scores(args.scores)
        chosen = find_items(about, choose(table, args.num_images))
        rows = gallery(about, table, chosen)
        experts = experts_section(about["methods"], runs, chosen)
        sections = [*sections, experts] if experts else sections
        facts, told = scoring_facts(about), notes(args.scores, about)
    page = render(
        title=args.title,
        scores=table,
        gallery=rows,
        provenance=facts | origin(runs, made),
        commands=commands(about, runs, args, command),
        training=curves((run["settings"]["recipe"]["name"], run["history"]) for run in runs.values()),
        notes=told,
        dialect=about["dialect"] if about else "standard",
        sections=sections,
    )
    storage.write_text(args.out, page)
    print(f"report: {args.out}")


def read_scores(folder: str):
    """(score.json, the long table). UserError: no finished scores."""
    import pandas as pd

    try:
        about = upgrade_score(json.loads(storage.read_bytes(storage.join(folder, "score.json"))))
        return about, pd.read_parquet(io.BytesIO(storage.read_bytes(storage.join(folder, "per_image.parquet"))))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no finished scores. Give the --out folder of `duskfuse score`.") from error
    except (ValueError, OSError) as error:
        raise UserError(f"the scores in {folder} cannot be read ({error}). Run `duskfuse score` again.") from error


def read_run(folder: str) -> dict:

    try:
        return upgrade_result(json.loads(storage.read_bytes(storage.join(folder, "run.json"))))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{folder} is no finished training run (run.json). Give what `duskfuse train` wrote."
        ) from error


def gallery(about: dict, table, chosen: list) -> list:
    """Rows of pictures, one for each of the chosen items."""

    rows = []
    for item in chosen:
        title = item.key if not item.degradation else f"{item.key} · {item.degradation} · level {item.level}"
        images = {"visible": item.visible, "infrared": item.infrared}
        degraded = {name: getattr(item, f"degraded_{name}") for name in ("visible", "infrared")}
        changed = {name: image for name, image in degraded.items() if (image != images[name]).any()}
        for name, image in changed.items():  # one column when one modality is degraded, so that the columns line up
            images["degraded" if len(changed) == 1 else f"degraded {name}"] = image
        values: dict[str, dict[str, float]] = {}
        for method, folder in about["methods"].items():
            try:
                images[method] = read_fused_image(folder, item)
            except UserError:
                continue
            values[method] = numbers(table, method, item)
        rows.append(GalleryRow(title, images, values=values))
    return rows


def choose(table, count: int) -> list[tuple[str, str, str]]:
    """(image, degradation, level): each condition once, then again, walking through the images."""

    conditions = sorted(
        set(zip(table["degradation"], table["level"], strict=True)),
        key=lambda what: (degradation_order(what[0]), level_order(what[1])),
    )
    images = {what: sorted(set(rows["image"])) for what, rows in table.groupby(["degradation", "level"])}
    longest = max(len(names) for names in images.values())
    chosen: dict[tuple[str, str, str], None] = {}
    for turn in range(longest):
        for i, what in enumerate(conditions):
            names = images[what]
            if turn < len(names) and len(chosen) < count:
                chosen[names[(turn + i) % len(names)], *what] = None
    return sorted(chosen, key=lambda w: (degradation_order(w[1]), level_order(w[2]), w[0]))


def find_items(about: dict, wanted: list[tuple[str, str, str]]) -> list:
    """The chosen images, read from the pairs or the corpus that were scored, in the order wanted."""

    source = about["source"]
    opened = open_source(source.get("pairs"), source.get("corpus"), source.get("split", "test"))
    if opened.about.get("content_sha256") != source.get("content_sha256"):
        raise UserError(f"{source['corpus']} is not the corpus that was scored. Score again, or put the old one back.")
    keys = {key for key, _, _ in wanted}
    found = {}
    for unit in opened.units:
        if len(found) == len(wanted):
            break
        refs = unit.get("refs")
        if refs is not None and not any(ref["key"] in keys for ref in refs):
            continue
        for item in items(unit):
            if not isinstance(item, tuple):
                what = (item.key, item.degradation or "clean", item.level or "0")
                if what in wanted:
                    found[what] = item
    return [found[what] for what in wanted if what in found]


def numbers(table, method: str, item) -> dict[str, float]:
    """The caption numbers of one fused picture."""

    mine = table[
        (table["method"] == method)
        & (table["image"] == item.key)
        & (table["degradation"] == (item.degradation or "clean"))
        & (table["level"] == (item.level or "0"))
    ].set_index("metric")["value"]
    return {METRICS[name].label: float(mine[name]) for name in CAPTIONS if name in mine}


def scoring_facts(about: dict) -> dict[str, str]:
    """What was scored, against what."""
    facts = {"scored against": f"the {about['reference']} pair, {about['scored']}", "dialect": about["dialect"]}
    if "niqe" in about:
        facts["NIQE against"] = about["niqe"]
    source = about["source"]
    if "corpus" in source:
        facts["corpus"] = f"{source['corpus']}, split {source['split']}, content sha256 {source['content_sha256']}"
        facts["corpus settings"] = json.dumps(source["config"])
    else:
        facts["pairs"] = str(source["pairs"])
    return facts | {f"methods: {name}": folder for name, folder in about["methods"].items()}


def origin(runs: dict[str, dict], made: dict) -> dict[str, str]:
    """The recipes of the runs, and what made the page."""
    facts = {f"run: {name}": json.dumps(run["settings"]["recipe"]) for name, run in runs.items()}
    facts["source revision"] = str(made["revision"])
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return facts


def commands(about: dict | None, runs: dict[str, dict], args: Args, command: list[str]) -> list[str]:
    """The commands behind the page, in order: corpus, training, fusing, scoring, detection, evolution, this report."""

    def of(place: str | None, name: str) -> list[str]:
        try:
            return [upgrade_result(json.loads(storage.read_bytes(storage.join(place, name))))["provenance"]["command"]]
        except (AttributeError, OSError, ValueError, KeyError):
            return []  # a folder of somebody else's results has no command of ours

    made = [run["provenance"]["command"] for run in runs.values()]
    if about is not None:
        made = of(about["source"].get("corpus"), "manifest.json") + made
        made += [line for folder in about["methods"].values() for line in of(folder, "fused.json")]
        made.append(about["provenance"]["command"])
    made += [line for folder in args.detect for line in of(folder, "detect.json")]
    for folder in args.evolution:
        number = 1  # every evolution had a command of its own
        while lines := of(storage.join(folder, "evolutions", str(number), "training"), "run.json"):
            made += lines
            number += 1
    return [*made, shlex.join(["duskfuse", "report", *command])]


def notes(scores: str, about: dict) -> list[str]:
    """What could not be scored, by name."""
    import pandas as pd

    if not about["problems"]:
        return []
    table = pd.read_csv(io.BytesIO(storage.read_bytes(storage.join(scores, "problems.csv"))), keep_default_na=False)
    lines = [f"{row.method or 'pair'} {row.image}: {row.problem}" for row in table.head(20).itertuples()]
    left = len(table) - len(lines)
    return lines + ([f"and {left} more, in {storage.join(scores, 'problems.csv')}"] if left > 0 else [])
