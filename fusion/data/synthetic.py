"""Pairs that are drawn, not read: built-in scenes, and pairs of two other fusion tasks made of them.

"scenes:COUNT[:WIDTHxHEIGHT[:SEED]]"    a road scene in visible and infrared light, with boxes and depth
"multifocus:..."                        the same visible picture twice: focused near, then far
"multiexposure:..."                     the same visible picture twice: exposed too little, then too much

Where a pair has no infrared image, the second picture, in grey, takes its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from fusion import storage
from fusion.data.finding import PairList, PairRef
from fusion.degrade import defocus
from fusion.errors import UserError
from fusion.images.colour import to_grey
from fusion.images.formats import MAX_PIXELS
from fusion.scenes import render

MOST = 1_000_000  # six digits in the key
SMALLEST = 64  # pixels a side
BLUR = 4.0  # radius in pixels at 640 x 480
STOPS = 1.7  # of light, too little and too much
GAMMA = 2.2


class Drawn(NamedTuple):
    """first: uint8 H W 3; second: uint8 H W; boxes: float32 n 4 with n classes; depth: float32 H W."""

    first: np.ndarray
    second: np.ndarray
    boxes: np.ndarray
    classes: tuple[str, ...]
    depth: np.ndarray


def _scene(scene) -> tuple[np.ndarray, np.ndarray]:
    return scene.visible, scene.infrared


def multifocus(scene) -> tuple[np.ndarray, np.ndarray]:
    """The near half sharp, the far half behind the focus; then the other way round. Borders are a little soft."""
    blurred, _ = defocus.apply(scene.visible.astype(np.float32), None, BLUR)
    solid = scene.depth[scene.depth < 1]
    middle = float(np.median(solid)) if solid.size else 0.5
    near_HW1 = cv2.GaussianBlur((scene.depth < middle).astype(np.float32), (0, 0), 1.5)[..., None]
    sharp = scene.visible.astype(np.float32)
    first = near_HW1 * sharp + (1 - near_HW1) * blurred
    second = near_HW1 * blurred + (1 - near_HW1) * sharp
    return _bytes(first), to_grey(_bytes(second))


def multiexposure(scene) -> tuple[np.ndarray, np.ndarray]:
    """STOPS too dark, and STOPS too bright with clipped lights; the light is that of a gamma of 2.2."""
    light = (scene.visible / np.float32(255)) ** np.float32(GAMMA)
    first, second = (255 * np.clip(light * 2.0**stops, 0, 1) ** (1 / GAMMA) for stops in (-STOPS, STOPS))
    return _bytes(first), to_grey(_bytes(second))


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


KINDS: dict[str, Callable] = {"scenes": _scene, "multifocus": multifocus, "multiexposure": multiexposure}
KEYS = {"scenes": "scene"}
_KIND = "|".join(KINDS)


def is_synthetic(where: str) -> bool:
    """Whether this stands for pairs that are drawn: no folder, and the same everywhere."""
    return str(where).partition(":")[0] in KINDS and ":" in str(where)


def resolve_pairs_uri(where: str) -> str:
    """The same pairs from any folder and node: an absolute path or URI, or the words of pairs that are drawn."""
    return where if is_synthetic(where) else storage.absolute(where)


def list_synthetic_pairs(where: str) -> PairList:
    """The references of all pairs. UserError: a form that is not understood, too many, too small or too large ones."""
    kind = where.partition(":")[0]
    form = re.fullmatch(rf"(?:{_KIND}):(\d{{1,9}})(?::(\d{{1,5}})x(\d{{1,5}})(?::(\d{{1,18}}))?)?", where)
    if form is None:
        raise UserError(
            f"'{where}' is not of the form {kind}:COUNT[:WIDTHxHEIGHT[:SEED]], for example {kind}:100:640x480:7."
        )
    count, width, height, seed = (
        int(text or default) for text, default in zip(form.groups(), (0, 640, 480, 0), strict=True)
    )
    if not 1 <= count <= MOST or min(width, height) < SMALLEST or width * height > MAX_PIXELS:
        limits = f"1 to {MOST} scenes of at least {SMALLEST} pixels a side and {MAX_PIXELS // 10**6} megapixels"
        raise UserError(f"'{where}' must ask for {limits} at most.")
    uris = [f"{kind}:{index}:{width}x{height}:{seed}" for index in range(count)]
    key = KEYS.get(kind, kind)
    refs = tuple(PairRef(f"{key}-{i:06d}", kind, "", uri, uri, None, ()) for i, uri in enumerate(uris))
    return PairList(refs, (), kind)


def draw_pair(uri: str) -> Drawn:
    """One pair. ValueError: not what `list_synthetic_pairs` made."""
    form = re.fullmatch(rf"({_KIND}):(\d+):(\d+)x(\d+):(\d+)", uri)
    if form is None:
        raise ValueError(f"'{uri}' is no scene")
    index, width, height, seed = map(int, form.groups()[1:])
    scene = render(seed, index, height, width)
    return Drawn(*KINDS[form[1]](scene), scene.boxes, tuple(scene.classes), scene.depth)
