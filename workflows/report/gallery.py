"""The gallery of the report: which of the scored images are shown, and what is under them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fusion.errors import UserError
from fusion.metrics import METRICS
from fusion.report.gallery import GalleryRow
from fusion.report.tables import degradation_order, level_order
from workflows.inputs import Item, PairUnit, open_source, read_fused_image, read_items
from workflows.report.results import Scores

if TYPE_CHECKING:
    import pandas as pd

CAPTIONS = ("qabf", "vif", "psnr")  # numbers under a fused picture


class ImageKey(NamedTuple):
    """An image of the score table. A pair that is not degraded has the degradation "clean" and the level "0"."""

    image: str
    degradation: str
    level: str


def choose_images(table: pd.DataFrame, count: int) -> list[ImageKey]:
    """Choose up to `count` images: each condition once, then again, walking through the images."""
    conditions = sorted(
        set(zip(table["degradation"], table["level"], strict=True)),
        key=lambda condition: (degradation_order(condition[0]), level_order(condition[1])),
    )
    images = {condition: sorted(set(rows["image"])) for condition, rows in table.groupby(["degradation", "level"])}
    longest = max(len(names) for names in images.values())
    chosen: dict[ImageKey, None] = {}  # in order, each once
    for turn in range(longest):
        for i, condition in enumerate(conditions):
            names = images[condition]
            if turn < len(names) and len(chosen) < count:
                chosen[ImageKey(names[(turn + i) % len(names)], *condition)] = None
    return sorted(chosen, key=lambda key: (degradation_order(key.degradation), level_order(key.level), key.image))


def find_items(scores: Scores, chosen: list[ImageKey]) -> list[Item]:
    """Read the chosen images from the pairs or the corpus that were scored, in the order chosen.

    UserError: the corpus is not the one that was scored.
    """
    source = scores.source
    opened = open_source(source.get("pairs"), source.get("corpus"), source.get("split", "test"))
    content = source.get("content_sha256")
    if content and opened.description["content_sha256"] != content:
        raise UserError(f"{source['corpus']} is not the corpus that was scored. Score again, or put the old one back.")
    names = {key.image for key in chosen}
    found: dict[ImageKey, Item] = {}
    for unit in opened.units:
        if len(found) == len(chosen):
            break
        if isinstance(unit, PairUnit) and not any(ref.key in names for ref in unit.refs):
            continue
        for item in read_items(unit):
            if isinstance(item, Item) and (key := key_of(item)) in chosen:
                found[key] = item
    return [found[key] for key in chosen if key in found]


def gallery_rows(scores: Scores, chosen: list[Item]) -> list[GalleryRow]:
    """Return a row of pictures for each of the chosen images: the pair, its degraded version, every method's result."""
    rows = []
    for item in chosen:
        title = item.key if not item.degradation else f"{item.key} · {item.degradation} · level {item.level}"
        images = {"visible": item.visible, "infrared": item.infrared}
        degraded = {"visible": item.degraded_visible, "infrared": item.degraded_infrared}
        changed = {name: image for name, image in degraded.items() if (image != images[name]).any()}
        for name, image in changed.items():  # one column when one modality is degraded, so that the columns line up
            images["degraded" if len(changed) == 1 else f"degraded {name}"] = image
        values: dict[str, dict[str, float]] = {}
        for method, folder in scores.methods.items():
            try:
                images[method] = read_fused_image(folder, item)
            except UserError:
                continue
            values[method] = caption_values(scores.table, method, item)
        rows.append(GalleryRow(title, images, values=values))
    return rows


def caption_values(table: pd.DataFrame, method: str, item: Item) -> dict[str, float]:
    """Return the numbers under one fused picture, by the label of their metric."""
    key = key_of(item)
    values = table[
        (table["method"] == method)
        & (table["image"] == key.image)
        & (table["degradation"] == key.degradation)
        & (table["level"] == key.level)
    ].set_index("metric")["value"]
    return {METRICS[name].label: float(values[name]) for name in CAPTIONS if name in values}


def key_of(item: Item) -> ImageKey:
    """Return what the score table calls this image."""
    return ImageKey(item.key, item.degradation or "clean", item.level or "0")
