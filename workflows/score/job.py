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
import json
import math

import torch
from tqdm import tqdm

from fusion import storage
from fusion.errors import UserError
from fusion.metrics import METRICS, choose, e2, niqe, score
from fusion.metrics.dialects import DIALECTS
from fusion.report.tables import summarise
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.inputs import items, open_source, parse_named_dirs, read_fused_image
from workflows.outputs import require_own_output
from workflows.provenance import provenance
from workflows.score.options import Args


def run(args: Args, command: list[str]) -> None:
    import pandas as pd

    if args.reference not in ("clean", "degraded"):
        raise UserError(f"--reference is {args.reference!r}; it must be clean or degraded")
    wanted = [name.strip().lower() for name in args.metrics.split(",") if name.strip()]
    if wanted == ["all"]:
        wanted = [name for name, metric in METRICS.items() if args.dialect in metric.dialects]
    names = choose(list(dict.fromkeys(wanted)) or None, args.dialect)
    niqe_model = niqe.name_of_model(niqe.load_pristine(args.niqe_model) if args.niqe_model else None)
    if args.reference == "degraded" and args.corpus is None:
        raise UserError("--reference degraded needs --corpus: pairs have no degraded version.")
    if args.split is not None and args.corpus is None:
        raise UserError("--split chooses rows of a --corpus; of pairs all are scored.")
    methods = parse_named_dirs(args.fused)
    source = open_source(args.pairs, args.corpus, args.split or "test")
    require_own_output(args.out, "per_image.csv", "scores")
    storage.remove(storage.join(args.out, "score.json"))  # from here to the end the folder is not complete
    connect()
    task = {"methods": {name: storage.absolute(folder) for name, folder in methods.items()}, "metrics": names}
    task |= {"dialect": args.dialect, "niqe_model": storage.absolute(args.niqe_model) if args.niqe_model else ""}
    rows = [task | {"reference": args.reference, "unit": unit} for unit in source.units]
    scores: list[dict] = []
    problems = [{"method": "", "image": item["key"], "problem": item["reason"]} for item in source.rejected]
    with tqdm(total=source.images, unit="image", desc="score", mininterval=1) as bar:
        for done in in_parallel(rows, score_unit):
            scores += done["scores"]
            problems += done["problems"]
            bar.update(done["images"])
    scored = {name: sum(1 for row in scores if row["method"] == name) for name in methods}
    for name, number in scored.items():
        if not number:
            first = next((item for item in problems if item["method"] in (name, "")), None)
            why = f" ({first['image']}: {first['problem']})" if first else ""
            raise UserError(
                f"no image of {name} could be scored{why}. "
                f"Check that {methods[name]} holds the fused images of these pairs."
            )
    if len(set(scored.values())) > 1:
        log_progress(
            "the methods have different numbers of images: their means are over different sets, see problems.csv"
        )

    columns = ["method", "image", "degradation", "level", "metric", "value"]
    table = pd.DataFrame(scores, columns=columns)
    order = {name: i for i, name in enumerate(methods)}
    rank = {name: i for i, name in enumerate(names)}
    keys = {"method": order, "metric": rank}
    table = table.sort_values(
        columns[:-1], key=lambda c: c.map(keys[c.name]) if c.name in keys else c, ignore_index=True
    )
    summary = summarise(table)
    faults = pd.DataFrame(problems, columns=["method", "image", "problem"]).sort_values(["method", "image", "problem"])
    storage.write_text(storage.join(args.out, "per_image.csv"), table.to_csv(index=False))
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    storage.write_bytes(storage.join(args.out, "per_image.parquet"), buffer.getvalue())
    storage.write_text(storage.join(args.out, "summary.csv"), summary.to_csv(index=False))
    storage.write_text(storage.join(args.out, "problems.csv"), faults.to_csv(index=False))
    about = {
        "provenance": provenance(["score", *command]),
        "dialect": args.dialect,
        "scored": DIALECTS[args.dialect].scored,
        **({"niqe": niqe_model} if {"niqe", "e2"} & set(names) else {}),
        "source": source.about,
        "reference": args.reference,
        "methods": {name: storage.absolute(folder) for name, folder in methods.items()},
        "problems": len(problems),
    }
    storage.write_text(storage.join(args.out, "score.json"), json.dumps(about, indent=1) + "\n")
    show(summary, names, args.dialect)
    for item in problems[:5]:
        log_progress(f"problem: {item['method']} {item['image']}: {item['problem']}")
    more = f"; {len(problems)} problems, see problems.csv" if problems else ""
    images = len(table.drop_duplicates(["image", "degradation", "level"]))
    print(f"{args.out}: {len(names)} metrics of {images} images by {len(methods)} methods{more}")


def score_unit(task: dict) -> list[dict]:
    """One unit of work in a Ray task: every method's image of every pair in it."""

    torch.set_num_threads(1)
    own = {}
    if task["niqe_model"]:
        pristine = niqe.load_pristine(task["niqe_model"])
        own = {"niqe": niqe.with_model(pristine), "e2": e2.with_model(pristine)}
    scores: list[dict] = []
    problems: list[dict] = []
    images = 0
    for item in items(task["unit"]):
        images += 1
        if isinstance(item, tuple):
            problems.append({"method": "", "image": item[0], "problem": item[1]})
            continue
        what = {"image": item.key, "degradation": item.degradation or "clean", "level": item.level or "0"}
        for method, folder in task["methods"].items():
            values, problem = score_image(item, folder, task, own)
            if problem:
                problems.append(
                    {"method": method, "image": f"{item.folder}/{item.key}".lstrip("/"), "problem": problem}
                )
            scores += [{"method": method, **what, "metric": name, "value": value} for name, value in values.items()]
    return [{"scores": scores, "problems": problems, "images": images}]


def score_image(item, folder: str, task: dict, own: dict) -> tuple[dict[str, float], str]:
    """The numbers of one fused image, and what is wrong with it ("" if nothing)."""

    try:
        fused = read_fused_image(folder, item)
    except storage.StoreError:
        raise
    except UserError as error:
        return {}, str(error)
    if fused.shape[:2] != item.infrared.shape:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (fused.shape, item.infrared.shape)]
        return {}, f"size differs: fused {sizes[0]}, pair {sizes[1]}"
    clean = task["reference"] == "clean"
    visible = item.visible if clean else item.degraded_visible
    infrared = item.infrared if clean else item.degraded_infrared
    tensors = (torch.tensor(image if image.ndim == 3 else image[..., None]) for image in (fused, visible, infrared))
    images = (tensor.permute(2, 0, 1)[None] for tensor in tensors)
    found = score(*images, names=task["metrics"], dialect=task["dialect"], instead=own)
    values = {name: float(value[0]) for name, value in found.items()}
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    return values, ", ".join(bad)


def show(summary, names: list[str], dialect: str) -> None:
    """The means over all images, methods by metrics."""

    whole = summary[summary["degradation"] == "all"]
    log_progress(
        f"{'method':20} {'images':>6} "
        + " ".join(f"{METRICS[name].label:>8}" for name in names)
        + f"   ({dialect} dialect)"
    )
    for method, rows in whole.groupby("method", sort=False):
        means = rows.set_index("metric")["mean"]
        log_progress(
            f"{method:20} {rows['count'].max():6} " + " ".join(f"{means.get(name, math.nan):8.4f}" for name in names)
        )
