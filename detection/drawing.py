"""Pictures of detections: labelled boxes, found and missed ones."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detection.boxes import Detections, Truth
from fusion.report.sheets import DARK, FONT, SMALLEST_TEXT, measure

# Colours are RGB. Of the classes: after Okabe and Ito, told apart by all eyes, none near white, black and MISSED.
PALETTE = ((86, 180, 233), (240, 228, 66), (230, 159, 0), (0, 190, 140), (204, 140, 190), (120, 160, 255))
TRUE = (255, 255, 255)
MISSED = (255, 40, 60)
IGNORED = (150, 150, 150)
OVERLAP = 0.5  # IoU from which a box counts as found
Plate = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def draw(
    image: np.ndarray, truth: Truth, detections: Detections, classes: Sequence[str], threshold: float = 0.5
) -> np.ndarray:
    """Return a copy of the image with boxes.

    Labelled boxes are thin: white if found, dashed red if missed, grey if to be ignored. Detections are thick, in the
    colour of their class, with name and score. Lines and letters grow with the longer side; they are made for 350
    pixels and more.

    Args:
        image: uint8, H W 3, RGB.
        truth: The labelled boxes.
        detections: The detections.
        classes: The class list of both.
        threshold: Least score of detections that are drawn and count.

    Raises:
        ValueError: Another image than uint8 H W 3, or boxes of another image size.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image of {image.dtype} {image.shape} instead of uint8 H W 3")
    if (truth.height, truth.width) != image.shape[:2]:
        raise ValueError(f"an image of {image.shape[:2]} with boxes for one of {(truth.height, truth.width)}")
    canvas = np.ascontiguousarray(image).copy()
    scale = max(image.shape[:2]) / 640
    thin, thick = max(1, round(scale)), max(2, round(3 * scale))
    shown = np.flatnonzero(detections.scores >= threshold)
    shown = shown[np.argsort(detections.scores[shown], kind="stable")]  # the best one is drawn last, above the others
    found = found_boxes(truth, detections, threshold)

    for place in shown:
        _frame(canvas, detections.boxes[place], colour(detections.classes[place]), thick)
    for box, ignore, hit in zip(truth.boxes, truth.ignore, found, strict=True):
        if ignore or hit:
            _frame(canvas, box, IGNORED if ignore else TRUE, thin)
        else:
            _dashed(canvas, box, MISSED, max(2, thick - 1), max(5, round(6 * scale)))
    boxes = [_corners(canvas, box) for box in (*detections.boxes[shown], *truth.boxes)]
    plates: list[Plate] = []
    for place in shown[::-1]:
        text = f"{classes[detections.classes[place]]} {detections.scores[place]:.2f}"
        fill = colour(detections.classes[place])
        plates.append(_label(canvas, text, _corners(canvas, detections.boxes[place]), fill, scale, plates, boxes))
    return canvas


def colour(place: int) -> tuple[int, int, int]:
    """Return the colour of a class, RGB, by its index in the class list."""
    return PALETTE[int(place) % len(PALETTE)]


def found_boxes(truth: Truth, detections: Detections, threshold: float = 0.0, overlap: float = OVERLAP) -> np.ndarray:
    """Return which labelled boxes are found, bool (n,), by COCO's matching at this IoU.

    Detections of at least the score `threshold`, the best-scored first, each find one box of their class.
    """
    found = np.zeros(len(truth.boxes), bool)
    iou = overlaps(detections.boxes, truth.boxes)
    for place in np.argsort(-detections.scores, kind="stable"):
        if detections.scores[place] < threshold:
            break
        free = ~found & (truth.classes == detections.classes[place]) & (iou[place] >= overlap)
        # A box that is to be ignored is taken only if no other fits.
        free = free & ~truth.ignore if (free & ~truth.ignore).any() else free
        if free.any():
            best = np.where(free, iou[place], -1)
            found[len(best) - 1 - int(best[::-1].argmax())] = True  # the last of equals, as COCO has it
    return found


def overlaps(first_n4: np.ndarray, second_m4: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes (n, 4) and (m, 4), float64 (n, m); 0 where both are without area."""
    first, second = first_n4[:, None].astype(np.float64), second_m4[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    intersection: np.ndarray = np.clip(sides, 0, None).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - intersection
    iou = np.zeros_like(intersection)
    np.divide(intersection, union, out=iou, where=intersection > 0)
    return iou


def _corners(canvas: np.ndarray, box: np.ndarray) -> Plate:
    """Return the pixels of a box's edges, inside the image."""
    height, width = canvas.shape[:2]
    left, top, right, bottom = np.round(np.clip(box, -1e6, 1e6)).astype(int).tolist()
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, min(max(right - 1, left), width - 1), min(max(bottom - 1, top), height - 1)


def _frame(canvas: np.ndarray, box: np.ndarray, line: tuple[int, int, int], thickness: int) -> None:
    left, top, right, bottom = _corners(canvas, box)
    cv2.rectangle(canvas, (left, top), (right, bottom), line, thickness)


def _dashed(canvas: np.ndarray, box: np.ndarray, line: tuple[int, int, int], thickness: int, dash: int) -> None:
    left, top, right, bottom = _corners(canvas, box)
    for y in (top, bottom):
        for x in range(left, right + 1, 2 * dash):
            cv2.line(canvas, (x, y), (min(x + dash, right), y), line, thickness)
    for x in (left, right):
        for y in range(top, bottom + 1, 2 * dash):
            cv2.line(canvas, (x, y), (x, min(y + dash, bottom)), line, thickness)


def _label(
    canvas: np.ndarray,
    text: str,
    box: Plate,
    fill: tuple[int, int, int],
    scale: float,
    plates: Sequence[Plate],
    boxes: Sequence[Plate],
) -> Plate:
    """Write on a filled plate at the box, where it hides least of the plates before it and of all boxes."""
    size = max(SMALLEST_TEXT, 0.42 * scale)
    wide, high, deep = measure(text, size)
    width, height = wide + 4, high + deep + 2
    left, top, right, bottom = box
    places = [(left, top - height), (left, bottom + 1), (right - width, top - height), (right - width, bottom + 1)]
    places += [(right + 1, top), (left - width, top), (left, top), (left, bottom - height)]
    inside = [(min(max(x, 0), max(canvas.shape[1] - width, 0)), y) for x, y in places]
    inside = [(x, y) for x, y in inside if 0 <= y <= canvas.shape[0] - height] or [(inside[0][0], 0)]

    def hidden(plate: Plate) -> float:
        return sum(_common(plate, other) for other in plates) + 0.3 * sum(_common(plate, other) for other in boxes)

    x, y, *_ = chosen = min(((x, y, x + width, y + height) for x, y in inside), key=hidden)
    cv2.rectangle(canvas, (x, y), (x + width - 1, y + height - 1), fill, -1)
    cv2.putText(canvas, text, (x + 2, y + high + 1), FONT, size, DARK, 1, cv2.LINE_AA)
    return chosen


def _common(one: Plate, other: Plate) -> int:
    """Return the area that two plates share, in pixels."""
    wide, high = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(wide, 0) * max(high, 0)
