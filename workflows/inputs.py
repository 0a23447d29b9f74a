"""What fuse and score work on, pairs or the rows of a corpus, cut into units of work for Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from urllib.parse import unquote

import numpy as np

from fusion import storage
from fusion.config import from_dict
from fusion.data.corpus import SPLITS, open_corpus, read_group
from fusion.data.finding import PairRef
from fusion.data.pairs import BadPair, find_pairs, read_pair
from fusion.data.synthetic import resolve_pairs_uri
from fusion.errors import UserError
from fusion.images.decode import decode
from fusion.images.formats import EXTENSIONS, BadImage


def parse_named_dirs(texts: tuple[str, ...]) -> dict[str, str]:
    """NAME=DIR or DIR -> {name: folder}. UserError: twice the same name, no such folder."""

    found: dict[str, str] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or storage.is_uri(name):  # a URI may have an = of its own
            folder = text
            name = unquote(text.partition("?")[0].rstrip("/").rpartition("/")[2])
        if not name or name in found:
            raise UserError(f"--fused {text}: the name {name!r} is empty or used twice. Give NAME=DIR.")
        if not storage.is_dir(folder):
            raise UserError(f"--fused {text}: there is no folder {folder}. Give NAME=DIR with the fused images.")
        found[name] = folder
    if not found:
        raise UserError("give at least one --fused NAME=DIR.")
    return found


def read_fused_image(folder: str, item):
    """The fused image of an item, under any usual extension. UserError: missing or unreadable."""

    for extension in dict.fromkeys((".png", *EXTENSIONS)):
        path = storage.join(folder, *filter(None, (item.folder,)), f"{item.key}{extension}")
        try:
            return decode(storage.read_bytes(path)).pixels
        except FileNotFoundError:
            continue
        except (OSError, BadImage) as error:
            raise UserError(f"{path}: {error}") from error
    raise UserError(f"no fused image in {storage.join(folder, *filter(None, (item.folder,)))}")


PAIRS_A_TASK = 8


@dataclass(frozen=True)
class Item:
    """A clean pair and what to fuse: the same pair, or its degraded version. boxes: float32 (n, 4), with n classes."""

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


@dataclass(frozen=True)
class Source:
    """Units of work; the pairs that cannot be used; how many images there are; what it is."""

    units: list[dict]
    images: int
    rejected: list[dict[str, str]]
    about: dict[str, object]


def open_source(pairs: str | None, corpus: str | None, split: str) -> Source:
    """Exactly one of `pairs` and `corpus`. UserError: neither or both, nothing found, no rows of the split."""

    if (pairs is None) == (corpus is None):
        raise UserError(f"give either --pairs or --corpus, not {'both' if pairs else 'none'}.")
    if corpus is not None:
        if split not in (*SPLITS, "all"):
            raise UserError(f"--split is {split!r}; it must be one of {', '.join(SPLITS)}, all")
        manifest = open_corpus(corpus)
        chosen = None if split == "all" else split
        groups = manifest.groups(chosen)
        if not groups:
            raise UserError(f"{corpus} has no rows of split {split!r}. Choose another --split.")
        about = {
            "corpus": storage.absolute(corpus),
            "content_sha256": manifest.content,
            "split": split,
            "config": manifest.data["config"],
        }
        units = [{"shard": storage.absolute(path), "group": group} for path, group in groups]
        return Source(units, manifest.rows(chosen), [], about)
    where = resolve_pairs_uri(pairs)
    found = find_pairs(where)
    refs = [asdict(ref) for ref in found.refs]
    units = [{"refs": refs[i : i + PAIRS_A_TASK]} for i in range(0, len(refs), PAIRS_A_TASK)]
    return Source(units, len(refs), [asdict(item) for item in found.rejected], {"pairs": where})


def items(unit: dict) -> Iterator[Item | tuple[str, str]]:
    """The images of one unit of work; (key, reason) for a pair that cannot be read."""

    if "shard" in unit:
        for row in read_group(unit["shard"], unit["group"]):
            clean = (row.visible, row.infrared)
            degraded = (row.degraded_visible, row.degraded_infrared)
            yield Item(row.key, row.degradation, row.level, *clean, *degraded, row.boxes, row.classes)
        return
    for ref in unit["refs"]:
        try:
            pair = read_pair(from_dict(PairRef, ref))
        except BadPair as error:
            yield ref["key"], str(error)
            continue
        yield item_of(pair)


def item_of(pair) -> Item:
    images = (pair.visible, pair.infrared)
    return Item(pair.key, "", "", *images, *images, pair.boxes, pair.classes)
