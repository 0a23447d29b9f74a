"""Pairs of a visible and an infrared image: find them, and read one.

`find_pairs` lists a folder (or s3:// prefix) once, opens no image, and matches the two modalities by file stem under
the table of `layouts` (the work is in `finding`). Half pairs are in `PairList.rejected` with their reason.
`read_pair` reads, checks and converts one pair, or says why it cannot be used: whatever the files hold, it raises
nothing but `BadPair`. (A store that does not answer is no fault of the pair: `StoreError`.)
"scenes:COUNT[:WIDTHxHEIGHT[:SEED]]" instead of a folder stands for the built-in procedural scenes (`synthetic`).

Keys name files all through the work (`<key>.png`), so they are unique over all that was found, and flat: the stem, with
the split or the source in front only where stems repeat ("train_000001", "LLVIP_train_000001").
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from fusion import storage
from fusion.data.finding import PairList, PairRef, Rejected, find_in_folder
from fusion.data.labels import BadLabels, Labels, read_voc, read_yolo
from fusion.data.listing import MAX_TEXT, nfc, single_line
from fusion.data.synthetic import draw_pair, is_synthetic, list_synthetic_pairs
from fusion.images.colour import to_grey
from fusion.images.decode import decode, decode_depth
from fusion.images.formats import MAX_BYTES, BadImage

__all__ = ["BadPair", "Pair", "PairList", "PairRef", "Rejected", "find_pairs", "read_pair"]

MIN_IMAGE_SIDE = 16  # pixels: SSIM's window is 11 wide, and networks work down to an eighth of the size
STRIP = 1 << 20  # pixels turned to grey at a time
FALSE_COLOUR = 16  # mean difference of channels above which an infrared image is a palette, not a grey tone in JPEG


@dataclass(frozen=True, eq=False)
class Pair:
    """A read pair, checked and converted.

    visible: uint8 (H, W, 3) RGB. infrared: uint8 (H, W). boxes: float32 (n, 4) x1 y1 x2 y2 in pixels.
    classes: n names. depth: float32 (H, W) in [0, 1], 0 near, or None. notes: every conversion that was made.
    label_warnings: a line for each box that was dropped or mostly cut off.
    """

    key: str
    visible: np.ndarray
    infrared: np.ndarray
    boxes: np.ndarray
    classes: tuple[str, ...]
    depth: np.ndarray | None
    notes: tuple[str, ...]
    label_warnings: tuple[str, ...] = ()


class BadPair(Exception):
    """A pair that cannot be used; the text says in one line which part and why: "visible: truncated JPEG"."""

    def __init__(self, reason: str) -> None:
        super().__init__(single_line(reason))


def find_pairs(pairs: str | Path) -> PairList:
    """Find all pairs below a folder or URI, or list built-in scenes.

    Raises UserError: no such folder, no pair in it, a class list that cannot be read, a bad scenes string.
    """
    uri = str(pairs)
    return list_synthetic_pairs(uri) if is_synthetic(uri) else find_in_folder(storage.absolute(uri))


def read_pair(ref: PairRef) -> Pair:
    """Read the images, labels and depth of one pair, checked and converted to the types of `Pair`. Raises BadPair.

    A grey visible image is repeated into three channels. A colour infrared image becomes grey: one channel if all are
    equal, else the luma of BT.601, 0.299 R + 0.587 G + 0.114 B, rounded; the luma of a false-colour palette (as in
    DroneRGBT) is not a temperature, and its note says so.

    Also converted and noted: 16-bit and float images, CMYK, opaque palettes, EXIF rotation, decomposed Unicode names.
    Refused: files damaged, cut short or going on after their end; more than one frame; an alpha channel; 1-bit masks;
    a side of less than 16 or an area of more than 108e6 pixels; sizes that differ; labels that cannot be trusted.
    """
    if is_synthetic(ref.visible):
        return _draw(ref)
    visible, notes = _read_image(ref.visible, "visible")
    infrared, infrared_notes = _read_image(ref.infrared, "infrared")
    notes += infrared_notes
    if visible.ndim == 2:
        visible = np.repeat(visible[..., None], 3, axis=2)
        notes.append("visible: grey repeated to RGB")
    if infrared.ndim == 3:
        infrared, note = _infrared_to_grey(infrared)
        notes.append(f"infrared: {note}")
    height, width = visible.shape[:2]
    if infrared.shape != (height, width):
        raise BadPair(f"sizes differ: visible {width}x{height}, infrared {infrared.shape[1]}x{infrared.shape[0]}")
    if min(height, width) < MIN_IMAGE_SIDE:
        raise BadPair(f"{width}x{height} is too small, the shorter side must be at least {MIN_IMAGE_SIDE} pixels")
    labels = _read_labels(ref, height, width)
    if labels.clipped or labels.dropped:
        notes.append(f"labels: {labels.clipped} boxes clipped, {labels.dropped} dropped")
    depth = _read_depth(ref.depth, height, width) if ref.depth else None
    return Pair(ref.key, visible, infrared, labels.boxes, labels.classes, depth, tuple(notes), labels.warnings)


def _read_part(path: str, part: str, limit: int = MAX_BYTES) -> bytes:
    """Read the file of one part of a pair ("visible", "labels"). Raises BadPair: absent, unreadable, too long."""
    try:
        length = storage.file_size(path) or 0
        if length > limit:  # not read at all: a file can claim any size without holding it
            raise BadPair(f"{part}: a file of {length / 1e6:.0f} MB, at most {limit / 1e6:.0f} MB are read")
        return storage.read_bytes(path)
    except FileNotFoundError as error:
        raise BadPair(f"{part}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a path that the file system cannot express
        raise BadPair(f"{part}: cannot be read ({error})") from error


def _read_image(path: str, part: str) -> tuple[np.ndarray, list[str]]:
    """Read an image as uint8 (H, W) or (H, W, 3) with its notes. Raises BadPair."""
    try:
        image = decode(_read_part(path, part))
    except BadImage as error:
        raise BadPair(f"{part}: {error}") from error
    if image.ambiguities:
        raise BadPair(f"{part}: {image.ambiguities[0]}")
    notes = [f"{part}: {note}" for note in image.notes]
    name = posixpath.basename(unquote(path) if storage.is_uri(path) else path)
    if name != nfc(name):
        notes.append(f"{part}: file name in decomposed Unicode, the key is composed")
    return image.pixels, notes


def _infrared_to_grey(image_HW3: np.ndarray) -> tuple[np.ndarray, str]:
    """Convert a colour infrared image, uint8 (H, W, 3), to uint8 (H, W), and describe the conversion for a note."""
    red_HW, green_HW, blue_HW = (image_HW3[..., channel] for channel in range(3))
    if (red_HW == green_HW).all() and (red_HW == blue_HW).all():
        return np.ascontiguousarray(red_HW), "three equal channels to one"
    grey_HW = np.empty_like(red_HW, order="C")
    spread, step = 0, max(1, STRIP // red_HW.shape[1])
    for top in range(0, len(image_HW3), step):
        red, green, blue = (image_HW3[top : top + step, :, channel] for channel in range(3))
        spread += int((np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)).sum())
        grey_HW[top : top + step] = to_grey(image_HW3[top : top + step])
    false_colour = ", false colours: luma is not temperature" if spread > FALSE_COLOUR * grey_HW.size else ""
    return grey_HW, f"colour to luma{false_colour}"


def _read_labels(ref: PairRef, height: int, width: int) -> Labels:
    """Read the labels of a pair of this size; none if it has no label file. Raises BadPair."""
    if ref.labels is None:
        return Labels(np.zeros((0, 4), np.float32), ())
    data = _read_part(ref.labels, "labels", MAX_TEXT)
    try:
        text = data.decode("utf-8-sig")
        if ref.labels.lower().endswith(".xml"):
            return read_voc(text, height, width)
        return read_yolo(text, ref.names, height, width)
    except UnicodeDecodeError as error:
        raise BadPair("labels: not UTF-8 text") from error
    except BadLabels as error:
        raise BadPair(f"labels: {error}") from error


def _read_depth(path: str, height: int, width: int) -> np.ndarray:
    """Read a depth map as float32 (H, W) in [0, 1]. Raises BadPair, also for another size than this."""
    try:
        depth = decode_depth(_read_part(path, "depth"))
    except BadImage as error:
        raise BadPair(f"depth: {error}") from error
    if depth.shape != (height, width):
        raise BadPair(f"sizes differ: visible {width}x{height}, depth {depth.shape[1]}x{depth.shape[0]}")
    return depth


def _draw(ref: PairRef) -> Pair:
    """Draw a synthetic pair. Raises BadPair for a reference that is not understood."""
    try:
        drawn = draw_pair(ref.visible)
    except ValueError as error:
        raise BadPair(str(error)) from error
    return Pair(ref.key, drawn.first, drawn.second, drawn.boxes, drawn.classes, drawn.depth, ())
