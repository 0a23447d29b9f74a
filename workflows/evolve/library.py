from __future__ import annotations

import json
import math
from dataclasses import asdict

import torch
from tqdm import tqdm

from fusion import inference, storage
from fusion.classical import CLASSICAL
from fusion.errors import UserError
from fusion.images.colour import to_grey
from fusion.images.png import encode_png
from fusion.metrics import score
from fusion.training import evolution
from fusion.training.evolution import mean_score
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.evolve.options import Args
from workflows.evolve.store import network_spec, spec_of
from workflows.fuse.methods import load_network
from workflows.inputs import PAIRS_A_TASK, items, parse_named_dirs, read_fused_image
from workflows.outputs import claim_output, require_visible


def library(args: Args) -> dict[str, dict]:
    """name -> what makes its images. UserError: unknown or double names, no such checkpoint or folder."""

    methods: dict[str, dict] = {}
    for name in filter(None, (part.strip() for part in args.methods.split(","))):
        if name not in CLASSICAL:
            raise UserError(f"unknown method {name!r}. Known: {', '.join(CLASSICAL)}.")
        methods[name] = {"kind": "library", "where": name}
    for kind, texts in (("checkpoint", args.checkpoint), ("folder", args.fused)):
        for name, where in (parse_named_dirs(texts) if texts else {}).items():
            if name in methods or name.startswith(("network-", ".")) or name == "pairs" or "/" in name:
                raise UserError(f"the method name {name!r} is used twice, reserved or no name. Give another NAME=.")
            methods[name] = {"kind": kind, "where": storage.absolute(where)}
            if kind == "checkpoint":
                loaded, _, methods[name]["identity"] = load_network(where)
                if loaded.model.config.stage == "restore":
                    raise UserError(f"{where} restores and does not fuse. Give a checkpoint of stage 2.")
    if not methods:
        raise UserError("the library is empty: give --methods, --checkpoint or --fused.")
    return methods


def score_method(
    args: Args, name: str, spec: dict, refs, splits=("train", "val", "test")
) -> dict[str, tuple[float, str]]:
    """key -> (E2, "" or why there is none) of a method on all pairs; read where it was scored before."""

    folder = storage.join(args.out, "library", name)
    claim_output(folder, "method.json", spec, f"method {name}")
    path = storage.join(folder, "scores.json")
    if storage.exists(path):
        return {key: (float(score), reason) for key, (score, reason) in json.loads(storage.read_bytes(path)).items()}
    chosen = [asdict(ref) for ref in refs if ref.split in splits]
    task = {"spec": spec, "folder": storage.absolute(folder), "max_sharpness": args.max_sharpness}
    rows = [task | {"refs": chosen[i : i + PAIRS_A_TASK]} for i in range(0, len(chosen), PAIRS_A_TASK)]
    scores: dict[str, tuple[float, str]] = {}
    with tqdm(total=len(chosen), unit="pair", desc=name, mininterval=1) as bar:
        for row in in_parallel(rows, score_unit):
            scores[row["key"]] = (float(row["score"]), row["reason"])
            bar.update(1)
    unread = sorted(key for key, (_, reason) in scores.items() if reason.startswith("pair: "))
    if len(unread) > args.max_rejected_fraction * len(chosen):  # before it is written, so that pairs can be put right
        raise UserError(
            f"{len(unread)} pairs cannot be read, more than --max-rejected-fraction {args.max_rejected_fraction:g}. "
            f"{unread[0]}: {scores[unread[0]][1]}"
        )
    seen = set(storage.list_files(folder))
    made = [f"{key}.png" for key, (_, reason) in sorted(scores.items()) if not reason]
    require_visible(args.out, [name for name in made if name not in seen], f"images of {name}")
    for key in sorted(key for key, (_, reason) in scores.items() if reason)[:3]:
        log_progress(f"{name} {key}: {scores[key][1]}")
    # repr: JSON knows no NaN
    text = json.dumps({key: (repr(score), reason) for key, (score, reason) in sorted(scores.items())}, indent=1)
    storage.write_text(path, text + "\n")
    return scores


def score_unit(row: dict) -> list[dict]:
    """A method's results of a few pairs, in a Ray task. What fails on one pair is recorded; the others go on."""

    torch.set_num_threads(1)
    make = build_fuse_fn(row["spec"])
    results = []
    for item in items({"refs": row["refs"]}):
        if isinstance(item, tuple):
            results.append({"key": item[0], "score": "nan", "reason": f"pair: {item[1]}"})
            continue
        try:
            fused = make(item)
            images = (fused, item.visible, item.infrared)
            tensors = [torch.tensor(im if im.ndim == 3 else im[..., None]).permute(2, 0, 1)[None] for im in images]
            evolution.check_sharpness(*tensors, row["max_sharpness"])
            value = float(score(*tensors, names=("e2",))["e2"][0])
            storage.write_bytes(storage.join(row["folder"], f"{item.key}.png"), encode_png(fused))
        except storage.StoreError:
            raise
        except evolution.OverSharpened as error:
            results.append({"key": item.key, "score": "nan", "reason": str(error)})
            continue
        except Exception as error:  # whatever a method does, the other methods and pairs go on
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            results.append({"key": item.key, "score": "nan", "reason": reason})
            continue
        reason = "" if value == value else "E2 is not a number"
        results.append({"key": item.key, "score": repr(value), "reason": reason})
    return results


def build_fuse_fn(spec: dict):
    """item -> fused uint8 luma (H, W)."""

    if spec["kind"] == "folder":

        def read(item):
            image = to_grey(read_fused_image(spec["where"], item))
            if image.shape != item.infrared.shape:
                raise UserError(f"size differs: fused {image.shape[1]}x{image.shape[0]}")
            return image

        return read
    if spec["kind"] == "library":
        method, twin = CLASSICAL[spec["where"]].fuse, None
    else:
        loaded, twin, _ = load_network(spec["where"])
        method = loaded.model

    def fuse(item):
        attention = None
        if twin is not None:
            from detection.moefusion.joint import attention_maps

            attention = attention_maps(twin, item.visible, item.infrared)
        return inference.fuse(method, to_grey(item.visible), item.infrared, attention)

    return fuse


def held_out_means(args: Args, methods: list[str], refs, number: int) -> tuple[dict[str, float], dict[str, int]]:
    """Mean E2 on the held-out pairs, and of how many: every method, and the network after each evolution."""

    test = {ref.key for ref in refs if ref.split == "test"}
    means, counts = {}, {}
    every = {name: score_method(args, name, spec_of(args.out, name), refs) for name in methods}
    for n in range(1, number + 1):
        name = f"network-{n}"  # one whose folder was deleted is scored again
        there = storage.exists(storage.join(args.out, "library", name, "method.json"))
        spec = spec_of(args.out, name) if there else network_spec(args.out, n)
        every[name] = score_method(args, name, spec, refs, ("test",))
    for name, scored in every.items():
        found = [score for key, (score, _) in scored.items() if key in test]
        means[name], counts[name] = mean_score(found), sum(map(math.isfinite, found))
    return means, counts
