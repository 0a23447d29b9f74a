"""Samples per second of the corpus job, against what the same cores can do without it, in one run.

    python benchmarks/corpus.py PAIRS [--cores 2] [--preset demmi-rf] [--rounds 3] [--copies 1]

PAIRS is a folder of pairs, or scenes:COUNT:WIDTHxHEIGHT (rendered to PNG files first, which is not timed).

(a) limit: as many processes as cores, each building whole shards in a bare loop: decode, degrade, pack, write
(b) script: a multiprocessing.Pool that writes every sample as PNG files, the usual way
(c) one: the bare loop in one process
job: `in_parallel(tasks, build)` on Ray, as `duskfuse corpus` runs it; Ray is started and has run once before

Every way starts warm (its processes have imported and run everything), and the rounds are interleaved, as machines may
be shared: the best round of each counts, and the ratio of the best.
"""

import argparse
import logging
import multiprocessing
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2

from fusion.data.pairs import find_pairs, read_pair
from fusion.data.shards import CorpusConfig, build_shard, plan_shards
from fusion.data.splits import assign_splits
from fusion.degrade import degrade, parse_degradation
from fusion.images.png import encode_png
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.corpus.job import ShardTask, build


def rendered(pairs: str, folder: Path) -> str:
    """Scenes as PNG files, so that decoding is part of the work."""
    for ref in find_pairs(pairs).refs:
        pair = read_pair(ref)
        for name, image in (("visible", pair.visible), ("infrared", pair.infrared)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{ref.key}.png").write_bytes(encode_png(image))
    return str(folder)


def one_shard(task: tuple) -> int:
    plan, root = task
    return build_shard(plan, root).rows


def png_files(task: tuple) -> int:
    """A pair and its degraded versions as PNG files."""
    cv2.setNumThreads(1)
    seed, ref, degradations, root = task
    pair = read_pair(ref)
    for text in degradations:
        what = parse_degradation(text)
        made = degrade(pair.visible, pair.infrared, what, seed=seed, key=ref.key, depth=pair.depth)
        for name, image in (("visible", made.visible[..., ::-1]), ("infrared", made.infrared)):
            folder = Path(root) / what.name / what.level / name
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{ref.key}.png"), image)
    for name, image in (("visible", pair.visible[..., ::-1]), ("infrared", pair.infrared)):
        folder = Path(root) / "clean" / name
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{ref.key}.png"), image)
    return len(degradations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--preset", default="demmi-rf")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=1, help="use the pairs so many times, under other keys")
    args = parser.parse_args()

    import ray

    connect_with(args.cores)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = rendered(args.pairs, folder / "pairs") if args.pairs.startswith("scenes:") else args.pairs
        config = CorpusConfig(pairs, args.preset)
        found = find_pairs(pairs).refs
        refs = [replace(ref, key=f"{ref.key}-{i}") for i in range(args.copies) for ref in found]
        plans = plan_shards(assign_splits(refs, config), config)
        samples = sum(plan.samples for plan in plans)
        print(f"{len(refs)} pairs, {samples} samples in {len(plans)} shards, {args.cores} cores", flush=True)

        context = multiprocessing.get_context("spawn")
        pool, single = context.Pool(args.cores), context.Pool(1)

        def limit(out: str) -> int:
            return sum(pool.imap_unordered(one_shard, [(plan, out) for plan in plans], chunksize=1))

        def one(out: str) -> int:
            return sum(single.imap_unordered(one_shard, [(plan, out) for plan in plans], chunksize=1))

        def script(out: str) -> int:
            pairs_of = ((p.seed, *pair) for p in plans for pair in zip(p.refs, p.degradations, strict=True))
            return sum(pool.imap_unordered(png_files, [(*task, out) for task in pairs_of], chunksize=1))

        def job(out: str) -> int:
            tasks = [ShardTask(plan, out) for plan in plans]
            return sum(record.rows for record in in_parallel(tasks, build))

        ways = {"job": job, "limit": limit, "script": script, "one": one}
        best = dict.fromkeys(ways, float("inf"))
        for number in range(args.rounds + 1):  # the first round warms up
            for label, work in ways.items():
                out = folder / "out"
                start = time.perf_counter()
                made = work(str(out))
                seconds = time.perf_counter() - start
                assert made == samples, (label, made)
                shutil.rmtree(out)
                if number:
                    best[label] = min(best[label], seconds)
                    print(f"  round {number} {label:7} {samples / seconds:7.1f} samples/s", flush=True)
        rate = {label: samples / seconds for label, seconds in best.items()}
        print("samples/s: " + ", ".join(f"{label} {value:.1f}" for label, value in rate.items()))
        print(
            f"the job reaches {rate['job'] / rate['limit']:.0%} of the limit, is {rate['job'] / rate['script']:.2f} "
            f"times the script and {rate['job'] / rate['one']:.2f} times one process"
        )
        pool.terminate()
        single.terminate()
    ray.shutdown()


def connect_with(cores: int) -> None:
    """A local Ray of exactly so many cores, set up as the jobs set it up."""
    import ray

    ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level=logging.WARNING)
    connect()


if __name__ == "__main__":
    main()
