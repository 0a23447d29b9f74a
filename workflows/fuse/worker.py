from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass

import numpy as np
import torch

from detection.moefusion.joint import attention_maps
from fusion import inference, storage
from fusion.images.png import encode_png, png_text
from workflows.fuse.methods import classical_fuse_fn, load_network
from workflows.inputs import items

STAMP = "duskfuse"  # PNG text chunks
GATES = "duskfuse-gates"
GATES_FILE = "gates.csv"
PNG_END = b"IEND\xaeB`\x82"  # the last chunk of a whole file


@dataclass(frozen=True)
class FuserSettings:
    """The model, a checkpoint or a classical method with its treatment of colour, and where fused images go."""

    checkpoint: str | None
    method: str | None
    colour: str
    out: str
    threads: int


class Fuser:
    """A Ray actor that holds one copy of the model and fuses one unit of work at a time."""

    def __init__(self, settings: FuserSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.out = settings.out
        self.restores = False
        self.model = self.twin = None
        if settings.checkpoint is None:
            method, colour = settings.method, settings.colour
            self.classical = classical_fuse_fn(method, colour)
            self.identity = self.name = method if colour == "luma" else f"{method}, every channel"
            return
        loaded, twin, self.identity = load_network(settings.checkpoint)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.name = loaded.model.to(device), loaded.name
        self.twin = twin and twin.to(device)
        self.restores = loaded.model.config.stage == "restore"

    def __call__(self, unit: dict) -> list[dict]:

        results = []
        for item in items(unit):
            if isinstance(item, tuple):
                results.append({"key": item[0], "reason": item[1]})
            else:
                results.append(self.one(item))
        return results

    def one(self, item) -> dict:
        """Fuse and write one image, unless it is there with the stamp of this model and these pixels."""

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
        known = [read_png_text(path) for path in paths]
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

        return attention_maps(self.twin, *pair)


def content_stamp(identity: str, visible: np.ndarray, infrared: np.ndarray) -> str:
    digest = hashlib.sha256(identity.encode())
    for image in (visible, infrared):
        digest.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def read_png_text(path: str) -> dict[str, str]:
    """The text chunks of the PNG at `path`; {} where there is none that is whole."""

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
