"""Boxes of objects: what is true of an image, and what a detector found in it.

A box is (x1, y1, x2, y2) in continuous pixel coordinates: (0, 0) is the upper left corner of the image and (width,
height) its lower right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fusion.data.class_names import standard_name


@dataclass(frozen=True, eq=False)
class Truth:
    """The labelled objects of one image. boxes: float32 (n, 4). classes: int64 (n,), places in a class list.

    ignore: bool (n,): crowds and difficult objects, neither to be found nor counted against who finds them.
    """

    boxes: np.ndarray
    classes: np.ndarray
    height: int
    width: int
    ignore: np.ndarray = field(default=None)  # type: ignore[assignment]

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
    """Found in one image by a detector. boxes: float32 (n, 4). scores: float32 (n,) in [0, 1]. classes: int64 (n,)."""

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
    """The boxes of a pair as places in `classes`; boxes of other classes are left out."""
    places = {name: place for place, name in enumerate(classes)}
    found = [places.get(standard_name(name, class_aliases), -1) for name in names]
    keep = np.array([place >= 0 for place in found], bool)
    return Truth(np.asarray(boxes, np.float32).reshape(-1, 4)[keep], np.array(found, np.int64)[keep], height, width)
