"""duskfuse corpus: pairs x degradations -> Parquet shards, and a manifest when all are there.

duskfuse corpus --pairs DIR|s3://...|scenes:COUNT --preset demmi-rf --out DIR|s3://...
duskfuse corpus verify DIR|s3://...
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from fusion.errors import UserError
from workflows.cluster import connect, in_parallel, say


@dataclass(frozen=True)
class Args:
    pairs: str
    """Folder of pairs, s3://bucket/path, or scenes:COUNT[:WIDTHxHEIGHT[:SEED]] for built-in scenes."""
    out: str
    """Where the corpus goes: a folder or s3://bucket/path. The same command goes on where it was stopped."""
    preset: str = "demmi-rf"
    """demmi-rf, demmi-rf-counts (the paper's numbers), grid, combinations, or a list: noise2,haze2+noise3."""
    seed: int = 0
    """Of every random draw, and of the split."""
    val_share: float = 0.1
    """Share of the training pairs used for validation, where the folders have no val split."""
    test_share: float = 0.2
    """Share of the pairs kept for testing, where the folders have no test split."""
    sequences: bool = True
    """Keep near-duplicate pairs, such as neighbouring frames of a video, in one split (looks at every pair once)."""
    splits: str = ""
    """A frozen split file, such as the splits.csv of another corpus, instead of drawing."""
    max_rejected: float = 0.01
    """Stop when more than this share of the pairs cannot be used."""
    shard_samples: int = 64
    shard_megabytes: int = 128


def main(arguments: list[str]) -> None:
    from workflows.cli import parse

    if arguments[:1] == ["verify"]:
        verify(arguments[1:])
        return
    run(parse(Args, "corpus", arguments), arguments)


def verify(arguments: list[str]) -> None:
    """Check every shard of a corpus against its manifest; UserError names what is damaged."""
    from fusion.corpus import open_corpus
    from fusion.corpus import verify as check

    if arguments in (["-h"], ["--help"]):
        print("usage: duskfuse corpus verify DIR|s3://...\n\n" + (verify.__doc__ or ""))
        return
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("give one corpus: duskfuse corpus verify DIR")
    manifest = open_corpus(arguments[0])
    damaged = check(manifest)
    for line in damaged:
        say(line)
    if damaged:
        raise UserError(f"{len(damaged)} of {len(manifest.shards())} shards are damaged. Delete them and build again.")
    print(f"{arguments[0]}: {len(manifest.shards())} shards, {manifest.rows()} samples, all as the manifest says")


SHARD_FIELDS = ("name", "split", "rows", "groups", "bytes", "sha256")


def build(row: dict) -> list[dict]:
    """One shard, in a Ray task."""
    from fusion.config import from_dict
    from fusion.plan import ShardPlan, build_shard

    return [build_shard(from_dict(ShardPlan, row["plan"]), row["root"])]


def run(args: Args, command: list[str]) -> None:
    """Claim the folder, split, plan, build what is missing, write the manifest."""
    from fusion import storage
    from fusion.config import fingerprint, to_dict
    from fusion.corpus import checksum
    from fusion.pairs import find_pairs
    from fusion.plan import CorpusConfig, plan_shards, versions
    from fusion.splits import FILE
    from workflows.folders import Lease, claim
    from workflows.splits import checked_splits, split_pairs
    from workflows.stamps import stamp

    if not 0 <= args.max_rejected <= 1:
        raise UserError(f"--max-rejected is {args.max_rejected}; it is a share, 0 to 1")
    shared = {name: value for name, value in asdict(args).items() if name not in ("out", "max_rejected")}
    config = CorpusConfig(**shared)
    found = find_pairs(args.pairs)
    frozen = checked_splits(args.splits, found.refs)
    say(f"{args.pairs}: {len(found.refs)} pairs ({found.layout}), {len(found.rejected)} rejected")

    inputs = fingerprint([[asdict(ref) for ref in found.refs], frozen, versions()])
    plan = {"inputs": inputs, "config": to_dict(config)}
    claim(args.out, "plan.json", plan, "corpus")
    if (manifest := finished(args.out, inputs)) is not None:
        print(f"{args.out} is complete: {manifest.rows()} samples in {len(manifest.shards())} shards")
        return
    check_rejected([asdict(item) for item in found.rejected], len(found.refs) + len(found.rejected), args.max_rejected)
    with Lease(args.out) as lease:
        claim(args.out, "plan.json", plan, "corpus")  # another one may have claimed it in the same moment
        refs = split_pairs(found.refs, config, args.out)
        plans = plan_shards(refs, config)
        records, rejected, seconds = build_all(plans, found, args, lease)
        about = {
            "config": to_dict(config),
            "inputs": inputs,
            "stamp": stamp(["corpus", *command]),
            "pairs": {"found": len(found.refs) + len(found.rejected), "used": sum(r["pairs"] for r in records)},
            "splits": {"file": FILE, "sha256": checksum(storage.read_bytes(storage.join(args.out, FILE)))},
            "counts": count(records),
            "boxes": sum(record["boxes"] for record in records),
            "rejected": sorted(rejected, key=lambda item: (item["key"], item["reason"])),
            "shards": [{k: record[k] for k in SHARD_FIELDS} for record in records],
        }
        manifest = finish(args, about)
    summary(manifest.data, seconds)
    print(f"{args.out}: {manifest.rows()} samples in {len(manifest.shards())} shards, content {manifest.content[:12]}")


def build_all(plans, found, args: Args, lease) -> tuple[list[dict], list[dict], float]:
    """Build what is missing. The records of all shards in order, all rejected pairs, and the seconds it took."""
    import time

    from tqdm import tqdm

    from fusion import storage
    from fusion.config import to_dict

    connect()
    total = len(found.refs) + len(found.rejected)
    root = storage.absolute(args.out)  # tasks may run in another folder
    rows = [{"plan": to_dict(plan), "root": root} for plan in plans]
    rejected = [asdict(item) for item in found.rejected]
    records = []
    start = time.perf_counter()
    with tqdm(total=sum(plan.samples for plan in plans), unit="sample", desc="corpus", mininterval=1) as bar:
        planned = {plan.name: plan.samples for plan in plans}
        for record in in_parallel(rows, build):
            lease.check()
            records.append(record)
            rejected += record["rejected"]
            bar.update(planned[record["name"]])
            check_rejected(rejected, total, args.max_rejected)
    records.sort(key=lambda record: record["name"])
    if not sum(record["pairs"] for record in records):
        first = rejected[0]["reason"] if rejected else "nothing was planned"
        raise UserError(f"no pair of {args.pairs} could be used; first reason: {first}")
    return records, rejected, time.perf_counter() - start


def finish(args: Args, data: dict):
    """Look whether every shard can be seen from here, then write the manifest."""
    from fusion.corpus import Manifest, write_manifest
    from workflows.folders import check_seen

    check_seen(args.out, Manifest(args.out, data).missing(), "shards")
    return write_manifest(args.out, data)


def finished(out: str, inputs: str):
    """The manifest of a corpus that is all there, else None: the same command builds what is gone again."""
    from fusion import storage
    from fusion.corpus import open_corpus

    try:
        manifest = open_corpus(out)
    except storage.StoreError:
        raise
    except UserError:
        return None
    return manifest if manifest.data.get("inputs") == inputs and not manifest.missing() else None


def check_rejected(rejected: list[dict], total: int, most: float) -> None:
    if len(rejected) > most * total:
        shown = "; ".join(f"{item['key']}: {item['reason']}" for item in rejected[:3])
        raise UserError(
            f"{len(rejected)} of {total} pairs rejected, more than --max-rejected {most:g} ({shown}). "
            "Put them right, or allow a larger share."
        )


def count(records: list[dict]) -> list[dict]:
    """Samples by split, source, degradation and level."""
    counts: Counter = Counter()
    for record in records:
        for source, degradation, level, number in record["counts"]:
            counts[record["split"], source, degradation, level] += number
    names = ("split", "source", "degradation", "level")
    return [dict(zip(names, what, strict=True)) | {"samples": number} for what, number in counts.items()]


def summary(data: dict, seconds: float) -> None:
    """What is in the corpus, how far from the preset's numbers, and how fast it was built."""
    from fusion.quotas import against_quota

    say(f"{'split':6} {'source':16} {'degradation':28} {'level':8} {'samples':>8}")
    for row in data["counts"]:
        say(f"{row['split']:6} {row['source']:16} {row['degradation']:28} {row['level']:8} {row['samples']:8}")
    made: Counter = Counter()
    for row in data["counts"]:
        made[row["split"], row["degradation"] + row["level"]] += row["samples"]
    for row in against_quota(data["config"]["preset"], made):
        share = row["made"] / row["wanted"]
        say(f"{row['split']:6} {row['degradation']:12} {row['made']:6} of the paper's {row['wanted']:6} ({share:.0%})")
    samples = sum(row["samples"] for row in data["counts"])
    size = sum(shard["bytes"] for shard in data["shards"])
    pace = f"; {samples / seconds:.1f} samples/s" if seconds > 1 else ""
    boxes = f", {data['boxes']} boxes in samples" if data["boxes"] else ""
    say(f"{data['pairs']['used']} pairs used, {len(data['rejected'])} rejected{boxes}")
    say(f"{samples} samples, {size / 1e6:.1f} MB{pace}")


if __name__ == "__main__":
    import sys

    from workflows.cli import main as cli

    sys.exit(cli(["corpus", *sys.argv[1:]]))  # by name, so that Ray's tasks find `build` in an importable module
