"""Sheets of pictures with captions, as one image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

DARK = (16, 16, 16)
PAPER = (250, 250, 250)
FONT = cv2.FONT_HERSHEY_SIMPLEX
SMALLEST_TEXT = 0.4  # of FONT; below it letters run together


def side_by_side(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], width: int = 640, gap: int = 8, title: Sequence[str] = ()
) -> np.ndarray:
    """Return a sheet, uint8 H W 3, of rows of (caption, image), each image `width` pixels wide under its caption.

    `title`: one line for each row, above it; none for (). Raises ValueError for no rows or as many titles as not rows.
    """
    if not any(rows) or (title and len(title) != len(rows)):
        raise ValueError(f"{len(rows)} rows of pictures, {len(title)} titles")
    strips = []
    columns = max(len(row) for row in rows)
    full = columns * (width + gap) + gap
    for place, row in enumerate(rows):
        if title:
            strips.append(_line(title[place], full, 0.62, gap))
        cells = [_cell(caption, image, width) for caption, image in row]
        height = max((len(cell) for cell in cells), default=0)
        strip = np.full((height + gap, full, 3), PAPER, np.uint8)
        for column, cell in enumerate(cells):
            left = gap + column * (width + gap)
            strip[: len(cell), left : left + width] = cell
        strips.append(strip)
    return np.concatenate([np.full((gap, full, 3), PAPER, np.uint8), *strips])


def _cell(caption: str, image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    way = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
    return np.concatenate([_line(caption, width, 0.5, 0), cv2.resize(image, (width, height), interpolation=way)])


def _line(text: str, width: int, size: float, left: int) -> np.ndarray:
    """One line of dark text on paper, smaller if it is too long, and cut with dots if still too long."""
    height = round(44 * size)
    while size > SMALLEST_TEXT and measure(text, size)[0] > width - left:
        size -= 0.02
    while len(text) > 1 and measure(text, size)[0] > width - left:
        text = text.removesuffix("...")[:-1] + "..." if len(text.removesuffix("...")) > 1 else text[:1]
    strip = np.full((height, width, 3), PAPER, np.uint8)
    cv2.putText(strip, text, (left, round(0.68 * height)), FONT, size, DARK, 1, cv2.LINE_AA)
    return strip


def measure(text: str, size: float) -> tuple[int, int, int]:
    """Width, height above the line and depth below it."""
    (width, height), depth = cv2.getTextSize(text, FONT, size, 1)
    return width, height, depth
