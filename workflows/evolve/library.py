"""The library of an evolution: its methods fuse the pairs, and E2 scores the results."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from tqdm import tqdm

from fusion import inference, storage
from fusion.classical import CLASSICAL
from fusion.data.finding import PairRef, Rejected
from fusion.errors import UserError
from fusion.images.colour import to_grey
from fusion.images.png import encode_png
from fusion.metrics import score
from fusion.metrics.triplet import to_batch
from fusion.training import evolution
from fusion.training.evolution import mean_score
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.evolve.options import Args
from workflows.evolve.store import MethodSpec, PairScore, network_spec, parse_scores, read_spec, scores_to_json
from workflows.fuse.methods import load_network
from workflows.inputs import Item, PairUnit, check_size, pair_units, parse_named_dirs, read_fused_image, read_items
from workflows.outputs import claim_output, require_visible

FuseItemFn = Callable[[Item], np.ndarray]
"""A pair -> fused luma, uint8 (H, W)."""

UNREADABLE = "pair: "  # how the reason begins where the pair itself cannot be read


@dataclass(frozen=True)
class ScoreTask:
    """A few pairs that a method fuses into `folder`."""

    spec: MethodSpec
    unit: PairUnit
    folder: str
    max_sharpness: float


@dataclass(frozen=True)
class ScoredPair:
    """The result of a method on a pair. traceback: of an error that nobody expects, else ""."""

    key: str
    result: PairScore
    traceback: str = ""


def library(args: Args) -> dict[str, MethodSpec]:
    """Return name -> what makes its images. UserError: unknown or double names, no such checkpoint or folder."""
    methods: dict[str, MethodSpec] = {}
    for name in filter(None, (part.strip() for part in args.methods.split(","))):
        if name not in CLASSICAL:
            raise UserError(f"unknown method {name!r}. Known: {', '.join(CLASSICAL)}.")
        methods[name] = MethodSpec("library", name)
    for kind, texts in (("checkpoint", args.checkpoint), ("folder", args.fused)):
        for name, path in (parse_named_dirs(texts) if texts else {}).items():
            if name in methods or name.startswith(("network-", ".")) or name == "pairs" or "/" in name:
                raise UserError(f"the method name {name!r} is used twice, reserved or no name. Give another NAME=.")
            identity = None
            if kind == "checkpoint":
                network = load_network(path)
                if network.restores:
                    raise UserError(f"{path} restores and does not fuse. Give a checkpoint of stage 2.")
                identity = network.identity
            methods[name] = MethodSpec(kind, storage.absolute(path), identity)
    if not methods:
        raise UserError("the library is empty: give --methods, --checkpoint or --fused.")
    return methods


def score_method(
    args: Args, name: str, spec: MethodSpec, refs: Sequence[PairRef], splits: Sequence[str] = ("train", "val", "test")
) -> dict[str, PairScore]:
    """Return key -> E2 of a method on all pairs of the splits; read where it was scored before."""
    folder = storage.join(args.out, "library", name)
    claim_output(folder, "method.json", asdict(spec), f"method {name}")
    path = storage.join(folder, "scores.json")
    if storage.exists(path):
        return parse_scores(storage.read_bytes(path))
    chosen = [ref for ref in refs if ref.split in splits]
    tasks = [ScoreTask(spec, unit, storage.absolute(folder), args.max_sharpness) for unit in pair_units(chosen)]
    scores: dict[str, PairScore] = {}
    bug = ""
    with tqdm(total=len(chosen), unit="pair", desc=name, mininterval=1) as bar:
        for scored in in_parallel(tasks, score_unit):
            scores[scored.key] = scored.result
            if scored.traceback and not bug:  # once: it is likely the same on every pair
                bug = scored.traceback
                log_progress(f"{name} {scored.key}:\n{bug}")
            bar.update(1)
    unread = sorted(key for key, result in scores.items() if result.reason.startswith(UNREADABLE))
    if len(unread) > args.max_rejected_fraction * len(chosen):  # before it is written, so that pairs can be put right
        raise UserError(
            f"{len(unread)} pairs cannot be read, more than --max-rejected-fraction {args.max_rejected_fraction:g}. "
            f"{unread[0]}: {scores[unread[0]].reason}"
        )
    visible = set(storage.list_files(folder))
    images = [f"{key}.png" for key, result in sorted(scores.items()) if not result.reason]
    require_visible(args.out, [image for image in images if image not in visible], f"images of {name}")
    for key in sorted(key for key, result in scores.items() if result.reason)[:3]:
        log_progress(f"{name} {key}: {scores[key].reason}")
    storage.write_text(path, scores_to_json(scores))
    return scores


def score_unit(task: ScoreTask) -> list[ScoredPair]:
    """Fuse and score a few pairs by a method, in a Ray task. What fails on one is recorded; the others go on."""
    torch.set_num_threads(1)
    fuse = build_fuse_fn(task.spec)
    return [
        ScoredPair(item.key, PairScore(math.nan, f"{UNREADABLE}{item.reason}"))
        if isinstance(item, Rejected)
        else score_item(task, fuse, item)
        for item in read_items(task.unit)
    ]


def score_item(task: ScoreTask, fuse: FuseItemFn, item: Item) -> ScoredPair:
    """Fuse a pair, score it and write the image."""
    try:
        fused = fuse(item)
        images = (to_batch(fused), to_batch(item.visible), to_batch(item.infrared))
        evolution.check_sharpness(*images, limit=task.max_sharpness)
        value = float(score(*images, names=("e2",))["e2"][0])
        storage.write_bytes(storage.join(task.folder, f"{item.key}.png"), encode_png(fused))
    except storage.StoreError:
        raise
    except evolution.OverSharpened as error:
        return ScoredPair(item.key, PairScore(math.nan, str(error)))
    except Exception as error:  # whatever a method does, the other methods and pairs go on
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        expected = isinstance(error, UserError)
        return ScoredPair(item.key, PairScore(math.nan, reason), "" if expected else traceback.format_exc())
    return ScoredPair(item.key, PairScore(value, "E2 is not a number" if math.isnan(value) else ""))


def build_fuse_fn(spec: MethodSpec) -> FuseItemFn:
    """Return the function that makes a method's image of a pair. UserError of it: none there, or of another size."""
    if spec.kind == "folder":

        def read(item: Item) -> np.ndarray:
            image = to_grey(read_fused_image(spec.where, item))
            check_size(image, item.infrared)
            return image

        return read
    if spec.kind == "library":
        method = CLASSICAL[spec.where].fuse
        return lambda item: inference.fuse(method, to_grey(item.visible), item.infrared)
    network = load_network(spec.where).ready(threads=1)
    return lambda item: network.fuse(item.visible, item.infrared, grey=True)[0]


def held_out_means(
    args: Args, methods: Sequence[str], refs: Sequence[PairRef], number: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Return the mean E2 on the held-out pairs, and of how many: every method, and the network of each evolution."""
    held_out = {ref.key for ref in refs if ref.split == "test"}
    means, counts = {}, {}
    every = {name: score_method(args, name, read_spec(args.out, name), refs) for name in methods}
    for n in range(1, number + 1):
        name = f"network-{n}"  # one whose folder was deleted is scored again
        scored = storage.exists(storage.join(args.out, "library", name, "method.json"))
        spec = read_spec(args.out, name) if scored else network_spec(args.out, n)
        every[name] = score_method(args, name, spec, refs, ("test",))
    for name, results in every.items():
        scores = [result.score for key, result in results.items() if key in held_out]
        means[name], counts[name] = mean_score(scores), sum(map(math.isfinite, scores))
    return means, counts
