"""The actor that fuses, and how it knows what it has fused."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fusion import inference, storage
from fusion.data.finding import Rejected
from fusion.images.png import encode_png, png_text
from workflows.fuse.methods import LoadedNetwork, classical_fuse_fn, load_network, name_of_method
from workflows.inputs import Item, Unit, read_items

STAMP = "duskfuse"  # PNG text chunks
GATES = "duskfuse-gates"
GATES_FILE = "gates.csv"
PNG_END = b"IEND\xaeB`\x82"  # the last chunk of a whole file


@dataclass(frozen=True)
class FuserSettings:
    """What an actor fuses with, and where fused images go.

    Args:
        checkpoint: A run or checkpoint folder; None with a method.
        method: A classical method.
        colour: What a method fuses, "luma" or every one of the "channels".
        out: The folder of the fused images.
        threads: Threads of the actor.
    """

    checkpoint: str | None
    method: str | None
    colour: str
    out: str
    threads: int


@dataclass(frozen=True)
class FuseResult:
    """A fused image, or both restored images of a pair.

    Args:
        key: Of the pair.
        files: What was written, below the output folder.
        fused_now: False where the files were there, with the right stamp.
        seconds: How long fusing and writing took; 0 where the files were there.
        gates: Gate -> the weight of every expert, of networks that gate whole images.
    """

    key: str
    files: tuple[str, ...]
    fused_now: bool
    seconds: float
    gates: dict[str, list[float]]


class Fuser:
    """A Ray actor that holds one copy of the model and fuses one unit of work at a time."""

    def __init__(self, settings: FuserSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.out = settings.out
        self.network: LoadedNetwork | None = None
        if settings.method is not None:
            self.identity = name_of_method(settings.method, settings.colour)
            self.fuse_classical = classical_fuse_fn(settings.method, settings.colour)
        elif settings.checkpoint is not None:
            self.network = load_network(settings.checkpoint).ready(settings.threads)
            self.identity = self.network.identity

    def __call__(self, unit: Unit) -> list[FuseResult | Rejected]:
        """Fuse the images of a unit of work."""
        return [item if isinstance(item, Rejected) else self.fuse_item(item) for item in read_items(unit)]

    def fuse_item(self, item: Item) -> FuseResult:
        """Fuse and write one image, unless it is there with the stamp of this model and these pixels."""
        visible, infrared = item.degraded_visible, item.degraded_infrared
        stamp = content_stamp(self.identity, visible, infrared)
        network = self.network
        restores = network is not None and network.restores
        names = ["visible", "infrared"] if restores else [""]
        files = tuple("/".join([*filter(None, (item.folder, name)), f"{item.key}.png"]) for name in names)
        paths = [storage.join(self.out, file) for file in files]
        existing = [read_png_text(path) for path in paths]
        if all(text.get(STAMP) == stamp for text in existing):
            return FuseResult(item.key, files, False, 0.0, json.loads(existing[0].get(GATES, "{}")))
        start = time.perf_counter()
        gates: dict[str, list[float]] = {}
        images: Sequence[np.ndarray]
        if network is None:
            images = [self.fuse_classical(visible, infrared)]
        elif restores:
            images = inference.restore(network.model, visible, infrared)
        else:
            fused, gates = network.fuse(visible, infrared)
            images = [fused]
        text = {STAMP: stamp} | ({GATES: json.dumps(gates)} if gates else {})
        for path, image in zip(paths, images, strict=True):
            storage.write_bytes(path, encode_png(image, text))
        return FuseResult(item.key, files, True, time.perf_counter() - start, gates)


def content_stamp(identity: str, visible: np.ndarray, infrared: np.ndarray) -> str:
    """Return the checksum of what a fused image depends on: what fuses, and the pixels of both images."""
    digest = hashlib.sha256(identity.encode())
    for image in (visible, infrared):
        digest.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def read_png_text(path: str) -> dict[str, str]:
    """Read the text chunks of the PNG at `path`; {} where there is none that is whole."""
    try:
        data = storage.read_bytes(path)
    except OSError:
        return {}
    return png_text(data) if data.endswith(PNG_END) else {}


def gates_table(results: Iterable[FuseResult]) -> str:
    """Return a CSV of every expert's weight in every image, for networks that gate whole images; "" for others."""
    rows = ["image,gate,expert,weight"]
    for result in sorted(results, key=lambda result: result.files):
        name = result.files[0].removesuffix(".png")
        for gate, weights in result.gates.items():
            rows += [f"{name},{gate},{expert},{weight:.6g}" for expert, weight in enumerate(weights, 1)]
    return "\n".join(rows) + "\n" if len(rows) > 1 else ""
