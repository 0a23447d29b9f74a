"""The splits of a corpus: frozen, kept from an earlier start, or drawn with near-duplicates together, found on Ray."""

from __future__ import annotations

from dataclasses import asdict

from workflows.cluster import connect, in_parallel, say


def checked_splits(path: str, refs) -> str:
    """The checksum of the frozen split file, "" without one. UserError, early, if it does not fit the pairs."""
    from fusion import storage
    from fusion.corpus import checksum
    from fusion.splits import frozen_splits

    if not path:
        return ""
    frozen_splits(refs, path)
    return checksum(storage.read_bytes(path))


def split_pairs(refs, config, out: str):
    """The pairs with their splits: those of OUT/splits.csv where it is there, so a restart looks at nothing twice."""
    from fusion import storage
    from fusion.splits import FILE, assign_splits, frozen_splits, to_csv

    path = storage.join(out, FILE)
    if storage.exists(path):
        return frozen_splits(refs, path)[0]
    if config.splits:
        refs, sequence = frozen_splits(refs, config.splits)
    else:
        sequence = found_sequences(refs) if config.sequences and not config.pairs.startswith("scenes:") else {}
        refs = assign_splits(refs, config, sequence)
    storage.write_text(path, to_csv(refs, sequence))
    return refs


def found_sequences(refs) -> dict[str, str]:
    """key -> sequence, from a look at every pair whose source leaves a split to be drawn."""
    from tqdm import tqdm

    from fusion.sequences import sequences
    from workflows.sources import PAIRS_A_TASK

    splits: dict[str, set[str]] = {}
    for ref in refs:
        splits.setdefault(ref.source, set()).add(ref.split)
    loose = [asdict(ref) for ref in refs if "" in splits[ref.source] or not {"val", "test"} <= splits[ref.source]]
    if not loose:
        return {}
    connect()
    rows = [{"refs": loose[i : i + PAIRS_A_TASK]} for i in range(0, len(loose), PAIRS_A_TASK)]
    signatures: dict[str, bytes] = {}
    with tqdm(total=len(loose), unit="pair", desc="sequences", mininterval=1) as bar:
        for done in in_parallel(rows, sign):
            signatures |= {key: bytes.fromhex(text) for key, text in done["signatures"].items()}
            bar.update(done["pairs"])
    found = sequences(signatures)
    say(f"{len(found)} pairs in {len(set(found.values()))} sequences of near-duplicates; each stays in one split")
    return found


def sign(row: dict) -> list[dict]:
    """The signatures of a few pairs, in a Ray task; pairs that cannot be read are told later, when they are built."""
    from fusion.config import from_dict
    from fusion.pairs import BadPair, PairRef, read_pair
    from fusion.sequences import signature

    found = {}
    for ref in row["refs"]:
        try:
            pair = read_pair(from_dict(PairRef, ref))
        except BadPair:
            continue
        found[pair.key] = signature(pair.visible, pair.infrared).hex()
    return [{"signatures": found, "pairs": len(row["refs"])}]
