"""What fuse, score, detect and evolve work on: pairs, or the rows of a corpus, cut into units of work for Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np

from fusion import storage
from fusion.data.corpus import SPLITS, open_corpus, read_group
from fusion.data.finding import PairRef, Rejected
from fusion.data.pairs import BadPair, Pair, find_pairs, read_pair
from fusion.data.synthetic import resolve_pairs_uri
from fusion.errors import UserError
from fusion.images.decode import decode
from fusion.images.formats import EXTENSIONS, BadImage

PAIRS_PER_TASK = 8


@dataclass(frozen=True)
class PairUnit:
    """A few pairs, read by one task."""

    refs: tuple[PairRef, ...]


@dataclass(frozen=True)
class ShardUnit:
    """A row group of a shard of a corpus, read by one task."""

    shard: str
    group: int


Unit = PairUnit | ShardUnit


@dataclass(frozen=True)
class Item:
    """A clean pair and what to fuse: the same pair, or its degraded version.

    visible: uint8 (H, W, 3) or (H, W); infrared: uint8 (H, W); boxes: float32 (n, 4), with n classes.
    """

    key: str
    degradation: str
    level: str
    visible: np.ndarray
    infrared: np.ndarray
    degraded_visible: np.ndarray
    degraded_infrared: np.ndarray
    boxes: np.ndarray
    classes: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Where its fused image lies below the output: nothing for pairs, degradation/level for corpus rows."""
        return f"{self.degradation}/{self.level}" if self.degradation else ""

    @property
    def name(self) -> str:
        """The folder and the key: the name of its fused image without the extension."""
        return f"{self.folder}/{self.key}".lstrip("/")


@dataclass(frozen=True)
class Problem:
    """What is wrong with an image of a method; method: "" where it is the pair itself. A row of problems.csv."""

    method: str
    image: str
    problem: str


@dataclass(frozen=True)
class Source:
    """What there is to work on.

    Args:
        units: The units of work.
        images: How many images they hold.
        rejected: The pairs that cannot be used.
        description: Which pairs or which corpus, for the JSON of a result.
    """

    units: list[Unit]
    images: int
    rejected: tuple[Rejected, ...]
    description: dict[str, Any]


def open_source(pairs: str | None, corpus: str | None, split: str) -> Source:
    """Find the units of work of exactly one of `pairs` and `corpus`.

    UserError: neither or both, nothing found, no rows of the split.
    """
    if pairs is not None and corpus is None:
        uri = resolve_pairs_uri(pairs)
        found = find_pairs(uri)
        return Source(list(pair_units(found.refs)), len(found.refs), found.rejected, {"pairs": uri})
    if corpus is None or pairs is not None:
        raise UserError(f"give either --pairs or --corpus, not {'both' if pairs else 'none'}.")
    if split not in (*SPLITS, "all"):
        raise UserError(f"--split is {split!r}; it must be one of {', '.join(SPLITS)}, all")
    manifest = open_corpus(corpus)
    chosen = None if split == "all" else split
    groups = manifest.groups(chosen)
    if not groups:
        raise UserError(f"{corpus} has no rows of split {split!r}. Choose another --split.")
    description = {
        "corpus": storage.absolute(corpus),
        "content_sha256": manifest.content,
        "split": split,
        "config": manifest.data["config"],
    }
    units: list[Unit] = [ShardUnit(storage.absolute(path), group) for path, group in groups]
    return Source(units, manifest.rows(chosen), (), description)


def pair_units(refs: Sequence[PairRef]) -> list[PairUnit]:
    """Cut pairs into units of work, in their order."""
    return [PairUnit(tuple(refs[i : i + PAIRS_PER_TASK])) for i in range(0, len(refs), PAIRS_PER_TASK)]


def read_items(unit: Unit) -> Iterator[Item | Rejected]:
    """Read the images of one unit of work; a pair that cannot be read comes with the reason."""
    if isinstance(unit, ShardUnit):
        for row in read_group(unit.shard, unit.group):
            clean = (row.visible, row.infrared)
            degraded = (row.degraded_visible, row.degraded_infrared)
            yield Item(row.key, row.degradation, row.level, *clean, *degraded, row.boxes, row.classes)
        return
    for ref in unit.refs:
        try:
            pair = read_pair(ref)
        except BadPair as error:
            yield Rejected(ref.key, str(error))
            continue
        yield item_of_pair(pair)


def item_of_pair(pair: Pair) -> Item:
    """Return the item of a pair that is fused as it is."""
    images = (pair.visible, pair.infrared)
    return Item(pair.key, "", "", *images, *images, pair.boxes, pair.classes)


def parse_named_dirs(texts: Sequence[str]) -> dict[str, str]:
    """Parse NAME=DIR or DIR of every text into {name: folder}. UserError: twice the same name, no such folder."""
    folders: dict[str, str] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or storage.is_uri(name):  # a URI may have an = of its own
            folder = text
            name = unquote(text.partition("?")[0].rstrip("/").rpartition("/")[2])
        if not name or name in folders:
            raise UserError(f"--fused {text}: the name {name!r} is empty or used twice. Give NAME=DIR.")
        if not storage.is_dir(folder):
            raise UserError(f"--fused {text}: there is no folder {folder}. Give NAME=DIR with the fused images.")
        folders[name] = folder
    if not folders:
        raise UserError("give at least one --fused NAME=DIR.")
    return folders


def read_fused_image(folder: str, item: Item) -> np.ndarray:
    """Read the fused image of an item, uint8 (H, W) or (H, W, 3), under any usual extension.

    UserError: missing or unreadable.
    """
    folder = storage.join(folder, item.folder) if item.folder else folder
    for extension in dict.fromkeys((".png", *EXTENSIONS)):
        path = storage.join(folder, f"{item.key}{extension}")
        try:
            return decode(storage.read_bytes(path)).pixels
        except FileNotFoundError:
            continue
        except (OSError, BadImage) as error:
            raise UserError(f"{path}: {error}") from error
    raise UserError(f"no fused image in {folder}")


def check_size(fused: np.ndarray, infrared: np.ndarray) -> None:
    """Raise UserError when a fused image, (H, W) or (H, W, 3), has another size than its pair."""
    if fused.shape[:2] != infrared.shape[:2]:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (fused.shape, infrared.shape)]
        raise UserError(f"size differs: fused {sizes[0]}, pair {sizes[1]}")
