"""duskfuse fuse: pairs, or the degraded rows of a corpus, through a checkpoint or a classical method.

    duskfuse fuse --checkpoint RUN --pairs DIR --out DIR             OUT/KEY.png
    duskfuse fuse --checkpoint RUN --corpus DIR --out DIR            OUT/DEGRADATION/LEVEL/KEY.png
    duskfuse fuse --method average --pairs DIR --out DIR             --colour channels: as published colour results
    duskfuse fuse --visible a.jpg --infrared b.jpg --out c.png       one pair of images, or of videos, at once

Without --checkpoint and --method the AE-Netv2 that comes with the package fuses.
A stage-1 checkpoint writes restored pairs instead: .../visible/KEY.png and .../infrared/KEY.png.
Each PNG carries a stamp of the model and of the pixels it was made from; an image with the right stamp is not made
again, so the same command goes on where it stopped. A MoE-Fusion's choice of experts, image by image, is in
OUT/gates.csv. OUT/fused.json is written last.
"""

from __future__ import annotations

from dataclasses import asdict

from tqdm import tqdm

from fusion import storage, weights
from fusion.data.finding import Rejected
from fusion.errors import UserError
from workflows.cluster.connect import connect, resources
from workflows.cluster.parallel import ActorPool, in_actors
from workflows.fuse import files as fuse_files
from workflows.fuse.methods import load_network, name_of_method
from workflows.fuse.options import Args, check
from workflows.fuse.worker import GATES_FILE, Fuser, FuseResult, FuserSettings, gates_table
from workflows.inputs import Source, open_source
from workflows.outputs import claim_output, completing, require_visible
from workflows.provenance import provenance

SMALL_NETWORK = 5_000_000  # parameters


def run(args: Args, command: list[str]) -> None:
    """Fuse two files, pairs or the rows of a corpus."""
    check(args)
    if args.files:
        fuse_files.run(args)
        return
    source = open_source(args.pairs, args.corpus, args.split or "test")
    checkpoint, num_parameters = None, 0
    if args.method is not None:
        name = fingerprint = name_of_method(args.method, args.colour)
        claim = {"method": args.method} | ({} if args.colour == "luma" else {"colour": args.colour})
    else:
        checkpoint = str(weights.folder()) if args.checkpoint is None else storage.absolute(args.checkpoint)
        network = load_network(checkpoint)  # a bad one is told here, once, not by every worker
        name, fingerprint, num_parameters = network.checkpoint.name, network.identity, network.num_parameters
        claim = {"checkpoint": fingerprint}

    claim_output(args.out, "model.json", claim, "model's images")
    with completing(args.out, "fused.json") as complete:
        connect()
        pool, threads = placement(args.workers, num_parameters)
        settings = FuserSettings(checkpoint, args.method, args.colour, storage.absolute(args.out), threads)
        results, rejected = fuse_all(source, settings, pool)
        total = source.images + len(source.rejected)
        if len(rejected) > args.max_rejected_fraction * total or not results:
            first = rejected[0] if rejected else Rejected("-", "nothing to do")
            raise UserError(
                f"{len(rejected)} images could not be fused, more than --max-rejected-fraction "
                f"{args.max_rejected_fraction:g} ({first.key}: {first.reason}). {len(results)} are in {args.out}."
            )
        visible = set(storage.list_files(args.out))
        hidden = [file for result in results for file in result.files if file not in visible]
        require_visible(args.out, hidden, "fused images")
        if gates := gates_table(results):
            storage.write_text(storage.join(args.out, GATES_FILE), gates)
        complete(
            {
                "provenance": provenance(["fuse", *command]),
                "model": {"name": name, "fingerprint": fingerprint},
                "source": source.description,
                "images": len(results),
                "rejected": [asdict(item) for item in sorted(rejected, key=lambda item: item.key)],
            }
        )
    seconds = sorted(result.seconds for result in results if result.fused_now)
    pace = f", {seconds[len(seconds) // 2] * 1e3:.0f} ms an image (median)" if seconds else ""
    print(
        f"{args.out}: {len(seconds)} images fused, {len(results) - len(seconds)} were there, "
        f"{len(rejected)} rejected{pace}"
    )


def fuse_all(source: Source, settings: FuserSettings, pool: ActorPool) -> tuple[list[FuseResult], list[Rejected]]:
    """Fuse on Ray. Returns what was fused, and the pairs that cannot be used."""
    results: list[FuseResult] = []
    rejected = list(source.rejected)
    kinds: tuple[type[FuseResult | Rejected], ...] = (FuseResult, Rejected)
    with tqdm(total=source.images, unit="image", desc="fuse", mininterval=1) as bar:
        for result in in_actors(source.units, Fuser, settings, kinds, pool):
            bar.update(1)
            if isinstance(result, FuseResult):
                results.append(result)
            else:
                rejected.append(result)
    return results, rejected


def placement(wanted: int, num_parameters: int) -> tuple[ActorPool, int]:
    """Return how many copies of the model there are, with what each takes of the cluster, and the threads of each.

    Without GPUs, small networks run best as many copies of one thread, large ones would not fit in memory like that.
    """
    cpus, gpus = resources()
    if gpus:
        workers = wanted or gpus
        return ActorPool(workers, cpus=min(1, cpus / workers), gpus=min(1, gpus / workers)), 1
    workers = wanted or max(1, int(cpus if num_parameters < SMALL_NETWORK else cpus // 4))
    return ActorPool(workers, cpus=min(1, cpus / workers)), max(1, int(cpus // workers))
