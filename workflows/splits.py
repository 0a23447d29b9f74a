"""The splits of a corpus: frozen, kept from an earlier start, or drawn with near-duplicates together, found on Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from fusion import storage
from fusion.data.corpus import checksum
from fusion.data.finding import PairRef
from fusion.data.near_duplicates import group_near_duplicates, image_signature
from fusion.data.pairs import BadPair, read_pair
from fusion.data.splits import FILE, assign_splits, match_sequences, read_frozen_splits, splits_to_csv
from fusion.data.synthetic import is_synthetic, scene_names
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.inputs import PairUnit, pair_units
from workflows.options import SplitOptions


def check_splits_file(path: str, refs: Sequence[PairRef]) -> str:
    """Return the checksum of the frozen split file, "" without one. UserError, early, if it does not fit the pairs."""
    if not path:
        return ""
    read_frozen_splits(refs, path)
    return checksum(storage.read_bytes(path))


def split_pairs(refs: Sequence[PairRef], options: SplitOptions, out: str) -> list[PairRef]:
    """Return the pairs with their splits, kept in OUT/splits.csv so that a restart looks at nothing twice."""
    path = storage.join(out, FILE)
    if storage.exists(path):
        return read_frozen_splits(refs, path)[0]
    sequence: Mapping[str, str]
    if options.splits:
        split_refs, sequence = read_frozen_splits(refs, options.splits)
    else:
        sequence = find_sequences(refs, options)
        split_refs = assign_splits(refs, options, sequence)
        warn_empty_splits(split_refs, options)
    storage.write_text(path, splits_to_csv(split_refs, sequence))
    return split_refs


def find_sequences(refs: Sequence[PairRef], options: SplitOptions) -> dict[str, str]:
    """Return key -> sequence: of those that have a name, and of the others, if asked for, by a look at every pair."""
    named = named_sequences(refs, options)
    others = [ref for ref in refs if ref.key not in named]
    return named | (find_near_duplicates(others) if options.sequences and others else {})


def named_sequences(refs: Sequence[PairRef], options: SplitOptions) -> dict[str, str]:
    """Return key -> sequence, by the scene of built-in pairs, which have no near-duplicates, and by file names."""
    read = [ref for ref in refs if not is_synthetic(ref.visible)]
    by_name = match_sequences(read, options.sequence_pattern) if options.sequence_pattern else {}
    return scene_names(refs) | by_name


def warn_empty_splits(refs: Sequence[PairRef], options: SplitOptions) -> None:
    """Say where a fraction was wanted and nothing could be taken: all is one sequence, or too little."""
    for split, fraction in (("test", options.test_fraction), ("val", options.val_fraction)):
        if fraction and not any(ref.split == split for ref in refs):
            log_progress(
                f"no pair is left for {split!r}: there are too few, or too few sequences of near-duplicates. "
                "--no-sequences draws single pairs, --splits takes a split file."
            )


@dataclass(frozen=True)
class Signatures:
    """What a task found out about a few pairs: key -> signature of those that can be read, and of how many pairs."""

    by_key: dict[str, bytes]
    num_pairs: int


def find_near_duplicates(refs: Sequence[PairRef]) -> dict[str, str]:
    """Return key -> sequence, from a look at every pair; {} where the folders give every split, so nothing is drawn."""
    splits: dict[str, set[str]] = {}
    for ref in refs:
        splits.setdefault(ref.source, set()).add(ref.split)
    if all({"val", "test"} <= given and "" not in given for given in splits.values()):
        return {}
    connect()
    signatures: dict[str, bytes] = {}
    with tqdm(total=len(refs), unit="pair", desc="sequences", mininterval=1) as bar:
        for result in in_parallel(pair_units(refs), sign_pairs):
            signatures |= result.by_key
            bar.update(result.num_pairs)
    if unread := len(refs) - len(signatures):
        log_progress(f"{unread} pairs could not be read and are sequences of their own")
    sequence = group_near_duplicates(signatures)
    count = len(set(sequence.values()))
    log_progress(f"{len(sequence)} pairs in {count} sequences of near-duplicates; each stays in one split")
    return sequence


def sign_pairs(unit: PairUnit) -> list[Signatures]:
    """Compute the signatures of a few pairs, in a Ray task; unreadable ones are told when they are built."""
    signatures = {}
    for ref in unit.refs:
        try:
            pair = read_pair(ref)
        except BadPair:
            continue
        signatures[pair.key] = image_signature(pair.visible, pair.infrared)
    return [Signatures(signatures, len(unit.refs))]
