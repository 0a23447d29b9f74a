"""Splits: training, validation or test, by the pair's folder, by a frozen file, or drawn; sequences stay whole.

A split file is CSV with the columns key, split, sequence, sorted by key; every corpus keeps its own as splits.csv.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from fusion import storage
from fusion.data.corpus import SPLITS
from fusion.data.finding import PairRef
from fusion.data.listing import stem
from fusion.errors import UserError
from fusion.seeds import derive_seed

FILE = "splits.csv"
COLUMNS = ["key", "split", "sequence"]


class SplitConfig(Protocol):
    """What a draw needs of a config: the seed, and the fractions of pairs for validation and test."""

    @property
    def seed(self) -> int:
        """Of the draw."""

    @property
    def val_fraction(self) -> float:
        """Of the training pairs."""

    @property
    def test_fraction(self) -> float:
        """Of all pairs."""


def assign_splits(
    refs: Sequence[PairRef], config: SplitConfig, sequence: Mapping[str, str] | None = None
) -> list[PairRef]:
    """Keep the splits that folders give; draw the others by seed and keys alone: where the pairs lie does not matter.

    `sequence`: key -> name of its sequence (absent: a sequence of its own). Pairs without a split that hang on pairs
    with one go there too. Then, source by source, sequences are ranked by a hash and taken while they fit into the
    share (met exactly, rounded, where all are single pairs), or the smallest one where none fits. A sequence is taken
    whole, also where it spans sources.
    """
    sequence = sequence or {}
    source = {ref.key: ref.source for ref in refs}
    given = {(ref.source, ref.split) for ref in refs if ref.split}  # what folders give is not drawn
    splits = {ref.key: ref.split for ref in refs if ref.split}
    members: dict[str, list[str]] = {}
    for ref in refs:
        members.setdefault(sequence.get(ref.key, ref.key), []).append(ref.key)
    for keys in members.values():
        known = {splits[key] for key in keys if key in splits}
        if known:
            first = next(split for split in ("test", "val", "train") if split in known)
            splits |= {key: first for key in keys if key not in splits}

    for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        for name in sorted(set(source.values())):
            if (name, split) in given:
                continue
            own = [key for key in source if source[key] == name]
            free = {"train"} if split == "val" else set()  # validation is carved out of training
            pool = [key for key in own if splits.get(key, "train") in ("train", split) and (free or key not in splits)]
            candidates = {sequence.get(key, key) for key in pool}
            ranked = [
                [key for key in members[candidate] if source[key] == name]
                for candidate in sorted(candidates, key=lambda candidate: derive_seed(config.seed, "split", candidate))
                if all(key not in splits or splits[key] in free for key in members[candidate])
                and not any((source[key], split) in given for key in members[candidate])
            ]
            already = sum(splits.get(key) == split for key in own)
            wanted = round(fraction * (len(pool) + (0 if free else already))) - already
            for key in _take_sequences(ranked, wanted):
                splits |= dict.fromkeys(members[sequence.get(key, key)], split)
    return [replace(ref, split=splits.get(ref.key, "train")) for ref in refs]


def match_sequences(refs: Sequence[PairRef], pattern: str) -> dict[str, str]:
    r"""Return key -> sequence: the first group of a regular expression that fits the whole stem of the visible file.

    "(\d+)\d{3}" names slices 21004, 21006, 21008 of patient 21 by the patient. Pairs whose stem it does not fit are
    left out. One name is one sequence, whatever folder its pairs are in. UserError: no regular expression, or one
    without a group, or it fits no pair.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--sequence-pattern {pattern!r} is no regular expression: {error}.") from error
    if not compiled.groups:
        raise UserError(
            rf"--sequence-pattern {pattern!r} has no group. Put what names a sequence in ( ): '(\d+)\d{{3}}'."
        )
    found = {ref.key: compiled.fullmatch(stem(ref.visible)) for ref in refs}
    sequence = {key: match[1] for key, match in found.items() if match and match[1]}
    if refs and not sequence:
        raise UserError(f"--sequence-pattern {pattern!r} fits no file name; {stem(refs[0].visible)!r} is one.")
    return sequence


def _take_sequences(ranked: list[list[str]], wanted: int) -> list[str]:
    """Return the keys of the first sequences that fit, `wanted` at most.

    Where none fits and others are left for training: those of the smallest one.
    """
    taken: list[str] = []
    for keys in ranked:
        if len(keys) <= wanted - len(taken):
            taken += keys
    if not taken and wanted > 0 and len(ranked) > 1:
        taken = min(ranked, key=len)
    return taken


def splits_to_csv(refs: Sequence[PairRef], sequence: Mapping[str, str]) -> str:
    """Return the text of the split file of these pairs; `sequence`: key -> sequence."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted([ref.key, ref.split, sequence.get(ref.key, ref.key)] for ref in refs))
    return out.getvalue()


def read_frozen_splits(refs: Sequence[PairRef], path: str) -> tuple[list[PairRef], dict[str, str]]:
    """Return the pairs with the splits of a split file, which goes before their folders', and key -> sequence.

    Raises UserError: no such file, no split file, or a pair that it does not name.
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
    splits: dict[str, str] = {}
    for row in rows:
        if splits.setdefault(row["key"], row["split"]) != row["split"]:
            raise UserError(f"{path} names {row['key']} twice, with different splits.")
    absent = [ref.key for ref in refs if ref.key not in splits]
    if absent:
        raise UserError(f"{path} does not name {len(absent)} of the pairs, {absent[0]} first. Is it of other pairs?")
    return [replace(ref, split=splits[ref.key]) for ref in refs], {
        row["key"]: row.get("sequence") or row["key"] for row in rows
    }
