"""Presets with a fixed number of samples per split and degradation, as published data sets have them."""

from __future__ import annotations

from collections.abc import Sequence

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
    """The numbers of a preset, None if it has none. UserError when one that has is listed with others."""
    names = [name.strip().lower() for name in preset.split(",")]
    named = [name for name in names if name in QUOTAS]
    if named and len(names) > 1:
        raise UserError(f"preset {named[0]} has fixed numbers of samples and stands alone. Give --preset {named[0]}.")
    return QUOTAS[named[0]] if named else None


def choose_degradations(
    refs: Sequence[PairRef], degradations: tuple[str, ...], preset: str, seed: int
) -> dict[str, tuple[str, ...]]:
    """Key -> the degradations it gets: all, or as many pairs per split and degradation as the preset's quota wants.

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
            keys.sort(key=lambda key, what=degradation: derive_seed(seed, "quota", what, key))
            for key in keys[: quota[splits[0]].get(degradation)]:  # up to None: all
                chosen[key].append(degradation)
    return {key: tuple(found) for key, found in chosen.items()}


def compare_with_quota(preset: str, made: dict[tuple[str, str], int]) -> list[dict[str, object]]:
    """How far the samples made, by (split, degradation), are from the preset's quota; empty without one."""
    return [
        {
            "split": split,
            "degradation": degradation,
            "wanted": wanted,
            "made": sum(made.get((part, degradation), 0) for part in PARTS[split]),
        }
        for split, numbers in (find_quota(preset) or {}).items()
        for degradation, wanted in numbers.items()
    ]
