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
from fusion.data.corpus import SPLITS
from fusion.data.finding import PairRef
from fusion.errors import UserError
from fusion.seeds import derive_seed

FILE = "splits.csv"
COLUMNS = ["key", "split", "sequence"]


class Shares(Protocol):
    """What a draw needs of a config."""

    seed: int
    val_fraction: float
    test_fraction: float


def assign_splits(refs: Sequence[PairRef], config: Shares, sequence: Mapping[str, str] | None = None) -> list[PairRef]:
    """Keep the splits that folders give, draw the others, by seed and keys alone: where the pairs lie does not matter.

    `sequence`: key -> name of its sequence (absent: a sequence of its own). Pairs without a split that hang on pairs
    with one go there too. Then, source by source, sequences are ranked by a hash and taken while they fit into the
    share (met exactly, rounded, where all are single pairs), or the smallest one where none fits. A sequence is taken
    whole, also where it spans sources.
    """
    sequence = sequence or {}
    source = {ref.key: ref.source for ref in refs}
    fixed = {(ref.source, ref.split) for ref in refs if ref.split}
    placed = {ref.key: ref.split for ref in refs if ref.split}
    whole: dict[str, list[str]] = {}
    for ref in refs:
        whole.setdefault(sequence.get(ref.key, ref.key), []).append(ref.key)
    for keys in whole.values():
        known = {placed[key] for key in keys if key in placed}
        if known:
            first = next(split for split in ("test", "val", "train") if split in known)
            placed |= {key: first for key in keys if key not in placed}

    for split, share in (("test", config.test_fraction), ("val", config.val_fraction)):
        for name in sorted(set(source.values())):
            if (name, split) in fixed:
                continue
            mine = [key for key in source if source[key] == name]
            free = {"train"} if split == "val" else set()  # validation is carved out of training
            pool = [key for key in mine if placed.get(key, "train") in ("train", split) and (free or key not in placed)]
            names = {sequence.get(key, key) for key in pool}
            ranked = [
                [key for key in whole[one] if source[key] == name]
                for one in sorted(names, key=lambda one: derive_seed(config.seed, "split", one))
                if all(key not in placed or placed[key] in free for key in whole[one])
                and not any((source[key], split) in fixed for key in whole[one])
            ]
            already = sum(placed.get(key) == split for key in mine)
            for key in _take_sequences(ranked, round(share * (len(pool) + (0 if free else already))) - already):
                placed |= dict.fromkeys(whole[sequence.get(key, key)], split)
    return [replace(ref, split=placed.get(ref.key, "train")) for ref in refs]


def _take_sequences(ranked: list[list[str]], room: int) -> list[str]:
    """Keys of the first sequences that fit; of the smallest one where none does and others are left for training."""
    taken: list[str] = []
    for keys in ranked:
        if len(keys) <= room - len(taken):
            taken += keys
    if not taken and room > 0 and len(ranked) > 1:
        taken = min(ranked, key=len)
    return taken


def splits_to_csv(refs: Sequence[PairRef], sequence: Mapping[str, str]) -> str:
    """The split file of these pairs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted([ref.key, ref.split, sequence.get(ref.key, ref.key)] for ref in refs))
    return out.getvalue()


def read_frozen_splits(refs: Sequence[PairRef], path: str) -> tuple[list[PairRef], dict[str, str]]:
    """The pairs with the splits of a split file, which goes before their folders', and their sequences.

    UserError: no such file, no split file, or a pair that it does not name.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the split file {path} ({error}). Give a splits.csv of a corpus.") from error
    if not rows or not {"key", "split"} <= set(rows[0]):
        raise UserError(f"{path} is no split file: it needs the columns key and split, and rows.")
    wrong = next((row for row in rows if row["split"] not in SPLITS), None)
    if wrong is not None:
        raise UserError(f"{path}: {wrong['key']} has split {wrong['split']!r}; it must be one of {', '.join(SPLITS)}.")
    placed: dict[str, str] = {}
    for row in rows:
        if placed.setdefault(row["key"], row["split"]) != row["split"]:
            raise UserError(f"{path} names {row['key']} twice, with different splits.")
    absent = [ref.key for ref in refs if ref.key not in placed]
    if absent:
        raise UserError(f"{path} does not name {len(absent)} of the pairs, {absent[0]} first. Is it of other pairs?")
    return [replace(ref, split=placed[ref.key]) for ref in refs], {
        row["key"]: row.get("sequence") or row["key"] for row in rows
    }
