"""The labelled pairs of `duskfuse detect`: what is wrong with them, which classes there are, which images train."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from tqdm import tqdm

from detection.yolo.config import YoloConfig
from fusion import storage
from fusion.data.class_names import standard_name
from fusion.data.corpus import open_corpus, read_shard
from fusion.data.finding import Rejected
from fusion.data.pairs import BadPair, find_pairs, read_pair
from fusion.data.splits import FILE, assign_splits, read_frozen_splits
from fusion.errors import UserError
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.inputs import pair_units
from workflows.splits import split_pairs

if TYPE_CHECKING:
    from workflows.detect.options import Args

SOURCES = ("visible", "infrared")


def look_at(args: Args, same: dict) -> tuple[list, list[dict], dict[str, dict]]:
    """The pairs with their splits; what is wrong with them, by file and line; class counts and split by key."""

    if args.pairs is None:
        return [], [], {}
    found = find_pairs(args.pairs)
    check_splits(args, found.refs)
    refs = split_pairs(found.refs, args.pairs, args, args.out)
    rejected = list(found.rejected)
    problems: list[dict] = []
    good: dict[str, dict] = {}
    rows = [{"refs": unit.refs, "same": same} for unit in pair_units(refs)]
    split = {ref.key: ref.split for ref in refs}
    with tqdm(total=len(refs), unit="pair", desc="labels", mininterval=1) as bar:
        for row in in_parallel(rows, census):
            bar.update(1)
            problems += [{"method": "", "image": row["key"], "problem": text} for text in row["problems"]]
            if row["read"]:
                good[row["key"]] = {"split": split[row["key"]], "boxes": row["boxes"]}
            else:
                rejected.append(Rejected(row["key"], row["problems"][0]))
    if len(rejected) > args.max_rejected_fraction * (len(refs) + len(found.rejected)):
        raise UserError(
            f"{len(rejected)} of {len(refs) + len(found.rejected)} pairs cannot be used, more than "
            f"--max-rejected-fraction {args.max_rejected_fraction:g}. {rejected[0].key}: {rejected[0].reason}"
        )
    problems += [{"method": "", "image": item.key, "problem": item.reason} for item in found.rejected]
    return refs, sorted(problems, key=lambda item: (item["image"], item["problem"])), good


def check_splits(args: Args, refs) -> None:
    """UserError when OUT keeps other splits of these pairs than the options now ask for."""

    path = storage.join(args.out, FILE)
    if not storage.exists(path):
        return
    kept, sequence = read_frozen_splits(refs, path)
    if set(sequence) != {ref.key for ref in refs}:
        return
    if args.splits:
        wanted = read_frozen_splits(refs, args.splits)[0]
    else:
        wanted = assign_splits(refs, args, sequence if args.sequences else {})
    if {ref.key: ref.split for ref in kept} != {ref.key: ref.split for ref in wanted}:
        raise UserError(
            f"{path} has other splits than these options give (--splits, --seed, --val-fraction, --test-fraction, "
            "--sequences). Give those of the first run, or choose another --out."
        )


def census(row: dict) -> list[dict]:
    """The boxes of a few pairs by class, in a Ray task."""

    results = []
    for ref in row["refs"]:
        try:
            pair = read_pair(ref)
        except BadPair as error:
            where = f"{ref.labels}: " if str(error).startswith("labels") else ""
            results.append({"key": ref.key, "read": False, "problems": [f"{where}{error}"], "boxes": {}})
            continue
        counts = Counter(standard_name(name, row["same"]) for name in pair.classes)
        problems = [f"{ref.labels}: {warning}" for warning in pair.label_warnings]
        results.append({"key": pair.key, "read": True, "problems": problems, "boxes": dict(counts)})
    return results


def class_list(args: Args, pairs: dict[str, dict], same: dict) -> tuple[str, ...]:
    """The classes to detect. UserError: none, or one without boxes to learn from or to find."""
    from fusion.data.class_names import class_list, standard_name

    counts = {"train": Counter(), "scored": Counter()}
    for pair in pairs.values():
        if pair["split"] in ("train", "val"):
            counts["train"].update(pair["boxes"])
        if args.split in ("all", pair["split"]):
            counts["scored"].update(pair["boxes"])
    wanted = tuple(dict.fromkeys(standard_name(name, same) for name in args.classes.split(",") if name.strip()))
    classes = wanted or class_list(counts["train"] or counts["scored"], same)
    if not classes:
        if args.weights is not None and args.pairs is None:
            raise UserError("give --classes, the classes to score: there are no labelled pairs to take them from.")
        raise UserError(f"{args.pairs} has no labelled box. Give pairs with labels (YOLO txt or VOC xml).")
    if args.weights is None:
        empty = [name for name in classes if not counts["train"][name]]
        if empty:
            known = ", ".join(f"{name} {count}" for name, count in sorted(counts["train"].items()))
            raise UserError(f"class {empty[0]!r} has no box in the training pairs ({known}). Change --classes.")
    if args.corpus is None:
        for name in classes:
            if not counts["scored"][name]:
                log_progress(f"class {name!r} has no box in what is scored: it has no AP, and is no part of the mean")
    return classes


def training_rows(args: Args, refs: list, methods: dict[str, str]) -> list[dict]:
    """One row for every image to train or validate on."""

    names = [name.strip() for name in args.train_on.split("+") if name.strip()]
    unknown = [name for name in names if name not in (*SOURCES, *methods)]
    if unknown or not names:
        known = ", ".join((*SOURCES, *methods))
        raise UserError(f"--train-on {args.train_on!r}: {unknown[0] if unknown else 'nothing'} is none of {known}.")
    scored: set[str] = set()
    if args.corpus is not None:  # its test pairs must not be learnt from
        for path in open_corpus(args.corpus).paths(args.split if args.split != "all" else None):
            scored.update(read_shard(path, ["key"])["key"].to_pylist())
        if not scored & {ref.key for ref in refs}:
            log_progress("no image of the corpus is one of the pairs by its name: see that none of them is learnt from")
    rows = [
        {
            "key": f"{ref.key}-{name}",
            "split": ref.split,
            "ref": asdict(ref),
            "image": name if name in SOURCES else storage.absolute(methods[name]),
        }
        for ref in refs
        for name in names
        if ref.split in ("train", "val") and ref.key not in scored
    ]
    for split in ("train", "val") if isinstance(args.recipe, YoloConfig) else ("train",):
        if not any(row["split"] == split for row in rows):
            raise UserError(f"no pair is left for {split!r}: give more labelled pairs, or another --val-fraction.")
    return rows
