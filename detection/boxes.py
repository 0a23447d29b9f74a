"""Boxes of objects: the labelled ones of an image, and those that a detector found.

A box is (x1, y1, x2, y2) in continuous pixel coordinates: (0, 0) is the upper left corner of the image and (width,
height) its lower right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusion.data.class_names import standard_name


@dataclass(frozen=True, eq=False)
class Truth:
    """The labelled objects of one image.

    Attributes:
        boxes: float32 (n, 4).
        classes: int64 (n,), indices in a class list.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        ignore: bool (n,): crowds and difficult objects, which need not be found and do not count as false detections.

    Raises:
        ValueError: Lengths differ.
    """

    boxes: np.ndarray
    classes: np.ndarray
    height: int
    width: int
    ignore: np.ndarray = None  # type: ignore[assignment]  # none given: all False, see __post_init__

    def __post_init__(self) -> None:
        count = len(self.boxes)
        object.__setattr__(self, "boxes", np.asarray(self.boxes, np.float32).reshape(-1, 4))
        object.__setattr__(self, "classes", np.asarray(self.classes, np.int64).reshape(-1))
        ignore = np.zeros(count, bool) if self.ignore is None else np.asarray(self.ignore, bool).reshape(-1)
        object.__setattr__(self, "ignore", ignore)
        if not len(self.boxes) == len(self.classes) == len(self.ignore):
            raise ValueError("boxes, classes and ignore differ in length")


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image.

    Attributes:
        boxes: float32 (n, 4).
        scores: float32 (n,) in [0, 1].
        classes: int64 (n,), indices in a class list.

    Raises:
        ValueError: Lengths differ.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", np.asarray(self.boxes, np.float32).reshape(-1, 4))
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float32).reshape(-1))
        object.__setattr__(self, "classes", np.asarray(self.classes, np.int64).reshape(-1))
        if not len(self.boxes) == len(self.scores) == len(self.classes):
            raise ValueError("boxes, scores and classes differ in length")


def truth(
    boxes: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    height: int,
    width: int,
    class_aliases: Mapping[str, str] | None = None,
) -> Truth:
    """Return the boxes of an image, numbered by a class list; boxes of other classes are left out.

    Args:
        boxes: (n, 4).
        names: Class of each box.
        classes: The class list.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        class_aliases: For the comparison of class names, see `standard_name`.
    """
    index = {name: i for i, name in enumerate(classes)}
    indices = np.array([index.get(standard_name(name, class_aliases), -1) for name in names], np.int64)
    keep = indices >= 0
    return Truth(np.asarray(boxes, np.float32).reshape(-1, 4)[keep], indices[keep], height, width)
