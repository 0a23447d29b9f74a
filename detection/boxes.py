"""Boxes of objects: what is true of an image, what a detector found in it, and one class list over several data sets.

A box is (x1, y1, x2, y2) in continuous pixel coordinates: (0, 0) is the upper left corner of the image and (width,
height) its lower right one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fusion.errors import UserError

# What the public data sets call the same things (FLIR ADAS, M3FD, LLVIP, MSRS, DroneVehicle, KAIST), in lower case.
SAME = {
    "people": "person",
    "pedestrian": "person",
    "bike": "bicycle",
    "feright car": "freight car",
    "feright_car": "freight car",
    "motor": "motorcycle",
    "motorbike": "motorcycle",
}


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
    """What a detector found in one image. boxes: float32 (n, 4). scores: float32 (n,) in [0, 1]. classes: int64 (n,)."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", np.asarray(self.boxes, np.float32).reshape(-1, 4))
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float32).reshape(-1))
        object.__setattr__(self, "classes", np.asarray(self.classes, np.int64).reshape(-1))
        if not len(self.boxes) == len(self.scores) == len(self.classes):
            raise ValueError("boxes, scores and classes differ in length")


def standard_name(name: str, same: Mapping[str, str] | None = None) -> str:
    """A class name as we compare it: lower case, and what data sets call differently under one name."""
    plain = " ".join(name.strip().lower().split())
    return (SAME if same is None else same).get(plain, plain)


def class_list(found: Iterable[str]) -> tuple[str, ...]:
    """The standard names among `found`, each once, in order of the alphabet."""
    return tuple(sorted({standard_name(name) for name in found}))


def truth(boxes: np.ndarray, names: Sequence[str], classes: Sequence[str], height: int, width: int) -> Truth:
    """The boxes of a pair as places in `classes`; boxes of other classes are left out."""
    places = {name: place for place, name in enumerate(classes)}
    found = [places.get(standard_name(name), -1) for name in names]
    keep = np.array([place >= 0 for place in found], bool)
    return Truth(np.asarray(boxes, np.float32).reshape(-1, 4)[keep], np.array(found, np.int64)[keep], height, width)


def parse_same(text: str) -> dict[str, str]:
    """"people=person,van=car" -> a table of names. UserError: not of that form."""
    table = dict(SAME)
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        ours, equals, theirs = part.partition("=")
        if not (equals and ours.strip() and theirs.strip()):
            raise UserError(f"--same {part!r} is not of the form NAME=NAME, for example people=person,van=car")
        table[ours.strip().lower()] = theirs.strip().lower()
    return table
