"""Which pair is for training, validation or testing: by its folder, by a frozen file, or drawn; sequences stay whole.

A split file is CSV with the columns key, split, sequence, sorted by key; every corpus keeps its own as splits.csv.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from fusion import storage
from fusion.corpus import SPLITS
from fusion.errors import UserError
from fusion.finding import PairRef
from fusion.seeds import derive

FILE = "splits.csv"
COLUMNS = ["key", "split", "sequence"]


class Shares(Protocol):
    """What a draw needs of a config."""

    seed: int
    val_share: float
    test_share: float


def assign_splits(refs: Sequence[PairRef], config: Shares, sequence: Mapping[str, str] | None = None) -> list[PairRef]:
    """Keep the splits that folders give, draw the others; the draw depends on seed, source and keys alone.

    `sequence`: key -> name of its sequence (absent: a sequence of its own). Per source, sequences are ranked by a hash
    and taken while they fit into the share, so shares are met exactly (rounded) where all sequences are single pairs,
    and never exceeded. A sequence that a folder's split holds part of goes there whole.
    """
    sequence = sequence or {}
    by_source: dict[str, list[PairRef]] = {}
    for ref in refs:
        by_source.setdefault(ref.source, []).append(ref)
    placed: dict[str, str] = {}
    for source, group in by_source.items():
        placed |= {ref.key: ref.split for ref in group if ref.split}
        whole: dict[str, list[str]] = {}
        for ref in group:
            whole.setdefault(sequence.get(ref.key, ref.key), []).append(ref.key)
        ranked = [whole[name] for name in sorted(whole, key=lambda name: derive(config.seed, "split", source, name))]
        for keys in ranked:
            known = [placed[key] for key in keys if key in placed]
            loose = [key for key in keys if key not in placed]
            if known and loose:
                placed |= dict.fromkeys(loose, "test" if "test" in known else known[0])
        if not any(ref.split == "test" for ref in group):
            loose = [keys for keys in ranked if keys[0] not in placed]
            placed |= dict.fromkeys(_take(loose, config.test_share), "test")
        if not any(ref.split == "val" for ref in group):
            train = [keys for keys in ranked if placed.get(keys[0], "train") == "train"]
            placed |= dict.fromkeys(_take(train, config.val_share), "val")
        placed |= {ref.key: placed.get(ref.key, "train") for ref in group}
    return [replace(ref, split=placed[ref.key]) for ref in refs]


def _take(ranked: list[list[str]], share: float) -> list[str]:
    """Keys of the first sequences that fit into the share of all keys."""
    room = round(share * sum(map(len, ranked)))
    taken: list[str] = []
    for keys in ranked:
        if len(keys) <= room - len(taken):
            taken += keys
    return taken


def to_csv(refs: Sequence[PairRef], sequence: Mapping[str, str]) -> str:
    """The split file of these pairs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted([ref.key, ref.split, sequence.get(ref.key, ref.key)] for ref in refs))
    return out.getvalue()


def frozen_splits(refs: Sequence[PairRef], path: str) -> tuple[list[PairRef], dict[str, str]]:
    """The pairs with the splits of a split file, and their sequences.

    UserError: no such file, no split file, or a pair that it does not name.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the split file {path} ({error}). Give a splits.csv of a corpus.") from error
    if not rows or not {"key", "split"} <= set(rows[0]):
        raise UserError(f"{path} is no split file: it needs the columns key and split, and rows.")
    wrong = next((row for row in rows if row["split"] not in SPLITS), None)
    if wrong is not None:
        raise UserError(f"{path}: {wrong['key']} has split {wrong['split']!r}; it must be one of {', '.join(SPLITS)}.")
    placed = {row["key"]: row["split"] for row in rows}
    absent = [ref.key for ref in refs if ref.key not in placed]
    if absent:
        raise UserError(f"{path} does not name {len(absent)} of the pairs, {absent[0]} first. Is it of other pairs?")
    return [replace(ref, split=placed[ref.key]) for ref in refs], {
        row["key"]: row.get("sequence") or row["key"] for row in rows
    }
