"""duskfuse corpus: pairs x degradations -> Parquet shards, and a manifest when all are there.

duskfuse corpus --pairs DIR|s3://...|scenes:COUNT --preset demmi-rf --out DIR|s3://...
duskfuse corpus verify DIR|s3://...
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from fusion import storage
from fusion.config import fingerprint, to_dict
from fusion.data.corpus import Manifest, checksum, open_corpus, write_manifest
from fusion.data.corpus import verify as check
from fusion.data.finding import PairList, Rejected
from fusion.data.pairs import find_pairs
from fusion.data.quotas import ANY, compare_with_quota, find_data_sets
from fusion.data.shards import CorpusConfig, ShardPlan, ShardRecord, build_shard, library_versions, plan_shards
from fusion.data.splits import FILE
from fusion.degrade import GREY_VERSION
from fusion.errors import UserError
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.corpus.options import Args, VerifyArgs
from workflows.outputs import Lease, claim_output, require_visible
from workflows.provenance import provenance
from workflows.splits import check_splits_file, split_pairs


def verify(corpus: str) -> None:
    """Check every shard of a corpus against its manifest. UserError names what is damaged."""
    manifest = open_corpus(corpus)
    damaged = check(manifest)
    for line in damaged:
        log_progress(line)
    if damaged:
        raise UserError(f"{len(damaged)} of {len(manifest.shards())} shards are damaged. Delete them and build again.")
    print(f"{corpus}: {len(manifest.shards())} shards, {manifest.rows()} samples, all as the manifest says")


@dataclass(frozen=True)
class ShardTask:
    """A shard to be built below `root`."""

    plan: ShardPlan
    root: str


def build(task: ShardTask) -> list[ShardRecord]:
    """Build one shard, in a Ray task."""
    return [build_shard(task.plan, task.root)]


def run(args: Args | VerifyArgs, command: list[str]) -> None:
    """Build a corpus, or verify one."""
    if isinstance(args, VerifyArgs):
        verify(args.corpus)
    else:
        build_corpus(args, command)


def build_corpus(args: Args, command: list[str]) -> None:
    """Claim the folder, split, plan, build what is missing, write the manifest."""
    if not 0 <= args.max_rejected_fraction <= 1:
        raise UserError(f"--max-rejected-fraction is {args.max_rejected_fraction}; it is a fraction, 0 to 1")
    shared = {name: value for name, value in asdict(args).items() if name not in ("out", "max_rejected_fraction")}
    config = CorpusConfig(**shared)
    found = find_pairs(args.pairs)
    frozen = check_splits_file(args.splits, found.refs)
    log_progress(f"{args.pairs}: {len(found.refs)} pairs ({found.layout}), {len(found.rejected)} rejected")
    data_sets = find_data_sets((ref.source for ref in found.refs), args.preset, args.data_sets)
    for source, name in data_sets.items():
        log_progress(f"source {source}: {name or 'none of the data sets of DeMMI-RF'}")

    inputs = fingerprint([[asdict(ref) for ref in found.refs], frozen, library_versions()])
    plan = {"inputs": inputs, "config": to_dict(config)}
    claim_output(args.out, "plan.json", plan, "corpus")
    if (manifest := finished(args.out, inputs)) is not None:
        print(f"{args.out} is complete: {manifest.rows()} samples in {len(manifest.shards())} shards")
        return
    check_rejected(found.rejected, len(found.refs) + len(found.rejected), args.max_rejected_fraction)
    with Lease(args.out) as lease:
        claim_output(args.out, "plan.json", plan, "corpus")  # another one may have claimed it in the same moment
        refs = split_pairs(found.refs, args, args.out)
        plans = plan_shards(refs, config)
        built = build_all(plans, found, args, lease)
        about = {
            "config": to_dict(config),
            "inputs": inputs,
            "grey_version": GREY_VERSION,
            "provenance": provenance(["corpus", *command]),
            "pairs": {
                "found": len(found.refs) + len(found.rejected),
                "used": sum(record.pairs for record in built.records),
            },
            "splits": {"file": FILE, "sha256": checksum(storage.read_bytes(storage.join(args.out, FILE)))},
            "counts": count_samples(built.records),
            "boxes": sum(record.boxes for record in built.records),
            "rejected": [asdict(item) for item in sorted(built.rejected, key=lambda item: (item.key, item.reason))],
            "shards": [asdict(record.info) for record in built.records],
        }
        manifest = write_visible_manifest(args.out, about)
    print_summary(manifest, built.seconds, data_sets)
    print(f"{args.out}: {manifest.rows()} samples in {len(manifest.shards())} shards, content {manifest.content[:12]}")


@dataclass(frozen=True)
class BuiltShards:
    """The records of all shards in order, all rejected pairs, and the seconds that building took."""

    records: list[ShardRecord]
    rejected: list[Rejected]
    seconds: float


def build_all(plans: Sequence[ShardPlan], pairs: PairList, args: Args, lease: Lease) -> BuiltShards:
    """Build the shards that are missing. UserError when too many pairs are rejected, or all."""
    connect()
    total = len(pairs.refs) + len(pairs.rejected)
    root = storage.absolute(args.out)  # tasks may run in another folder
    tasks = [ShardTask(plan, root) for plan in plans]
    rejected = list(pairs.rejected)
    records: list[ShardRecord] = []
    start = time.perf_counter()
    with tqdm(total=sum(plan.samples for plan in plans), unit="sample", desc="corpus", mininterval=1) as bar:
        planned = {plan.name: plan.samples for plan in plans}
        for record in in_parallel(tasks, build):
            lease.check()
            records.append(record)
            rejected += record.rejected
            bar.update(planned[record.name])
            check_rejected(rejected, total, args.max_rejected_fraction)
    records.sort(key=lambda record: record.name)
    if not sum(record.pairs for record in records):
        first = rejected[0].reason if rejected else "nothing was planned"
        raise UserError(f"no pair of {args.pairs} could be used; first reason: {first}")
    return BuiltShards(records, rejected, time.perf_counter() - start)


def write_visible_manifest(out: str, data: dict[str, Any]) -> Manifest:
    """Write the manifest. UserError when a shard cannot be seen from here."""
    require_visible(out, Manifest(out, data).missing(), "shards")
    return write_manifest(out, data)


def finished(out: str, inputs: str) -> Manifest | None:
    """Return the manifest of a complete corpus, else None: the same command builds what is gone again."""
    try:
        manifest = open_corpus(out)
    except storage.StoreError:
        raise
    except UserError:
        return None
    return manifest if manifest.data.get("inputs") == inputs and not manifest.missing() else None


def check_rejected(rejected: Sequence[Rejected], total: int, max_fraction: float) -> None:
    """Raise UserError when more than this fraction of the pairs is rejected."""
    if len(rejected) > max_fraction * total:
        shown = "; ".join(f"{item.key}: {item.reason}" for item in rejected[:3])
        raise UserError(
            f"{len(rejected)} of {total} pairs rejected, more than --max-rejected-fraction {max_fraction:g} ({shown}). "
            "Put them right, or allow a larger fraction."
        )


def count_samples(records: Sequence[ShardRecord]) -> list[dict[str, Any]]:
    """Count the samples by split, source, degradation and level: rows of the manifest."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for record in records:
        for source, degradation, level, number in record.counts:
            counts[record.split, source, degradation, level] += number
    names = ("split", "source", "degradation", "level")
    return [dict(zip(names, values, strict=True)) | {"samples": number} for values, number in counts.items()]


def print_summary(manifest: Manifest, seconds: float, data_sets: Mapping[str, str]) -> None:
    """Print what is in the corpus, how far from the preset's numbers, and how fast it was built.

    data_sets: source -> data set, see `find_data_sets`.
    """
    data = manifest.data
    log_progress(f"{'split':6} {'source':16} {'degradation':28} {'level':8} {'samples':>8}")
    for row in data["counts"]:
        log_progress(f"{row['split']:6} {row['source']:16} {row['degradation']:28} {row['level']:8} {row['samples']:8}")
    made: Counter[tuple[str, str, str]] = Counter()
    for row in data["counts"]:
        parts = zip(row["degradation"].split("+"), row["level"].split("+"), strict=True)
        made[row["split"], "+".join(map("".join, parts)), row["source"]] += row["samples"]
    for quota in compare_with_quota(data["config"]["preset"], made, data_sets):
        share = quota.made / quota.wanted
        name = "" if quota.data_set == ANY else f"of {quota.data_set}"
        log_progress(
            f"{quota.split:6} {quota.degradation:30} {name:15} {quota.made:6} of the paper's {quota.wanted:6} "
            f"({share:.0%})"
        )
    samples = sum(row["samples"] for row in data["counts"])
    size = sum(shard["bytes"] for shard in data["shards"])
    pace = f"; {samples / seconds:.1f} samples/s" if seconds > 1 else ""
    boxes = f", {data['boxes']} boxes in samples" if data["boxes"] else ""
    log_progress(f"{data['pairs']['used']} pairs used, {len(data['rejected'])} rejected{boxes}")
    log_progress(f"{samples} samples, {size / 1e6:.1f} MB{pace}")
