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
from fusion.config import fingerprint, from_dict, to_dict
from fusion.data.corpus import (
    SCHEMA_VERSION,
    SPLITS,
    Sample,
    ShardInfo,
    ShardWriter,
    checksum,
    degraded_modalities,
    read_shard,
)
from fusion.data.finding import PairRef, Rejected
from fusion.data.pairs import BadPair, Pair, read_pair
from fusion.data.quotas import choose_degradations, find_data_sets, find_quota, parse_data_sets
from fusion.data.synthetic import is_synthetic
from fusion.degrade import GREY_VERSION, degrade, expand_preset, parse_degradation
from fusion.errors import UserError
from fusion.images.colour import is_grey
from fusion.images.formats import BadImage, read_size

SHARED_PIXELS = 4_000_000  # larger images draw their noise anew for every level, which needs less memory
DEFAULT_PIXELS = 640 * 480  # of a pair whose size cannot be read when shards are planned


@dataclass(frozen=True)
class CorpusConfig:
    """What shapes a corpus. `preset` is a preset or a list of degradations, as in "demmi-rf" or "noise2,haze2+noise3".

    `data_sets`, "SOURCE=NAME,...", says what data sets sources are of, for a preset that has a quota of each.
    `val_fraction` of the training pairs becomes "val"; `test_fraction` of all becomes "test" where the folders have no
    test split of their own. `sequences`: near-duplicates stay in one split; `sequence_pattern`: so do file names
    with the same first group of it. `splits`: a frozen split file instead.
    Shards hold at most `shard_samples` samples and `shard_megabytes` of pixels.
    """

    pairs: str
    preset: str = "demmi-rf"
    data_sets: str = ""
    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    sequences: bool = True
    sequence_pattern: str = ""
    splits: str = ""
    shard_samples: int = 64
    shard_megabytes: int = 128

    def __post_init__(self) -> None:
        expand_preset(self.preset)
        quota, data_sets = find_quota(self.preset), parse_data_sets(self.data_sets)  # both tell what cannot be read
        if data_sets and quota is None:
            raise UserError(f"--data-sets is for presets with numbers of samples; --preset {self.preset} has none.")
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
        """How many samples the shard will have if every pair can be used."""
        return sum(map(len, self.degradations))

    @property
    def fingerprint(self) -> str:
        """Equal plans under equal versions of what draws and packs the pixels give equal bytes."""
        return fingerprint([asdict(self), library_versions()])


@dataclass(frozen=True)
class ShardRecord:
    """What is in a finished shard, as kept in OUT/records/NAME.json.

    pairs: how many were used; bytes, sha256: of the file; counts: (source, degradation, level, samples); boxes: in all
    samples; plan: the fingerprint of the `ShardPlan`; grey_version: `degrade.GREY_VERSION` at the time; records
    that do not say are of version 1.
    """

    name: str
    split: str
    rows: int
    groups: int
    pairs: int
    bytes: int
    sha256: str
    counts: tuple[tuple[str, str, str, int], ...]
    boxes: int
    rejected: tuple[Rejected, ...]
    plan: str
    grey_version: int = 1

    @property
    def info(self) -> ShardInfo:
        """The part of the record that the manifest lists."""
        return ShardInfo(self.name, self.split, self.rows, self.groups, self.bytes, self.sha256)


def library_versions() -> dict[str, Any]:
    """Return the versions of what reads, draws and packs the pixels, and of the schema."""
    return {"schema": SCHEMA_VERSION} | {library.__name__: library.__version__ for library in (np, cv2, pa, PIL)}


def plan_shards(refs: Sequence[PairRef], config: CorpusConfig) -> list[ShardPlan]:
    """Plan shards of one split each, of whole pairs, in the order of the keys."""
    degradations = tuple(str(degradation) for degradation in expand_preset(config.preset))
    data_sets = find_data_sets((ref.source for ref in refs), config.preset, config.data_sets)
    wanted = choose_degradations(refs, degradations, config.preset, config.seed, data_sets)
    most = max(map(len, wanted.values()), default=1)  # of one pair: a preset with a quota gives most pairs few
    row_group = rows_per_group(most)
    plans: list[ShardPlan] = []
    for split in SPLITS:
        chosen = sorted((ref for ref in refs if ref.split == split and wanted[ref.key]), key=lambda ref: ref.key)
        step = _pairs_per_shard(chosen, most, config)
        for start in range(0, len(chosen), step):
            part = tuple(chosen[start : start + step])
            name = f"{len(plans):06d}-{split}.parquet"
            plans.append(ShardPlan(name, split, part, tuple(wanted[ref.key] for ref in part), row_group, config.seed))
    return plans


def rows_per_group(degradations: int) -> int:
    """Return the rows of a row group: whole pairs, about 8 rows."""
    return degradations * max(1, 8 // degradations)


def build_shard(plan: ShardPlan, root: str) -> ShardRecord:
    """Read, degrade, pack and write one shard and its record, unless both are already there; return the record.

    Pairs that cannot be used are in `rejected`. Raises StoreError, or UserError where `root` cannot be written.
    """
    finished = read_finished_record(plan, root)
    if finished is not None:
        return finished
    cv2.setNumThreads(1)  # Ray gives a task one core
    writer = ShardWriter(plan.row_group)
    counts: Counter[tuple[str, str, str]] = Counter()
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
    record = ShardRecord(
        name=plan.name,
        split=plan.split,
        rows=writer.rows,
        groups=writer.groups,
        pairs=len(plan.refs) - len(rejected),
        bytes=len(data),
        sha256=checksum(data),
        counts=tuple((*kind, count) for kind, count in counts.items()),
        boxes=boxes,
        rejected=tuple(rejected),
        plan=plan.fingerprint,
        grey_version=GREY_VERSION,
    )
    storage.write_text(_record_path(plan, root), json.dumps(to_dict(record)) + "\n")
    return record


def read_finished_record(plan: ShardPlan, root: str) -> ShardRecord | None:
    """Return the record of a shard that an earlier run of the same plan finished, else None.

    None too where grey visible images were degraded in another way than today's, so that no corpus has both. Raises
    StoreError, and UserError for a shard that is damaged.
    """
    try:
        data = json.loads(storage.read_bytes(_record_path(plan, root)))
    except (OSError, ValueError):
        return None
    try:
        record = from_dict(ShardRecord, data, "record")
    except UserError:  # a record that is damaged, or of another revision
        return None
    path = storage.join(root, "shards", plan.name)
    if storage.file_size(path) != record.bytes or record.plan != plan.fingerprint:
        return None
    return None if record.grey_version != GREY_VERSION and _has_degraded_grey(path) else record


def _has_degraded_grey(path: str) -> bool:
    """Whether a shard has a grey visible image under a degradation of the visible camera."""
    for row in read_shard(path, ["degradation", "height", "width", "visible"]).to_pylist():
        pixels = np.frombuffer(row["visible"], np.uint8).reshape(row["height"], row["width"], 3)
        if "visible" in degraded_modalities(row["degradation"]) and is_grey(pixels):
            return True
    return False


def make_sample(ref: PairRef, pair: Pair, degradation: str, seed: int, cache: dict[str, Any] | None = None) -> Sample:
    """Make one row: the pair, and the pair under one degradation, such as "haze2+noise1". `cache`: see `degrade`."""
    parsed = parse_degradation(degradation)
    degraded = degrade(pair.visible, pair.infrared, parsed, seed=seed, key=ref.key, depth=pair.depth, cache=cache)
    return Sample(
        key=ref.key,
        split=ref.split,
        source=ref.source,
        degradation=parsed.name,
        level=parsed.level,
        parameters=json.dumps(degraded.parameters, sort_keys=True),
        visible=pair.visible,
        infrared=pair.infrared,
        degraded_visible=degraded.visible,
        degraded_infrared=degraded.infrared,
        boxes=pair.boxes,
        classes=pair.classes,
        notes=pair.notes,
    )


def _record_path(plan: ShardPlan, root: str) -> str:
    """Return where the record of a planned shard is."""
    return storage.join(root, "records", plan.name.replace(".parquet", ".json"))


def _pairs_per_shard(refs: Sequence[PairRef], degradations: int, config: CorpusConfig) -> int:
    """Return how many pairs fit into a shard, by number and by the largest size among the sources; at least 1."""
    by_count = config.shard_samples // degradations
    largest = max((_pixel_count(ref) for ref in _first_of_each_source(refs)), default=1)
    bytes_per_pair = 4 * largest * (1 + degradations)  # three visible and one infrared byte a pixel, before zstd
    return max(1, min(by_count, math.floor(config.shard_megabytes * 1e6 / bytes_per_pair)))


def _first_of_each_source(refs: Sequence[PairRef]) -> list[PairRef]:
    """Return the first pair of each source, in order."""
    first: dict[str, PairRef] = {}
    for ref in refs:
        first.setdefault(ref.source, ref)
    return list(first.values())


def _pixel_count(ref: PairRef) -> int:
    """Return the pixels of a pair by its infrared image's header; unreadable files are rejected later.

    Raises StoreError: a store that is down must not change the plan.
    """
    if is_synthetic(ref.infrared):
        return math.prod(int(side) for side in ref.infrared.split(":")[2].split("x"))
    try:
        return math.prod(read_size(storage.read_bytes(ref.infrared)))
    except (OSError, ValueError, BadImage, MemoryError):  # MemoryError: a file that claims to be huge
        return DEFAULT_PIXELS
