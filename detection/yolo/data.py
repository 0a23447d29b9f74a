"""Images and boxes in the folder layout that ultralytics trains from.

    images/<split>/<key>.png    labels/<split>/<key>.txt    <split>.txt (a list of the images)    data.yaml (last)

A label line is "class cx cy w h", the box's centre and size as shares of the image's width and height. The lists and
data.yaml hold relative paths: the folder may be moved. ultralytics adds its own labels/<split>.cache on first use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
import yaml

from detection.boxes import Truth
from fusion import storage
from fusion.errors import UserError

SPLITS = ("train", "val", "test")
MAX_NAME_LENGTH = 200  # characters of a file name, well under the 255 bytes of most file systems


@dataclass(frozen=True)
class DatasetContents:
    """What a data.yaml says.

    Attributes:
        classes: Their names.
        images: How many per split; {} when another program wrote the file.
        boxes: Per split, how many of each class; {} when another program wrote the file.
        notes: Lines for the user, such as a class that no training image shows.
    """

    classes: tuple[str, ...]
    images: dict[str, int]
    boxes: dict[str, tuple[int, ...]]
    notes: tuple[str, ...]


class LabelledImage(NamedTuple):
    """An image of a data set.

    Attributes:
        split: "train", "val" or "test".
        key: Another one for each image of a split.
        image: uint8, (H, W, 3) RGB or (H, W) grey.
        truth: Its boxes.
    """

    split: str
    key: str
    image: np.ndarray
    truth: Truth


def write_dataset(folder: str | Path, images: Iterable[LabelledImage], classes: Sequence[str]) -> Path:
    """Write a data set, and return the path of data.yaml, which is written last.

    To train on visible and infrared images together, give each pair twice, with keys such as "17-visible" and
    "17-infrared". Boxes are clipped to the image; those marked `ignore` are left out, since ultralytics cannot ignore
    boxes. Files of an earlier call that are not written again stay in the folder but are not used.

    Raises:
        UserError: A key twice in a split, no training or no validation images, an image of another size than its
            truth, a class number outside `classes`.
        ValueError: An unknown split, or not an image.
    """
    folder = Path(folder)
    marker = folder / "data.yaml"
    marker.unlink(missing_ok=True)  # a half-written folder must not look whole
    lists: dict[str, list[str]] = {}
    boxes: dict[str, np.ndarray] = {}
    seen: set[tuple[str, str]] = set()
    for split, key, image, truth in images:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} of image {key!r}: must be one of {', '.join(SPLITS)}")
        if (split, key) in seen or not key:
            raise UserError(f"image key {key!r} occurs twice in {split!r} or is empty: give every image its own key")
        seen.add((split, key))
        _check(key, image, truth, classes)
        name = _file_name(key)
        _write_image(folder / "images" / split / f"{name}.png", image)
        lines, counts = _labels(truth, len(classes))
        label = folder / "labels" / split / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(lines)
        lists.setdefault(split, []).append(f"./images/{split}/{name}.png")
        boxes[split] = boxes.get(split, np.zeros(len(classes), np.int64)) + counts
    for split in ("train", "val"):
        if split not in lists:
            raise UserError(
                f"no {split!r} images for {folder}: YOLO needs images to train on and others to validate on"
            )
    for split, names in lists.items():
        storage.write_text(folder / f"{split}.txt", "\n".join(names) + "\n")
    files = {split: f"{split}.txt" for split in SPLITS if split in lists}
    counted = {split: {"images": len(lists[split]), "boxes": boxes[split].tolist()} for split in files}
    table = {**files, "names": dict(enumerate(classes)), "counts": counted}
    storage.write_text(marker, yaml.safe_dump(table, sort_keys=False, allow_unicode=True))
    return marker


def read_dataset(data_yaml: str | Path) -> DatasetContents:
    """Return what data.yaml says, checked.

    Raises:
        UserError: No such file, not YAML, no class names, no training images or boxes in them, a list of images that
            is missing.
    """
    path = Path(data_yaml)
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"no data set at {path}: write_dataset() makes its data.yaml last, so it is not complete"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    names = table.get("names") if isinstance(table, dict) else None
    if isinstance(names, dict):
        names = [names[index] for index in sorted(names)]
    if not names:
        raise UserError(f"{path} has no class names: it needs 'names', 'train' and 'val'")
    for split in ("train", "val"):
        listed = table.get(split)
        root = path.parent / str(table.get("path") or "")
        for images in listed if isinstance(listed, list) else [listed]:
            if not images or not (root / str(images)).exists():
                raise UserError(f"{path}: the {split!r} images at {images!r} are missing")
    classes, counts = tuple(str(name) for name in names), table.get("counts") or {}
    boxes = {split: tuple(entry["boxes"]) for split, entry in counts.items()}
    if "train" in boxes and not sum(boxes["train"]):
        raise UserError(f"{path}: no training image has a box of {', '.join(classes)}: nothing can be learned from it")
    return DatasetContents(
        classes, {split: entry["images"] for split, entry in counts.items()}, boxes, _notes(classes, boxes)
    )


def _notes(classes: tuple[str, ...], boxes: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    notes = []
    for split, counts in boxes.items():
        without = [name for name, count in zip(classes, counts, strict=True) if not count]
        if without:
            effect = "cannot be learned" if split == "train" else "do not enter the mean AP there"
            notes.append(f"no box of {', '.join(without)} in the {split!r} images: these classes {effect}")
    return tuple(notes)


def _check(key: str, image: np.ndarray, truth: Truth, classes: Sequence[str]) -> None:
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"image {key!r} must be uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    if image.shape[:2] != (truth.height, truth.width):
        raise UserError(
            f"image {key!r} is {image.shape[0]} x {image.shape[1]} pixels, its boxes were drawn on "
            f"{truth.height} x {truth.width}: give the image at the size of its labels"
        )
    if len(truth.classes) and not 0 <= truth.classes.min() <= truth.classes.max() < len(classes):
        raise UserError(f"image {key!r} has a class number outside 0..{len(classes) - 1} ({', '.join(classes)})")


def _file_name(key: str) -> str:
    """Return a file name that no other key has: keys such as "set00/V000/I01" must not become folders."""
    name = quote(key, safe=" ()+,=@")
    if len(name) <= MAX_NAME_LENGTH:
        return name
    return f"{name[: MAX_NAME_LENGTH - 33]}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(image if image.ndim == 2 else image[:, :, ::-1]))
    if not encoded:
        raise ValueError(f"cannot encode {path}")
    path.write_bytes(data.tobytes())


def _labels(truth: Truth, classes: int) -> tuple[str, np.ndarray]:
    """Return the lines of a label file, and how many boxes of each class, int64 (classes,), are in it."""
    size = np.array([truth.width, truth.height, truth.width, truth.height], np.float64)
    corners = np.clip(truth.boxes.astype(np.float64), 0, size) / size
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    keep = ~truth.ignore & (sides > 0).all(1)
    rows = zip(truth.classes[keep], np.hstack([centres, sides])[keep], strict=True)
    lines = [f"{index} " + " ".join(f"{value:.9f}" for value in row) + "\n" for index, row in rows]
    return "".join(lines), np.bincount(truth.classes[keep], minlength=classes)
