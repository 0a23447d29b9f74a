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

import json

from tqdm import tqdm

from fusion import storage, weights
from fusion.errors import UserError
from workflows.cluster.connect import connect, resources
from workflows.cluster.parallel import ActorPool, in_actors
from workflows.fuse.methods import load_network
from workflows.fuse.options import Args, check
from workflows.fuse.worker import GATES_FILE, Fuser, FuserSettings, gates_table
from workflows.inputs import open_source
from workflows.outputs import claim_output, require_visible
from workflows.provenance import provenance

SMALL = 5_000_000  # parameters


def run(args: Args, command: list[str]) -> None:

    check(args)
    if args.files:
        from workflows.fuse import files as fuse_files

        return fuse_files.run(args)
    source = open_source(args.pairs, args.corpus, args.split or "test")
    where, parameters = None, 0
    model = {"method": args.method} | ({} if args.colour == "luma" else {"colour": args.colour})
    if args.method is None:
        where = str(weights.folder()) if args.checkpoint is None else storage.absolute(args.checkpoint)
        loaded, twin, identity = load_network(where)  # a bad one is told here, once, not by every worker
        parameters = sum(p.numel() for network in (loaded.model, twin) if network for p in network.parameters())
        model = {"checkpoint": identity}

    claim_output(args.out, "model.json", model, "model's images")
    storage.remove(storage.join(args.out, "fused.json"))  # from here to the end the folder is not complete
    connect()
    pool, threads = place(args.workers, parameters)
    results: list[dict] = []
    rejected = list(source.rejected)
    with tqdm(total=source.images, unit="image", desc="fuse", mininterval=1) as bar:
        settings = FuserSettings(where, args.method, args.colour, storage.absolute(args.out), threads)
        for result in in_actors(source.units, Fuser, settings, (dict,), pool):
            bar.update(1)
            (rejected if "reason" in result else results).append(result)
    if len(rejected) > args.max_rejected_fraction * (source.images + len(source.rejected)) or not results:
        first = rejected[0] if rejected else {"key": "-", "reason": "nothing to do"}
        raise UserError(
            f"{len(rejected)} images could not be fused, more than --max-rejected-fraction "
            f"{args.max_rejected_fraction:g} ({first['key']}: {first['reason']}). {len(results)} are in {args.out}."
        )
    seen = set(storage.list_files(args.out))
    hidden = [name for result in results for name in result["files"] if name not in seen]
    require_visible(args.out, hidden, "fused images")
    made = [result for result in results if result["made"]]
    about = {
        "provenance": provenance(["fuse", *command]),
        "model": results[0]["model"],
        "source": source.about,
        "images": len(results),
        "rejected": sorted(rejected, key=lambda item: item["key"]),
    }
    if gates := gates_table(results):
        storage.write_text(storage.join(args.out, GATES_FILE), gates)
    storage.write_text(storage.join(args.out, "fused.json"), json.dumps(about, indent=1) + "\n")
    seconds = sorted(result["seconds"] for result in made)
    pace = f", {seconds[len(seconds) // 2] * 1e3:.0f} ms an image (median)" if seconds else ""
    print(
        f"{args.out}: {len(made)} images fused, {len(results) - len(made)} were there, {len(rejected)} rejected{pace}"
    )


def place(wanted: int, parameters: int) -> tuple[ActorPool, int]:
    """(model copies and what each takes of the cluster, threads of each).

    Without GPUs, small networks run best as many copies of one thread, large ones would not fit in memory like that.
    """
    cpus, gpus = resources()
    if gpus:
        workers = wanted or gpus
        return ActorPool(workers, cpus=min(1, cpus / workers), gpus=min(1, gpus / workers)), 1
    workers = wanted or max(1, int(cpus if parameters < SMALL else cpus // 4))
    return ActorPool(workers, cpus=min(1, cpus / workers)), max(1, int(cpus // workers))
