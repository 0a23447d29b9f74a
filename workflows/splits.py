"""The splits of a corpus: frozen, kept from an earlier start, or drawn with near-duplicates together, found on Ray."""

from __future__ import annotations

from dataclasses import asdict

from tqdm import tqdm

from fusion import storage
from fusion.config import from_dict
from fusion.data.corpus import checksum
from fusion.data.finding import PairRef
from fusion.data.near_duplicates import group_near_duplicates, image_signature
from fusion.data.pairs import BadPair, read_pair
from fusion.data.splits import FILE, assign_splits, read_frozen_splits, splits_to_csv
from fusion.data.synthetic import is_synthetic
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.inputs import PAIRS_A_TASK


def checked_splits(path: str, refs) -> str:
    """The checksum of the frozen split file, "" without one. UserError, early, if it does not fit the pairs."""

    if not path:
        return ""
    read_frozen_splits(refs, path)
    return checksum(storage.read_bytes(path))


def split_pairs(refs, config, out: str):
    """The pairs with their splits: those of OUT/splits.csv where it is there, so a restart looks at nothing twice."""

    path = storage.join(out, FILE)
    if storage.exists(path):
        return read_frozen_splits(refs, path)[0]
    if config.splits:
        refs, sequence = read_frozen_splits(refs, config.splits)
    else:
        sequence = find_near_duplicates(refs) if config.sequences and not is_synthetic(config.pairs) else {}
        refs = assign_splits(refs, config, sequence)
        warn_empty_splits(refs, config)
    storage.write_text(path, splits_to_csv(refs, sequence))
    return refs


def warn_empty_splits(refs, config) -> None:
    """Where a share was wanted and nothing could be taken: all is one sequence, or too little."""
    for split, share in (("test", config.test_fraction), ("val", config.val_fraction)):
        if share and not any(ref.split == split for ref in refs):
            log_progress(
                f"no pair is left for {split!r}: there are too few, or too few sequences of near-duplicates. "
                "--no-sequences draws single pairs, --splits takes a split file."
            )


def find_near_duplicates(refs) -> dict[str, str]:
    """key -> sequence, from a look at every pair, unless the folders give every split."""

    splits: dict[str, set[str]] = {}
    for ref in refs:
        splits.setdefault(ref.source, set()).add(ref.split)
    if all({"val", "test"} <= found and "" not in found for found in splits.values()):
        return {}  # nothing is drawn
    connect()
    all_refs = [asdict(ref) for ref in refs]
    rows = [{"refs": all_refs[i : i + PAIRS_A_TASK]} for i in range(0, len(all_refs), PAIRS_A_TASK)]
    signatures: dict[str, bytes] = {}
    unread = 0
    with tqdm(total=len(refs), unit="pair", desc="sequences", mininterval=1) as bar:
        for done in in_parallel(rows, sign_pairs):
            signatures |= {key: bytes.fromhex(text) for key, text in done["signatures"].items()}
            unread += done["unread"]
            bar.update(done["pairs"])
    if unread:
        log_progress(f"{unread} pairs could not be read and are sequences of their own")
    found = group_near_duplicates(signatures)
    log_progress(
        f"{len(found)} pairs in {len(set(found.values()))} sequences of near-duplicates; each stays in one split"
    )
    return found


def sign_pairs(row: dict) -> list[dict]:
    """The signatures of a few pairs, in a Ray task; pairs that cannot be read are told later, when they are built."""

    found = {}
    for ref in row["refs"]:
        try:
            pair = read_pair(from_dict(PairRef, ref))
        except BadPair:
            continue
        found[pair.key] = image_signature(pair.visible, pair.infrared).hex()
    return [{"signatures": found, "pairs": len(row["refs"]), "unread": len(row["refs"]) - len(found)}]
