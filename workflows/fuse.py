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

import hashlib
import json
from collections.abc import Callable

import numpy as np

from fusion.errors import UserError
from workflows.cluster import connect, in_parallel, resources
from workflows.fuse_options import Args, check

STAMP = "duskfuse"  # PNG text chunks
GATES = "duskfuse-gates"
GATES_FILE = "gates.csv"
PNG_END = b"IEND\xaeB`\x82"  # the last chunk of a whole file
SMALL = 5_000_000  # parameters


def main(arguments: list[str]) -> None:
    from workflows.cli import parse

    run(parse(Args, "fuse", arguments), arguments)


def run(args: Args, command: list[str]) -> None:
    from tqdm import tqdm

    from fusion import storage, weights
    from workflows.folders import check_seen, claim
    from workflows.sources import open_source
    from workflows.stamps import stamp

    check(args)
    if args.files:
        from workflows import fuse_files

        return fuse_files.run(args)
    source = open_source(args.pairs, args.corpus, args.split or "test")
    where, parameters = None, 0
    model = {"method": args.method} | ({} if args.colour == "luma" else {"colour": args.colour})
    if args.method is None:
        where = str(weights.folder()) if args.checkpoint is None else storage.absolute(args.checkpoint)
        loaded, twin, identity = load(where)  # a bad one is told here, once, not by every worker
        parameters = sum(p.numel() for network in (loaded.model, twin) if network for p in network.parameters())
        model = {"checkpoint": identity}

    claim(args.out, "model.json", model, "model's images")
    storage.remove(storage.join(args.out, "fused.json"))  # from here to the end the folder is not complete
    connect()
    from ray.data import ActorPoolStrategy

    workers, threads, options = place(args.workers, parameters)
    results: list[dict] = []
    rejected = list(source.rejected)
    with tqdm(total=source.images, unit="image", desc="fuse", mininterval=1) as bar:
        make = {"checkpoint": where, "method": args.method, "colour": args.colour}
        make |= {"out": storage.absolute(args.out), "threads": threads}
        pool = ActorPoolStrategy(size=min(workers, len(source.units)))
        for result in in_parallel(source.units, Fuser, make=make, compute=pool, **options):
            bar.update(1)
            (rejected if "reason" in result else results).append(result)
    if len(rejected) > args.max_rejected * (source.images + len(source.rejected)) or not results:
        first = rejected[0] if rejected else {"key": "-", "reason": "nothing to do"}
        raise UserError(
            f"{len(rejected)} images could not be fused, more than --max-rejected {args.max_rejected:g} "
            f"({first['key']}: {first['reason']}). {len(results)} are in {args.out}."
        )
    seen = set(storage.list_files(args.out))
    hidden = [name for result in results for name in result["files"] if name not in seen]
    check_seen(args.out, hidden, "fused images")
    made = [result for result in results if result["made"]]
    about = {
        "stamp": stamp(["fuse", *command]),
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


def place(wanted: int, parameters: int) -> tuple[int, int, dict]:
    """(model copies, threads of each, what each takes of the cluster).

    Without GPUs, small networks run best as many copies of one thread, large ones would not fit in memory like that.
    """
    cpus, gpus = resources()
    if gpus:
        workers = wanted or gpus
        return workers, 1, {"num_gpus": min(1, gpus / workers), "num_cpus": min(1, cpus / workers)}
    workers = wanted or max(1, int(cpus if parameters < SMALL else cpus // 4))
    return workers, max(1, int(cpus // workers)), {"num_cpus": min(1, cpus / workers)}


class Fuser:
    """A Ray actor that holds one copy of the model and fuses one unit of work at a time."""

    def __init__(self, checkpoint: str | None, method: str | None, colour: str, out: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.out = out
        self.restores = False
        self.model = self.twin = None
        if checkpoint is None:
            self.classical = classical(method, colour)
            self.identity = self.name = method if colour == "luma" else f"{method}, every channel"
            return
        loaded, twin, self.identity = load(checkpoint)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.name = loaded.model.to(device), loaded.name
        self.twin = twin and twin.to(device)
        self.restores = loaded.model.config.stage == "restore"

    def __call__(self, unit: dict) -> list[dict]:
        from workflows.sources import items

        results = []
        for item in items(unit):
            if isinstance(item, tuple):
                results.append({"key": item[0], "reason": item[1]})
            else:
                results.append(self.one(item))
        return results

    def one(self, item) -> dict:
        """Fuse and write one image, unless it is there with the stamp of this model and these pixels."""
        import time

        from fusion import inference, storage
        from fusion.images import encode_png

        stamp = content_stamp(self.identity, item.degraded_visible, item.degraded_infrared)
        names = ["visible", "infrared"] if self.restores else [""]
        files = ["/".join([*filter(None, (item.folder, name)), f"{item.key}.png"]) for name in names]
        paths = [storage.join(self.out, file) for file in files]
        result = {
            "key": item.key,
            "files": files,
            "model": {"name": self.name, "fingerprint": self.identity},
            "made": False,
        }
        known = [text_of(path) for path in paths]
        if all(text.get(STAMP) == stamp for text in known):
            return result | {"gates": json.loads(known[0].get(GATES, "{}"))}
        start = time.perf_counter()
        pair = (item.degraded_visible, item.degraded_infrared)
        gates: dict[str, list[float]] = {}
        if self.model is None:
            images = [self.classical(*pair)]
        elif self.restores:
            images = inference.restore(self.model, *pair)
        else:
            image, gates = inference.fuse_with_gates(self.model, *pair, self.attention(pair))
            images = [image]
        text = {STAMP: stamp} | ({GATES: json.dumps(gates)} if gates else {})
        for path, image in zip(paths, images, strict=True):
            storage.write_bytes(path, encode_png(image, text))
        return result | {"made": True, "seconds": time.perf_counter() - start, "gates": gates}

    def attention(self, pair: tuple[np.ndarray, np.ndarray]):
        """What its detectors tell a MoE-Fusion that was trained with them."""
        if self.twin is None:
            return None
        from detection.joint import attend

        return attend(self.twin, *pair)


def classical(method: str, colour: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(visible, infrared) -> fused, all uint8, by a method of the library; a grey pair has luma only."""
    from fusion import inference
    from fusion.library import LIBRARY, fuse_colour

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        if colour == "channels" and visible.ndim == 3:
            return fuse_colour(LIBRARY[method], visible, infrared)
        return inference.fuse(LIBRARY[method].fuse, visible, infrared)

    return fuse


def load(where: str):
    """(checkpoint, its detectors or None, what its images depend on) of a run or checkpoint folder."""
    from fusion import checkpoint

    folder = checkpoint.fetch(where)
    loaded = checkpoint.load(folder)
    detectors = checkpoint.part(folder, "detectors")
    if detectors is None:
        return loaded, None, loaded.fingerprint
    from detection.attention import TWINS

    twin = checkpoint.load(detectors, models=TWINS)
    return loaded, twin.model, f"{loaded.fingerprint}+{twin.fingerprint}"


def content_stamp(identity: str, visible: np.ndarray, infrared: np.ndarray) -> str:
    digest = hashlib.sha256(identity.encode())
    for image in (visible, infrared):
        digest.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def text_of(path: str) -> dict[str, str]:
    """The text chunks of the PNG at `path`; {} where there is none that is whole."""
    from fusion import storage
    from fusion.images import png_text

    try:
        data = storage.read_bytes(path)
    except OSError:
        return {}
    return png_text(data) if data.endswith(PNG_END) else {}


def gates_table(results: list[dict]) -> str:
    """CSV: how much every expert counted in every image, for networks that gate whole images; "" for others."""
    rows = ["image,gate,expert,weight"]
    for result in sorted(results, key=lambda result: result["files"]):
        name = result["files"][0].removesuffix(".png")
        for gate, weights in result["gates"].items():
            rows += [f"{name},{gate},{expert},{weight:.6g}" for expert, weight in enumerate(weights, 1)]
    return "\n".join(rows) + "\n" if len(rows) > 1 else ""


if __name__ == "__main__":
    import sys

    from workflows.cli import main as cli

    sys.exit(cli(["fuse", *sys.argv[1:]]))
