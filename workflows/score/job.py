"""duskfuse score: fusion metrics of any folders of fused images, per image, degradation and level.

    duskfuse score --fused NAME=DIR [--fused NAME=DIR ...] --pairs DIR --out DIR
    duskfuse score --fused NAME=DIR ... --corpus DIR --out DIR

Images are found as DIR/KEY.* for pairs, DIR/DEGRADATION/LEVEL/KEY.* for a corpus. Scores are taken against the clean
pair, in the `standard` dialect on 8-bit luma; --dialect says whose published numbers they shall stand beside.
OUT/per_image.csv (and .parquet) has one row a number, OUT/summary.csv means with counts,
OUT/problems.csv what could not be scored; OUT/score.json is written last.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from fusion import storage
from fusion.data.finding import Rejected
from fusion.errors import UserError
from fusion.metrics import METRICS, Compute, choose, e2, niqe, score
from fusion.metrics.dialects import DIALECTS
from fusion.metrics.triplet import to_batch
from fusion.report.tables import summarise
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.inputs import (
    Item,
    Problem,
    Source,
    Unit,
    check_size,
    open_source,
    parse_named_dirs,
    read_fused_image,
    read_items,
)
from workflows.outputs import completing, require_own_output
from workflows.provenance import provenance
from workflows.score.options import Args

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scoring:
    """What is computed of every image.

    Args:
        methods: Name -> folder of its fused images.
        metrics: Names of METRICS.
        dialect: Conventions of the numbers.
        reference: "clean" or "degraded": the pair that the fused image is compared with.
        niqe_model: A pristine model for NIQE; "": the one that comes with the program.
    """

    methods: dict[str, str]
    metrics: tuple[str, ...]
    dialect: str
    reference: str
    niqe_model: str


@dataclass(frozen=True)
class ScoreTask:
    """One unit of work of a scoring."""

    scoring: Scoring
    unit: Unit


@dataclass(frozen=True)
class Score:
    """A number of one fused image: a row of per_image.csv."""

    method: str
    image: str
    degradation: str
    level: str
    metric: str
    value: float


@dataclass(frozen=True)
class UnitScores:
    """What came of one unit of work."""

    scores: list[Score]
    problems: list[Problem]
    num_images: int


def run(args: Args, command: list[str]) -> None:
    """Score folders of fused images."""
    scoring = validate(args)
    source = open_source(args.pairs, args.corpus, args.split or "test")
    require_own_output(args.out, "per_image.csv", "scores")
    with completing(args.out, "score.json") as complete:
        connect()
        scores, problems = score_all(scoring, source)
        check_every_method(scoring, scores, problems)
        table = write_results(args.out, scoring, scores, problems)
        niqe_model = niqe.name_of_model(niqe.load_pristine(args.niqe_model) if args.niqe_model else None)
        complete(
            {
                "provenance": provenance(["score", *command]),
                "dialect": scoring.dialect,
                "scored": DIALECTS[scoring.dialect].scored,
                **({"niqe": niqe_model} if {"niqe", "e2"} & set(scoring.metrics) else {}),
                "source": source.description,
                "reference": scoring.reference,
                "methods": scoring.methods,
                "problems": len(problems),
            }
        )
    print_means(summarise(table), scoring)
    for item in problems[:5]:
        log_progress(f"problem: {item.method} {item.image}: {item.problem}")
    more = f"; {len(problems)} problems, see problems.csv" if problems else ""
    images = len(table.drop_duplicates(["image", "degradation", "level"]))
    print(f"{args.out}: {len(scoring.metrics)} metrics of {images} images by {len(scoring.methods)} methods{more}")


def validate(args: Args) -> Scoring:
    """Check the options. UserError: an unknown name, options that do not go together, no such folder or model."""
    if args.reference not in ("clean", "degraded"):
        raise UserError(f"--reference is {args.reference!r}; it must be clean or degraded")
    wanted = [name.strip().lower() for name in args.metrics.split(",") if name.strip()]
    if wanted == ["all"]:
        wanted = [name for name, metric in METRICS.items() if args.dialect in metric.dialects]
    names = choose(list(dict.fromkeys(wanted)) or None, args.dialect)
    if args.niqe_model:
        niqe.load_pristine(args.niqe_model)
    if args.reference == "degraded" and args.corpus is None:
        raise UserError("--reference degraded needs --corpus: pairs have no degraded version.")
    if args.split is not None and args.corpus is None:
        raise UserError("--split chooses rows of a --corpus; of pairs all are scored.")
    methods = {name: storage.absolute(folder) for name, folder in parse_named_dirs(args.fused).items()}
    niqe_model = storage.absolute(args.niqe_model) if args.niqe_model else ""
    return Scoring(methods, tuple(names), args.dialect, args.reference, niqe_model)


def score_all(scoring: Scoring, source: Source) -> tuple[list[Score], list[Problem]]:
    """Score every method's images on Ray. Returns the numbers, and what could not be scored."""
    scores: list[Score] = []
    problems = [Problem("", item.key, item.reason) for item in source.rejected]
    tasks = [ScoreTask(scoring, unit) for unit in source.units]
    with tqdm(total=source.images, unit="image", desc="score", mininterval=1) as bar:
        for result in in_parallel(tasks, score_unit):
            scores += result.scores
            problems += result.problems
            bar.update(result.num_images)
    return scores, problems


def check_every_method(scoring: Scoring, scores: list[Score], problems: list[Problem]) -> None:
    """Raise UserError when no image of a method could be scored; say where methods have different numbers of them."""
    counts = Counter(score.method for score in scores)
    for name, folder in scoring.methods.items():
        if not counts[name]:
            first = next((item for item in problems if item.method in (name, "")), None)
            reason = f" ({first.image}: {first.problem})" if first else ""
            raise UserError(
                f"no image of {name} could be scored{reason}. "
                f"Check that {folder} holds the fused images of these pairs."
            )
    if len(set(counts.values())) > 1:
        log_progress(
            "the methods have different numbers of images: their means are over different sets, see problems.csv"
        )


def write_results(out: str, scoring: Scoring, scores: list[Score], problems: list[Problem]) -> pd.DataFrame:
    """Write the tables of numbers, means and problems to OUT. Returns the numbers, a row each."""
    import pandas as pd

    columns = [field.name for field in fields(Score)]
    table = pd.DataFrame([astuple(score) for score in scores], columns=columns)
    ranks = {name: {value: i for i, value in enumerate(order)}
             for name, order in (("method", scoring.methods), ("metric", scoring.metrics))}  # fmt: skip
    table = table.sort_values(
        columns[:-1], key=lambda c: c.map(ranks[c.name]) if c.name in ranks else c, ignore_index=True
    )
    names = [field.name for field in fields(Problem)]
    faults = pd.DataFrame([astuple(item) for item in problems], columns=names).sort_values(names)
    storage.write_text(storage.join(out, "per_image.csv"), table.to_csv(index=False))
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    storage.write_bytes(storage.join(out, "per_image.parquet"), buffer.getvalue())
    storage.write_text(storage.join(out, "summary.csv"), summarise(table).to_csv(index=False))
    storage.write_text(storage.join(out, "problems.csv"), faults.to_csv(index=False))
    return table


def score_unit(task: ScoreTask) -> list[UnitScores]:
    """Score every method's image of every pair in one unit of work, in a Ray task."""
    torch.set_num_threads(1)
    scoring = task.scoring
    own: dict[str, Compute] = {}
    if scoring.niqe_model:
        pristine = niqe.load_pristine(scoring.niqe_model)
        own = {"niqe": niqe.with_model(pristine), "e2": e2.with_model(pristine)}
    scores: list[Score] = []
    problems: list[Problem] = []
    num_images = 0
    for item in read_items(task.unit):
        num_images += 1
        if isinstance(item, Rejected):
            problems.append(Problem("", item.key, item.reason))
            continue
        for method, folder in scoring.methods.items():
            values, problem = score_image(item, folder, scoring, own)
            if problem:
                problems.append(Problem(method, item.name, problem))
            scores += [
                Score(method, item.key, item.degradation or "clean", item.level or "0", metric, value)
                for metric, value in values.items()
            ]
    return [UnitScores(scores, problems, num_images)]


def score_image(item: Item, folder: str, scoring: Scoring, own: Mapping[str, Compute]) -> tuple[dict[str, float], str]:
    """Return metric -> value of one fused image, and what is wrong with it ("" if nothing).

    `own`: metrics that are computed in another way than the dialect's.
    """
    try:
        fused = read_fused_image(folder, item)
        check_size(fused, item.infrared)
    except storage.StoreError:
        raise
    except UserError as error:
        return {}, str(error)
    clean = scoring.reference == "clean"
    visible = item.visible if clean else item.degraded_visible
    infrared = item.infrared if clean else item.degraded_infrared
    found = score(to_batch(fused), to_batch(visible), to_batch(infrared), scoring.metrics, scoring.dialect, own)
    values = {name: float(value[0]) for name, value in found.items()}
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    return values, ", ".join(bad)


def print_means(summary: pd.DataFrame, scoring: Scoring) -> None:
    """Print the means over all images, methods by metrics."""
    names = scoring.metrics
    whole = summary[summary["degradation"] == "all"]
    labels = " ".join(f"{METRICS[name].label:>8}" for name in names)
    log_progress(f"{'method':20} {'images':>6} {labels}   ({scoring.dialect} dialect)")
    for method, rows in whole.groupby("method", sort=False):
        means = rows.set_index("metric")["mean"]
        values = " ".join(f"{means.get(name, math.nan):8.4f}" for name in names)
        log_progress(f"{method:20} {rows['count'].max():6} {values}")
