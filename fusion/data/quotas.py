"""Presets with a fixed number of samples per split and degradation, as published data sets have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.data.finding import PairRef
from fusion.errors import UserError
from fusion.seeds import derive_seed

# TG-ECNet's DeMMI-RF: 26,631 training and 9,895 test samples. Noise of sigma 15, 25, 50 is noise1, noise2, noise3.
DEMMI_RF = {
    "train": {"noise1": 3508, "noise2": 3505, "noise3": 3506, "haze2": 3538, "defocus2": 5165, "stripes2": 7409},
    "test": {"noise1": 1518, "noise2": 1518, "noise3": 1518, "haze2": 1678, "defocus2": 2229, "stripes2": 1434},
}
PARTS = {"train": ("train", "val"), "test": ("test",)}  # splits that share a quota
QUOTAS: dict[str, dict[str, dict[str, int]]] = {"demmi-rf-counts": DEMMI_RF}


def find_quota(preset: str) -> dict[str, dict[str, int]] | None:
    """Return the samples of a preset by split and degradation; None if it has no fixed numbers.

    Raises UserError when a preset that has is listed with others.
    """
    names = [name.strip().lower() for name in preset.split(",")]
    named = [name for name in names if name in QUOTAS]
    if named and len(names) > 1:
        raise UserError(f"preset {named[0]} has fixed numbers of samples and stands alone. Give --preset {named[0]}.")
    return QUOTAS[named[0]] if named else None


def choose_degradations(
    refs: Sequence[PairRef], degradations: tuple[str, ...], preset: str, seed: int
) -> dict[str, tuple[str, ...]]:
    """Return key -> the degradations it gets: all, or those of as many pairs as the preset's quota wants.

    Pairs are ranked by a hash of seed, degradation and key, and the first ones are taken. The training quota is for
    training and validation together, as the one is carved out of the other.
    """
    quota = find_quota(preset)
    if quota is None:
        return {ref.key: degradations for ref in refs}
    chosen: dict[str, list[str]] = {ref.key: [] for ref in refs}
    for degradation in degradations:
        for splits in PARTS.values():
            keys = [ref.key for ref in refs if ref.split in splits]
            rank = {key: derive_seed(seed, "quota", degradation, key) for key in keys}
            for key in sorted(keys, key=rank.__getitem__)[: quota[splits[0]].get(degradation)]:  # up to None: all
                chosen[key].append(degradation)
    return {key: tuple(chosen_degradations) for key, chosen_degradations in chosen.items()}


@dataclass(frozen=True)
class QuotaRow:
    """How many samples of a split and degradation the preset wants, and how many were made."""

    split: str
    degradation: str
    wanted: int
    made: int


def compare_with_quota(preset: str, made: Mapping[tuple[str, str], int]) -> list[QuotaRow]:
    """Compare the samples made, by (split, degradation), with the preset's quota; empty without one."""
    return [
        QuotaRow(split, degradation, wanted, sum(made.get((part, degradation), 0) for part in PARTS[split]))
        for split, numbers in (find_quota(preset) or {}).items()
        for degradation, wanted in numbers.items()
    ]
