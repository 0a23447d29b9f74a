"""Presets with a fixed number of samples by split, degradation and data set, as TG-ECNet's DeMMI-RF has them.

The numbers are those of the tables in the README of LeeX54946/TG-ECNet (the training set for fusion, the test set, and
the 510 images of 17 mixtures). What it does not say: which images; whether one image is under several degradations
(here it may be: every degradation draws for itself); the data sets of the 510. Left out is Bosch, which has no infrared
images. MSRS under stripes is the set that EMS has published too; here stripes are drawn on MSRS's own pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fusion.data.finding import PairRef
from fusion.degrade import PRESETS
from fusion.errors import UserError
from fusion.seeds import derive_seed

Quota = Mapping[str, Mapping[str, Mapping[str, int]]]  # split -> degradation -> data set -> samples

ANY = "any"  # in place of a data set: pairs of all of them together
DATA_SETS = ("M3FD", "FMB", "LLVIP", "MSRS", "RoadScene", "DroneVehicle", "DroneRGBT")
PARTS = {"train": ("train", "val"), "test": ("test",)}  # splits that share a quota


def _by_data_set(*samples: int) -> dict[str, int]:
    return {name: count for name, count in zip(DATA_SETS, samples, strict=True) if count}


# Noise of sigma 15, 25, 50 is noise1, noise2, noise3. Columns: DATA_SETS.
DEMMI_RF: Quota = {
    "train": {
        "noise1": _by_data_set(130, 133, 226, 19, 0, 2700, 300),
        "noise2": _by_data_set(129, 132, 225, 19, 0, 2700, 300),
        "noise3": _by_data_set(129, 132, 226, 19, 0, 2700, 300),
        "haze2": _by_data_set(173, 358, 0, 0, 0, 2700, 307),
        "defocus2": _by_data_set(0, 0, 1622, 388, 155, 2700, 300),
        "stripes2": _by_data_set(3900, 0, 0, 509, 0, 2700, 300),
    },
    "test": {
        "noise1": _by_data_set(56, 57, 97, 8, 0, 1000, 300),
        "noise2": _by_data_set(56, 57, 97, 8, 0, 1000, 300),
        "noise3": _by_data_set(56, 57, 97, 8, 0, 1000, 300),
        "haze2": _by_data_set(75, 153, 150, 0, 0, 1000, 300),
        "defocus2": _by_data_set(0, 0, 696, 167, 66, 1000, 300),
        "stripes2": _by_data_set(84, 0, 50, 0, 0, 1000, 300),
    },
}
DEMMI_RF_COMBINATIONS: Quota = {"test": {str(mixture): {ANY: 30} for mixture in PRESETS["combinations"]}}
QUOTAS: dict[str, Quota] = {"demmi-rf-counts": DEMMI_RF, "demmi-rf-combinations": DEMMI_RF_COMBINATIONS}


def find_quota(preset: str) -> Quota | None:
    """Return the samples of a preset; None if it has no fixed numbers.

    Raises UserError when a preset that has is listed with others.
    """
    names = [name.strip().lower() for name in preset.split(",")]
    named = [name for name in names if name in QUOTAS]
    if named and len(names) > 1:
        raise UserError(f"preset {named[0]} has fixed numbers of samples and stands alone. Give --preset {named[0]}.")
    return QUOTAS[named[0]] if named else None


def parse_data_sets(text: str) -> dict[str, str]:
    """Parse "night=MSRS,day=M3FD" into source -> data set. Raises UserError, naming the data sets known."""
    known = {_plain(name): name for name in DATA_SETS}
    named = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        source, equals, name = item.rpartition("=")
        if not equals or not source.strip() or _plain(name) not in known:
            raise UserError(
                f"cannot read --data-sets {item!r}. Write SOURCE=NAME, with a source of the pairs and one of "
                f"{', '.join(DATA_SETS)}."
            )
        named[source.strip()] = known[_plain(name)]
    return named


def find_data_sets(sources: Iterable[str], preset: str, named: str = "") -> dict[str, str]:
    """Return source -> the data set of `DATA_SETS` that it is part of, "" for none; {} for a preset without quota.

    A source is what the folders above its images are called (`PairRef.source`). It is part of the data set whose name
    is in it, in any case and spelling ("llvip_small", "Drone-Vehicle"), or of the one that `named` says: see
    `parse_data_sets`. Raises UserError: several names in one source, one in `named` that does not exist, or no source
    of a data set that the preset takes.
    """
    quota, given, sources = find_quota(preset), parse_data_sets(named), sorted(set(sources))
    unknown = [source for source in given if source not in sources]
    if unknown:
        raise UserError(f"--data-sets names {unknown[0]!r}; the sources of these pairs are {', '.join(sources)}.")
    if quota is None:
        return {}
    found = {}
    for source in sources:
        names = [given[source]] if source in given else [name for name in DATA_SETS if _plain(name) in _plain(source)]
        if len(names) > 1:
            raise UserError(f"source {source!r}: {' or '.join(names)}? Say which by --data-sets {source}={names[0]}.")
        found[source] = names[0] if names else ""
    taken = {name for wanted in quota.values() for numbers in wanted.values() for name in numbers}
    if ANY not in taken and not taken & set(found.values()):
        raise UserError(
            f"preset {preset} takes pairs of {', '.join(DATA_SETS)}; the sources here are {', '.join(sources)}. "
            "Call the folders after their data sets, or say --data-sets SOURCE=NAME."
        )
    return found


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def choose_degradations(
    refs: Sequence[PairRef], degradations: tuple[str, ...], preset: str, seed: int, data_sets: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return key -> the degradations it gets: all, or those of as many pairs as the preset's quota wants.

    Pairs are ranked by a hash of seed, degradation and key, and the first ones of each data set are taken. The training
    quota is for training and validation together, as the one is carved out of the other. data_sets: what
    `find_data_sets` returns. Raises UserError when nothing is left.
    """
    quota = find_quota(preset)
    if quota is None:
        return {ref.key: degradations for ref in refs}
    chosen: dict[str, list[str]] = {ref.key: [] for ref in refs}
    for degradation in degradations:
        for split, wanted in quota.items():
            keys = _keys_by_data_set([ref for ref in refs if ref.split in PARTS[split]], data_sets)
            rank = {key: derive_seed(seed, "quota", degradation, key) for key in keys[ANY]}
            for name, count in wanted.get(degradation, {}).items():
                for key in sorted(keys.get(name, ()), key=rank.__getitem__)[:count]:
                    chosen[key].append(degradation)
    if refs and not any(chosen.values()):
        here = ", ".join(sorted({f"{data_sets[ref.source] or ref.source} ({ref.split})" for ref in refs}))
        raise UserError(
            f"preset {preset} takes none of these pairs: {here}. It takes the splits {', '.join(quota)}; give others "
            "by --test-fraction or --splits."
        )
    return {key: tuple(chosen_degradations) for key, chosen_degradations in chosen.items()}


def _keys_by_data_set(refs: Sequence[PairRef], data_sets: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the keys of the pairs of each data set, and of all pairs as `ANY`."""
    keys: dict[str, list[str]] = {ANY: [ref.key for ref in refs]}
    for ref in refs:
        keys.setdefault(data_sets[ref.source], []).append(ref.key)
    return keys


@dataclass(frozen=True)
class QuotaRow:
    """How many samples of a split, degradation and data set the preset wants, and how many were made.

    data_set: `ANY` for all of a degradation together.
    """

    split: str
    degradation: str
    data_set: str
    wanted: int
    made: int


def compare_with_quota(
    preset: str, made: Mapping[tuple[str, str, str], int], data_sets: Mapping[str, str]
) -> list[QuotaRow]:
    """Compare the samples made, by (split, degradation, source), with the preset's quota; empty without one.

    A row for all of each degradation, followed by one for each data set of which there is a pair.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    for (split, degradation, source), number in made.items():
        for name in (ANY, data_sets.get(source, "")):
            counts[split, degradation, name] += number
    rows = []
    for split, wanted in (find_quota(preset) or {}).items():
        for degradation, numbers in wanted.items():
            here = {name: number for name, number in numbers.items() if name in data_sets.values()}
            for name, number in ({ANY: sum(numbers.values())} | here).items():
                total = sum(counts[part, degradation, name] for part in PARTS[split])
                rows.append(QuotaRow(split, degradation, name, number, total))
    return rows
