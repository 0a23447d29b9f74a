"""Pictures side by side: the rows of the gallery, and images as small data URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fusion.report.tables import format_value

MAX_WIDTH = 640  # a column is shown at 200 to 320 pixels: sharp on a 2x screen, and worth enlarging
MAX_BYTES = 76_000  # 72 pictures stay under 7.3 MB as base64, heavy noise (which compresses badly) included
QUALITIES = (92, 88, 82, 75, 68, 60)


@dataclass(frozen=True, eq=False)
class GalleryRow:
    """Pictures of one scene, left to right.

    images: label -> uint8, H W or H W 3 (RGB). boxes: n x 4, x1 y1 x2 y2 in pixels of these images.
    values: label -> the few numbers under that picture. Raises ValueError for anything else.
    """

    title: str
    images: Mapping[str, np.ndarray]
    boxes: np.ndarray | None = None
    values: Mapping[str, Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError(f"gallery row {self.title!r} has no images")
        for label, image in self.images.items():
            grey_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
            if image.dtype != np.uint8 or not grey_or_rgb or image.size == 0:
                raise ValueError(
                    f"gallery row {self.title!r}: {label!r} must be uint8, H W or H W 3, not empty; "
                    f"got {image.dtype} {image.shape}"
                )
        if self.boxes is not None and np.asarray(self.boxes).reshape(-1, 4).shape[0] != len(self.boxes):
            raise ValueError(f"gallery row {self.title!r}: boxes must be n x 4, got {np.shape(self.boxes)}")
        stray = set(self.values or {}) - set(self.images)
        if stray:
            raise ValueError(f"gallery row {self.title!r}: values for {sorted(stray)}, which are no images of it")


@dataclass(frozen=True)
class Picture:
    """One image ready for the page. width and height are those of the original, the units of the boxes."""

    label: str
    uri: str
    width: int
    height: int
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PictureRow:
    """One row ready for the page: a picture or None for every column of the gallery; boxes are x, y, width, height."""

    title: str
    pictures: tuple[Picture | None, ...]
    boxes: tuple[tuple[str, str, str, str], ...]


def data_uri(data: bytes, kind: str) -> str:
    """`data:image/...;base64,...`; kind is png, jpeg or svg+xml."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def encode(image: np.ndarray) -> tuple[bytes, str]:
    """Return a uint8 image, H W or H W 3, as (bytes, "png" or "jpeg").

    At most 640 pixels wide. PNG where that is no larger than the JPEG (flat or tiny pictures); else JPEG of quality
    92, or as much less as brings it under 76 kB, and smaller still if the least quality does not.
    """
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    bgr = _shrink(bgr, MAX_WIDTH / bgr.shape[1])
    png = cv2.imencode(".png", bgr)[1].tobytes()
    while True:
        for quality in QUALITIES:
            jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(png) <= min(len(jpeg), MAX_BYTES):
                return png, "png"
            if len(jpeg) <= MAX_BYTES:
                return jpeg, "jpeg"
        bgr = _shrink(bgr, 0.75)


def _shrink(image: np.ndarray, scale: float) -> np.ndarray:
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def strips(rows: Sequence[GalleryRow]) -> tuple[list[str], list[PictureRow]]:
    """(column labels, rows): every label has one column, in the order of first appearance, in all rows alike."""
    labels = list(dict.fromkeys(label for row in rows for label in row.images))
    result = []
    for row in rows:
        pictures = tuple(_picture(row, label) if label in row.images else None for label in labels)
        boxes = np.zeros((0, 4)) if row.boxes is None else np.asarray(row.boxes, float).reshape(-1, 4)
        rects = tuple(
            (f"{x1:.1f}", f"{y1:.1f}", f"{max(x2 - x1, 0):.1f}", f"{max(y2 - y1, 0):.1f}") for x1, y1, x2, y2 in boxes
        )
        result.append(PictureRow(row.title, pictures, rects))
    return labels, result


def _picture(row: GalleryRow, label: str) -> Picture:
    image = row.images[label]
    values = (row.values or {}).get(label, {})
    texts = tuple((name, format_value(value, 3)) for name, value in values.items())
    return Picture(label, data_uri(*encode(image)), image.shape[1], image.shape[0], texts)
