"""Box labels: YOLO text files and VOC XML, to boxes in pixels.

A box is (x1, y1, x2, y2) in continuous pixel coordinates: (0, 0) is the upper left corner of the image and (width,
height) its lower right one. Boxes that reach over the border are clipped, and boxes of which less than one pixel of
width or height is left are dropped; both are counted. Boxes that are none (NaN, infinite, of a negative size, far
outside) are dropped and counted too. A file of another form is refused as a whole, for nothing in it can be trusted.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import yaml

__all__ = ["NAME_FILES", "BadLabels", "Labels", "read_names", "read_voc", "read_yolo"]

NAME_FILES = ("classes.txt", "obj.names", "data.yaml", "data.yml")  # in this order of preference
ROUNDING = 0.01  # pixels beyond the border that six decimals of a YOLO file can make
MIN_SIDE = 1.0 - ROUNDING
FARTHEST = 2  # beyond this a value of a YOLO file is not relative to the image
MAX_CLASS = 99_999
MAX_NAME = 200  # characters of a class name
NO_BOX = (0.0, 0.0, 0.0, 0.0)  # dropped for its size


@dataclass(frozen=True, eq=False)
class Labels:
    """The boxes of one image: float32 (n, 4) x1 y1 x2 y2 in pixels, n class names, how many were clipped or dropped.

    warnings: a line of text for each box that was dropped, or of which more than half was cut off, by line or object.
    """

    boxes: np.ndarray
    classes: tuple[str, ...]
    clipped: int = 0
    dropped: int = 0
    warnings: tuple[str, ...] = ()


class BadLabels(Exception):
    """A label file that cannot be trusted; the text names the line (YOLO) or the object (VOC), from 1."""


def read_yolo(text: str, names: Sequence[str], height: int, width: int) -> Labels:
    """Read a YOLO file: lines `class cx cy w h`, relative to the image; an empty file is an image without boxes.

    height, width: of the image, in pixels.

    Without `names` the classes are class0, class1, ... Raises BadLabels: other than five columns, not a number, a class
    that has no name, or no line that is relative to the image (it was made in pixels).
    """
    boxes, classes, positions, far = [], [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split()
        if not columns:
            continue
        position = f"line {number}"
        if len(columns) != 5:
            raise BadLabels(f"{position}: {len(columns)} columns, expected 5 (class cx cy w h)")
        index, cx, cy, w, h = (_parse_number(column, position) for column in columns)
        if not (0 <= index <= MAX_CLASS and index == int(index)):
            raise BadLabels(f"{position}: class id {columns[0]} is not a whole number from 0")
        if names and index >= len(names):
            raise BadLabels(f"{position}: class id {int(index)} but the class list has {len(names)} names")
        usable = all(map(math.isfinite, (cx, cy, w, h)))
        if usable and max(abs(cx), abs(cy), w, h) > FARTHEST:
            usable = False
            far.append(f"{position}: {' '.join(columns[1:])} is not relative to the image size (0 to 1)")
        usable = usable and min(w, h) >= 0
        boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) if usable else NO_BOX)
        classes.append(names[int(index)] if names else f"class{int(index)}")
        positions.append(position)
    if far and len(far) == len(boxes):
        raise BadLabels(far[0])
    scale = np.array([width, height, width, height], np.float64)
    return _clip(np.array(boxes, np.float64).reshape(-1, 4) * scale, classes, positions, height, width)


def read_voc(text: str, height: int, width: int) -> Labels:
    """Read a VOC XML file. Objects marked difficult or truncated are kept.

    height, width: of the image, in pixels.

    VOC counts pixels from 1 and includes the last one: <xmin>1</xmin> .. <xmax>W</xmax> is the whole width, here 0 to
    W, so xmin and ymin are reduced by 1 (but not below 0, as some tools count from 0). A <polygon> of <x1> <y1> ..
    (DroneVehicle) becomes its bounding box as it stands; an object with only a <point> is dropped and counted.
    Class names are kept as written ("feright car" of DroneVehicle too).

    Raises BadLabels: not XML, entity declarations, a <size> other than the image's (rows and columns may be
    exchanged), an object without name or box, not a number.
    """
    if "<!ENTITY" in text:
        raise BadLabels("entity declarations are not accepted")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise BadLabels(f"not XML: {error}") from error
    if root.tag != "annotation":
        raise BadLabels(f"not a VOC file: it starts with <{root.tag}>, not <annotation>")
    _check_size(root, height, width)
    boxes, classes, positions, points = [], [], [], []
    for number, node in enumerate(root.findall("object"), 1):
        position = f"object {number}"
        name = (node.findtext("name") or "").strip()
        if not name:
            raise BadLabels(f"{position}: no class name")
        if len(name) > MAX_NAME:
            raise BadLabels(f"{position}: a class name of more than {MAX_NAME} characters")
        box, polygon = node.find("bndbox"), node.find("polygon")
        if box is not None:
            boxes.append(_voc_box(box, position))
        elif polygon is not None:
            boxes.append(_polygon_box(polygon, position))
        elif node.find("point") is not None:
            points.append(f"{position}: a point, no box: dropped")
            continue
        else:
            raise BadLabels(f"{position}: neither <bndbox> nor <polygon>")
        classes.append(name)
        positions.append(position)
    labels = _clip(np.array(boxes, np.float64).reshape(-1, 4), classes, positions, height, width)
    return replace(labels, dropped=labels.dropped + len(points), warnings=(*labels.warnings, *points))


def read_names(text: str, file_name: str) -> tuple[str, ...]:
    """Read class names in order, from classes.txt or obj.names (one a line) or the `names` of data.yaml (list or map).

    Raises BadLabels if the YAML cannot be read or its names do not count 0, 1, 2, ...
    """
    if not file_name.endswith((".yaml", ".yml")):
        return tuple(line.strip() for line in text.strip().splitlines())

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-99-99
        raise BadLabels(f"not YAML: {' '.join(str(error).split())}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if names is None:
        return ()
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise BadLabels(f"names are not numbered 0 to {len(names) - 1}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or any(isinstance(name, (list, dict)) for name in names):
        raise BadLabels("names is neither a list nor a map of words")
    return tuple(str(name) for name in names)


def _parse_number(text: str | None, position: str, name: str = "") -> float:
    """Return `text` as a number, which may be NaN or infinite. Raises BadLabels, naming the position."""
    try:
        return float(text or "")
    except ValueError as error:
        raise BadLabels(f"{position}: {name}{' ' if name else ''}{(text or '')[:40]!r} is not a number") from error


def _voc_box(box: ElementTree.Element, position: str) -> tuple[float, float, float, float]:
    """Return the box of a <bndbox> in continuous pixel coordinates; NO_BOX if its size is negative."""
    xmin, ymin, xmax, ymax = (
        _parse_number(box.findtext(name), position, name) for name in ("xmin", "ymin", "xmax", "ymax")
    )
    if xmax < xmin or ymax < ymin:
        return NO_BOX
    return min(xmin, max(xmin - 1, 0)), min(ymin, max(ymin - 1, 0)), xmax, ymax


def _polygon_box(polygon: ElementTree.Element, position: str) -> tuple[float, float, float, float]:
    """Return the bounding box of a <polygon>; NO_BOX if a corner is not finite."""
    xs = [_parse_number(node.text, position, node.tag) for node in polygon if re.fullmatch(r"x\d+", node.tag)]
    ys = [_parse_number(node.text, position, node.tag) for node in polygon if re.fullmatch(r"y\d+", node.tag)]
    if len(xs) < 3 or len(xs) != len(ys):
        raise BadLabels(f"{position}: polygon of {len(xs)} x and {len(ys)} y")
    corners = min(xs), min(ys), max(xs), max(ys)
    return corners if math.isfinite(sum(xs) + sum(ys)) else NO_BOX  # min and max may pass over a NaN


def _check_size(root: ElementTree.Element, height: int, width: int) -> None:
    """Refuse boxes made for another image size. Without <size>, or with zeros in it, nothing is checked."""
    stated = [root.findtext(f"size/{name}") for name in ("width", "height")]
    if None in stated:
        return
    w, h = (_parse_number(text, "size", "width or height") for text in stated)
    if w > 0 and h > 0 and (w, h) not in ((width, height), (height, width)):
        raise BadLabels(f"made for an image of {w:g}x{h:g}, not {width}x{height}")


def _clip(boxes_n4: np.ndarray, classes: Sequence[str], positions: Sequence[str], height: int, width: int) -> Labels:
    """Clip boxes, float64 x1 y1 x2 y2, to the image and drop those of which less than a pixel is left."""
    limit = np.array([width, height, width, height], np.float64)
    boxes_n4 = np.where(np.isfinite(boxes_n4).all(axis=1, keepdims=True), boxes_n4, NO_BOX)
    inside_n4 = np.clip(boxes_n4, 0, limit)
    sides_n2 = inside_n4[:, 2:] - inside_n4[:, :2]
    keep_n = (sides_n2 >= MIN_SIDE).all(axis=1)
    cut_n = (np.abs(inside_n4 - boxes_n4) > ROUNDING).any(axis=1)
    area_n, left_n = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes_n4, inside_n4))
    texts = {True: "most of the box lies outside the image", False: "no box of a pixel or more in the image: dropped"}
    warnings = (
        f"{position}: {texts[bool(keep)]}"
        for position, keep, half in zip(positions, keep_n, left_n < 0.5 * area_n, strict=True)
        if half or not keep
    )
    return Labels(
        boxes=inside_n4[keep_n].astype(np.float32),
        classes=tuple(name for name, keep in zip(classes, keep_n, strict=True) if keep),
        clipped=int((cut_n & keep_n).sum()),
        dropped=int((~keep_n).sum()),
        warnings=tuple(warnings),
    )
