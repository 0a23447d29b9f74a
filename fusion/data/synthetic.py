"""Pairs that are drawn, not read: built-in scenes, and pairs of three other fusion tasks made of them.

"scenes:COUNT[:WIDTHxHEIGHT[:SEED]]"    a road scene in visible and infrared light, with boxes and depth
"multifocus:..."                        the same visible picture twice: focused near, then far
"multiexposure:..."                     the same visible picture twice: exposed too little, then too much
"combinedvision:..."                    synthetic vision from a database, then enhanced vision: infrared through fog

Where a pair has no infrared image, the second picture, in grey, takes its place. Pairs of one SEED and number show one
scene, whatever their task: see `scene_names`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from fusion import storage
from fusion.data.finding import PairList, PairRef
from fusion.degrade import defocus
from fusion.errors import UserError
from fusion.images.colour import to_grey
from fusion.images.formats import MAX_PIXELS
from fusion.scenes import Scene, render
from fusion.scenes.combined_vision import enhanced_vision, synthetic_vision

MAX_PAIRS = 1_000_000  # six digits in the key
MIN_SIDE = 64  # pixels
BLUR = 4.0  # radius in pixels at 640 x 480
STOPS = 1.7  # of light, too little and too much
GAMMA = 2.2


class DrawnPair(NamedTuple):
    """first: uint8 H W 3; second: uint8 H W; boxes: float32 n 4 with n classes; depth: float32 H W in [0, 1]."""

    first: np.ndarray
    second: np.ndarray
    boxes: np.ndarray
    classes: tuple[str, ...]
    depth: np.ndarray


def _scene(scene: Scene, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the visible and the infrared picture as they are."""
    return scene.visible, scene.infrared


def multifocus(scene: Scene, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Blur the far half of the visible picture, then the near half. Borders are a little soft.

    Returns uint8 (H, W, 3), and the second in grey, uint8 (H, W).
    """
    blurred, _ = defocus.apply(scene.visible.astype(np.float32), None, BLUR)
    solid = scene.depth[scene.depth < 1]
    middle = float(np.median(solid)) if solid.size else 0.5
    near_HW1 = cv2.GaussianBlur((scene.depth < middle).astype(np.float32), (0, 0), 1.5)[..., None]
    sharp = scene.visible.astype(np.float32)
    first = near_HW1 * sharp + (1 - near_HW1) * blurred
    second = near_HW1 * blurred + (1 - near_HW1) * sharp
    return _to_uint8(first), to_grey(_to_uint8(second))


def multiexposure(scene: Scene, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Expose the visible picture STOPS too little, then STOPS too much with clipped lights; light is that of GAMMA.

    Returns uint8 (H, W, 3), and the second in grey, uint8 (H, W).
    """
    light = (scene.visible / np.float32(255)) ** np.float32(GAMMA)
    first, second = (255 * np.clip(light * 2.0**stops, 0, 1) ** (1 / GAMMA) for stops in (-STOPS, STOPS))
    return _to_uint8(first), to_grey(_to_uint8(second))


def combinedvision(scene: Scene, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw synthetic vision from a pose that is a little wrong, and enhanced vision; they are not quite registered.

    Returns uint8 (H, W, 3), and the second uint8 (H, W).
    """
    return synthetic_vision(seed, index, *scene.infrared.shape), enhanced_vision(scene, seed, index)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """Round floats in 0..255 (clipped) to uint8, halves to even."""
    levels: np.ndarray = np.rint(np.clip(image, 0, 255))
    return levels.astype(np.uint8)


# (the scene, its seed, its number) -> the two pictures
KINDS: dict[str, Callable[[Scene, int, int], tuple[np.ndarray, np.ndarray]]] = {
    "scenes": _scene,
    "multifocus": multifocus,
    "multiexposure": multiexposure,
    "combinedvision": combinedvision,
}
KEYS = {"scenes": "scene"}
_KIND = "|".join(KINDS)


def is_synthetic(pairs: str) -> bool:
    """Whether this stands for pairs that are drawn ("scenes:10"): no folder, and the same everywhere."""
    return str(pairs).partition(":")[0] in KINDS and ":" in str(pairs)


def resolve_pairs_uri(pairs: str) -> str:
    """Return what names the same pairs on any node: an absolute path or a URI; "scenes:10" as it is."""
    return pairs if is_synthetic(pairs) else storage.absolute(pairs)


def list_synthetic_pairs(pairs: str) -> PairList:
    """List the references of all pairs.

    Raises UserError: a form that is not understood; too many pairs, too small or too large ones.
    """
    kind = pairs.partition(":")[0]
    match = re.fullmatch(rf"(?:{_KIND}):(\d{{1,9}})(?::(\d{{1,5}})x(\d{{1,5}})(?::(\d{{1,18}}))?)?", pairs)
    if match is None:
        raise UserError(
            f"'{pairs}' is not of the form {kind}:COUNT[:WIDTHxHEIGHT[:SEED]], for example {kind}:100:640x480:7."
        )
    count, width, height, seed = (
        int(text or default) for text, default in zip(match.groups(), (0, 640, 480, 0), strict=True)
    )
    if not 1 <= count <= MAX_PAIRS or min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        limits = f"1 to {MAX_PAIRS} scenes of at least {MIN_SIDE} pixels a side and {MAX_PIXELS // 10**6} megapixels"
        raise UserError(f"'{pairs}' must ask for {limits} at most.")
    uris = [f"{kind}:{index}:{width}x{height}:{seed}" for index in range(count)]
    key = KEYS.get(kind, kind)
    refs = tuple(PairRef(f"{key}-{i:06d}", kind, "", uri, uri, None, ()) for i, uri in enumerate(uris))
    return PairList(refs, (), kind)


def scene_names(refs: Sequence[PairRef]) -> dict[str, str]:
    """Return key -> the scene that a drawn pair shows, "scene-000007": one name for all tasks. Read pairs are left out.

    Scenes of different seeds share the name, although they are different: in a split they stay together, no more.
    """
    return {ref.key: f"scene-{int(ref.visible.split(':')[1]):06d}" for ref in refs if is_synthetic(ref.visible)}


def draw_pair(uri: str) -> DrawnPair:
    """Draw one pair. Raises ValueError: not a URI that `list_synthetic_pairs` made."""
    match = re.fullmatch(rf"({_KIND}):(\d+):(\d+)x(\d+):(\d+)", uri)
    if match is None:
        raise ValueError(f"'{uri}' is no scene")
    index, width, height, seed = map(int, match.groups()[1:])
    scene = render(seed, index, height, width)
    first, second = KINDS[match[1]](scene, seed, index)
    return DrawnPair(first, second, scene.boxes, tuple(scene.classes), scene.depth)
