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
    """demmi-rf, grid, combinations, or a list such as noise2,haze2+noise3,clean."""
    seed: int = 0
    """Of every random draw, and of the split."""
    val_share: float = 0.1
    """Share of the training pairs used for validation, where the folders have no val split."""
    test_share: float = 0.2
    """Share of the pairs kept for testing, where the folders have no test split."""
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

    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("give one corpus: duskfuse corpus verify DIR")
    manifest = open_corpus(arguments[0])
    damaged = check(manifest)
    for line in damaged:
        say(line)
    if damaged:
        raise UserError(f"{len(damaged)} of {len(manifest.shards())} shards are damaged. Delete them and build again.")
    print(f"{arguments[0]}: {len(manifest.shards())} shards, {manifest.rows()} samples, all as the manifest says")


def build(row: dict) -> list[dict]:
    """One shard, in a Ray task."""
    from fusion.config import from_dict
    from fusion.plan import ShardPlan, build_shard

    return [build_shard(from_dict(ShardPlan, row["plan"]), row["root"])]


def run(args: Args, command: list[str]) -> None:
    """Plan, build what is missing, write the manifest."""
    from tqdm import tqdm

    from fusion import storage
    from fusion.config import fingerprint, to_dict
    from fusion.corpus import Manifest, write_manifest
    from fusion.pairs import find_pairs
    from fusion.plan import CorpusConfig, assign_splits, plan_shards, row_group
    from workflows.folders import check_seen, claim
    from workflows.stamps import stamp

    if not 0 <= args.max_rejected <= 1:
        raise UserError(f"--max-rejected is {args.max_rejected}; it is a share, 0 to 1")
    shared = {name: value for name, value in asdict(args).items() if name not in ("out", "max_rejected")}
    config = CorpusConfig(**shared)
    found = find_pairs(args.pairs)
    total = len(found.refs) + len(found.rejected)
    plans = plan_shards(assign_splits(found.refs, config), config)
    say(f"{args.pairs}: {len(found.refs)} pairs ({found.layout}), {len(found.rejected)} rejected; {len(plans)} shards")

    whole = fingerprint([plan.fingerprint for plan in plans])
    claim(args.out, "plan.json", {"fingerprint": whole, "config": to_dict(config)}, "corpus")
    if (manifest := finished(args.out)) is not None:
        print(f"{args.out} is complete: {manifest.rows()} samples in {len(manifest.shards())} shards")
        return

    rejected = [asdict(item) for item in found.rejected]
    check_rejected(rejected, total, args.max_rejected)
    connect()
    root = storage.absolute(args.out)  # tasks may run in another folder
    rows = [{"plan": to_dict(plan), "root": root} for plan in plans]
    records = []
    with tqdm(total=sum(len(plan.refs) for plan in plans), unit="pair", desc="corpus", mininterval=1) as bar:
        for record in in_parallel(rows, build):
            records.append(record)
            rejected += record["rejected"]
            bar.update(record["pairs"] + len(record["rejected"]))
            check_rejected(rejected, total, args.max_rejected)
    records.sort(key=lambda record: record["name"])
    data = {
        "config": to_dict(config),
        "stamp": stamp(["corpus", *command]),
        "pairs": {"found": total, "used": sum(record["pairs"] for record in records)},
        "row_group": row_group(plans[0].degradations),
        "counts": count(records),
        "rejected": sorted(rejected, key=lambda item: item["key"]),
        "shards": [{k: record[k] for k in ("name", "split", "rows", "bytes", "sha256")} for record in records],
    }
    if not data["pairs"]["used"]:
        raise UserError(f"no pair of {args.pairs} could be used; first reason: {rejected[0]['reason']}")
    check_seen(args.out, Manifest(args.out, data).missing(), "shards")
    manifest = write_manifest(args.out, data)
    summary(manifest.data)
    print(f"{args.out}: {manifest.rows()} samples in {len(manifest.shards())} shards, content {manifest.content[:12]}")


def finished(out: str):
    """The manifest of a corpus that is all there, else None: the same command builds what is gone again."""
    from fusion.corpus import open_corpus

    try:
        manifest = open_corpus(out)
    except UserError:
        return None
    return None if manifest.missing() else manifest


def check_rejected(rejected: list[dict], total: int, most: float) -> None:
    if len(rejected) > most * total:
        shown = "; ".join(f"{item['key']}: {item['reason']}" for item in rejected[:3])
        raise UserError(
            f"{len(rejected)} of {total} pairs rejected, more than --max-rejected {most:g} ({shown}). "
            "Put them right, or allow a larger share."
        )


def count(records: list[dict]) -> list[dict]:
    """Samples by split, degradation and level."""
    counts: Counter = Counter()
    for record in records:
        for degradation, level, number in record["counts"]:
            counts[record["split"], degradation, level] += number
    return [
        {"split": split, "degradation": degradation, "level": level, "samples": number}
        for (split, degradation, level), number in counts.items()
    ]


def summary(data: dict) -> None:
    say(f"{'split':6} {'degradation':28} {'level':8} {'samples':>8}")
    for row in data["counts"]:
        say(f"{row['split']:6} {row['degradation']:28} {row['level']:8} {row['samples']:8}")
    say(f"rejected {len(data['rejected'])}; {sum(shard['bytes'] for shard in data['shards']) / 1e6:.1f} MB")


if __name__ == "__main__":
    import sys

    from workflows.cli import main as cli

    sys.exit(cli(["corpus", *sys.argv[1:]]))  # by name, so that Ray's tasks find `build` in an importable module
