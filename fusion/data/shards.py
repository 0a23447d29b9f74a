"""From pairs to a corpus: which pair is in which split, which samples are in which shard, and building one shard."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import PIL
import pyarrow as pa

from fusion import storage
from fusion.config import fingerprint
from fusion.data.corpus import SCHEMA_VERSION, SPLITS, Sample, ShardWriter, checksum
from fusion.data.finding import PairRef, Rejected
from fusion.data.pairs import BadPair, Pair, read_pair
from fusion.data.quotas import choose_degradations, find_quota
from fusion.data.synthetic import is_synthetic
from fusion.degrade import degrade, expand_preset, parse_degradation
from fusion.errors import UserError
from fusion.images.formats import read_size

SHARED_PIXELS = 4_000_000  # larger images draw their noise anew for every level, which needs less memory


@dataclass(frozen=True)
class CorpusConfig:
    """What shapes a corpus. `preset` is a preset or a list of degradations, as in "demmi-rf" or "noise2,haze2+noise3".

    `val_fraction` of the training pairs becomes "val"; `test_fraction` of all becomes "test" where the folders have no
    test split of their own. `sequences`: near-duplicates stay in one split. `splits`: a frozen split file instead.
    Shards hold at most `shard_samples` samples and `shard_megabytes` of pixels.
    """

    pairs: str
    preset: str = "demmi-rf"
    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    sequences: bool = True
    splits: str = ""
    shard_samples: int = 64
    shard_megabytes: int = 128

    def __post_init__(self) -> None:
        expand_preset(self.preset)
        find_quota(self.preset)
        for name in ("val_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 0 and below 1"
                )
        if self.shard_samples < 1 or self.shard_megabytes < 1:
            raise UserError("--shard-samples and --shard-megabytes must be at least 1")


@dataclass(frozen=True)
class ShardPlan:
    """One unit of work: these pairs, each with its degradations, in this order."""

    name: str
    split: str
    refs: tuple[PairRef, ...]
    degradations: tuple[tuple[str, ...], ...]  # of each pair
    row_group: int
    seed: int

    @property
    def samples(self) -> int:
        return sum(map(len, self.degradations))

    @property
    def fingerprint(self) -> str:
        """Equal plans under equal versions of what draws and packs the pixels give equal bytes."""
        return fingerprint([asdict(self), library_versions()])


def library_versions() -> dict[str, Any]:
    """Of what reads, draws and packs the pixels."""
    return {"schema": SCHEMA_VERSION} | {library.__name__: library.__version__ for library in (np, cv2, pa, PIL)}


def plan_shards(refs: Sequence[PairRef], config: CorpusConfig) -> list[ShardPlan]:
    """Shards of one split each, whole pairs each, in the order of the keys."""
    degradations = tuple(str(degradation) for degradation in expand_preset(config.preset))
    wanted = choose_degradations(refs, degradations, config.preset, config.seed)
    group = rows_per_group(len(degradations))
    plans: list[ShardPlan] = []
    for split in SPLITS:
        chosen = sorted((ref for ref in refs if ref.split == split and wanted[ref.key]), key=lambda ref: ref.key)
        step = _pairs_per_shard(chosen, len(degradations), config)
        for start in range(0, len(chosen), step):
            part = tuple(chosen[start : start + step])
            name = f"{len(plans):06d}-{split}.parquet"
            plans.append(ShardPlan(name, split, part, tuple(wanted[ref.key] for ref in part), group, config.seed))
    return plans


def _pairs_per_shard(refs: Sequence[PairRef], degradations: int, config: CorpusConfig) -> int:
    by_count = config.shard_samples // degradations
    largest = max((_pixels(ref) for ref in _first_of_each_source(refs)), default=1)
    bytes_per_pair = 4 * largest * (1 + degradations)  # three visible and one infrared byte a pixel, before zstd
    return max(1, min(by_count, math.floor(config.shard_megabytes * 1e6 / bytes_per_pair)))


def _first_of_each_source(refs: Sequence[PairRef]) -> list[PairRef]:
    first: dict[str, PairRef] = {}
    for ref in refs:
        first.setdefault(ref.source, ref)
    return list(first.values())


def _pixels(ref: PairRef) -> int:
    """Pixels of a pair by its infrared image's header; unreadable files count as VGA, they are rejected later."""
    try:
        if is_synthetic(ref.infrared):
            return math.prod(int(n) for n in ref.infrared.split(":")[2].split("x"))
        return math.prod(read_size(storage.read_bytes(ref.infrared)))
    except storage.StoreError:
        raise  # a store that is down must not change the plan
    except Exception:
        return 640 * 480


def build_shard(plan: ShardPlan, root: str) -> dict[str, Any]:
    """Read, degrade, pack and write one shard and its record; or return the record when both are already there."""
    record_path = storage.join(root, "records", plan.name.replace(".parquet", ".json"))
    done = read_finished_record(plan, root)
    if done is not None:
        return done
    cv2.setNumThreads(1)  # Ray gives a task one core
    writer = ShardWriter(plan.row_group)
    counts: Counter = Counter()
    boxes = 0
    rejected: list[Rejected] = []
    for ref, degradations in zip(plan.refs, plan.degradations, strict=True):
        try:
            pair = read_pair(ref)
        except BadPair as error:
            rejected.append(Rejected(ref.key, str(error)))
            continue
        cache: dict[str, Any] | None = {} if pair.infrared.size <= SHARED_PIXELS else None
        for text in degradations:
            sample = make_sample(ref, pair, text, plan.seed, cache)
            counts[sample.source, sample.degradation, sample.level] += 1
            boxes += len(sample.boxes)
            writer.add(sample)
    data = writer.close()
    storage.write_bytes(storage.join(root, "shards", plan.name), data)
    record = {
        "name": plan.name,
        "split": plan.split,
        "rows": writer.rows,
        "groups": writer.groups,
        "pairs": len(plan.refs) - len(rejected),
        "bytes": len(data),
        "sha256": checksum(data),
        "counts": [[*what, count] for what, count in counts.items()],
        "boxes": boxes,
        "rejected": [asdict(item) for item in rejected],
        "plan": plan.fingerprint,
    }
    storage.write_text(record_path, json.dumps(record) + "\n")
    return record


def rows_per_group(degradations: int) -> int:
    """Rows of a group: whole pairs, about 8 rows."""
    return degradations * max(1, 8 // degradations)


def read_finished_record(plan: ShardPlan, root: str) -> dict[str, Any] | None:
    """The record of a shard that an earlier run of the same plan finished, else None."""
    try:
        record = json.loads(storage.read_bytes(storage.join(root, "records", plan.name.replace(".parquet", ".json"))))
    except (OSError, ValueError):
        return None
    whole = storage.file_size(storage.join(root, "shards", plan.name)) == record.get("bytes")
    return record if whole and record.get("plan") == plan.fingerprint else None


def make_sample(ref: PairRef, pair: Pair, degradation: str, seed: int, cache: dict[str, Any] | None = None) -> Sample:
    """One row: the pair, and the pair under one degradation."""
    what = parse_degradation(degradation)
    degraded = degrade(pair.visible, pair.infrared, what, seed=seed, key=ref.key, depth=pair.depth, cache=cache)
    return Sample(
        key=ref.key,
        split=ref.split,
        source=ref.source,
        degradation=what.name,
        level=what.level,
        parameters=json.dumps(degraded.parameters, sort_keys=True),
        visible=pair.visible,
        infrared=pair.infrared,
        degraded_visible=degraded.visible,
        degraded_infrared=degraded.infrared,
        boxes=pair.boxes,
        classes=pair.classes,
        notes=pair.notes,
    )
