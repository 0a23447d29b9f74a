"""Degradations of a visible and infrared pair: what weather, lens and sensor do to it.

    degrade(visible, infrared, parse_degradation("haze2+noise3"), seed=7, key="FLIR_00018")

A family is one file with MODALITY, LEVELS, `draw` (what is random about one image, made once) and `apply` (which only
scales it by the level), and one line in `FAMILIES`. The order of that table is the order of the imaging chain: the
scene, the lens, the visible sensor, the infrared sensor; a combination always runs in it.

A grey visible image (three equal channels) runs through the chain as one channel, and so stays grey: noise has its full
sigma in the luma, the airlight no tint.

Images are uint8 at rest and float32 in [0, 1] inside a chain; they are clipped and rounded (half to even) once, at
its end. Draws depend on (seed, key, family) alone: see `fusion.seeds`. So the result does not depend on the number of
workers or threads, on the order of the work, or on a restart. With the same versions of numpy and OpenCV the bytes are
also the same with and without AVX-512 (tried by switching instruction sets off); without AVX2 and FMA a few defocused
values in a million are rounded the other way, by one grey level.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fusion.degrade import defocus, haze, noise, stripes
from fusion.errors import UserError
from fusion.images.colour import is_grey, to_rgb
from fusion.seeds import make_rng

__all__ = [
    "FAMILIES",
    "GREY_VERSION",
    "PRESETS",
    "Degradation",
    "Degraded",
    "Family",
    "degrade",
    "expand_preset",
    "parse_degradation",
]

GREY_VERSION = 2  # of what grey visible images become; in version 1 noise and haze coloured them
Parameters = Mapping[str, float | str]  # what one family drew and used, by name


@dataclass(frozen=True)
class Family:
    """One kind of degradation.

    levels: level -> strength, in the unit that the family's file states.
    draw(rng, height, width, channels): the random part of one image, the same for all levels.
    apply(image, draws, strength, depth): the degraded float32 image, not clipped, and the parameters used.
    """

    name: str
    modality: str
    levels: dict[int, float]
    draw: Callable[[np.random.Generator, int, int, int], Any]
    apply: Callable[[np.ndarray, Any, float, np.ndarray | None], tuple[np.ndarray, Parameters]]


FAMILIES: dict[str, Family] = {
    "haze": Family("haze", haze.MODALITY, haze.LEVELS, haze.draw, haze.apply),
    "defocus": Family("defocus", defocus.MODALITY, defocus.LEVELS, defocus.draw, defocus.apply),
    "noise": Family("noise", noise.MODALITY, noise.LEVELS, noise.draw, noise.apply),
    "stripes": Family("stripes", stripes.MODALITY, stripes.LEVELS, stripes.draw, stripes.apply),
}


@dataclass(frozen=True)
class Degradation:
    """Families with their levels, in the order of the imaging chain whatever the order given; () is clean.

    Raises UserError for an unknown family or level and for a family named twice.
    """

    parts: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        for name, level in self.parts:
            if name not in FAMILIES:
                raise UserError(f"unknown degradation '{name}'. Known: {', '.join(FAMILIES)}, clean.")
            if level not in FAMILIES[name].levels:
                known = ", ".join(f"{name}{n}" for n in FAMILIES[name].levels)
                raise UserError(f"unknown level {level} of degradation '{name}'. Known: {known}.")
        names = [name for name, _ in self.parts]
        if len(set(names)) < len(names):
            raise UserError(f"degradation '{'+'.join(names)}' names a family twice. Give each family once.")
        chain = list(FAMILIES)
        ordered = sorted(((name, int(level)) for name, level in self.parts), key=lambda part: chain.index(part[0]))
        object.__setattr__(self, "parts", tuple(ordered))

    @property
    def name(self) -> str:
        """The families alone: "haze+noise", or "clean"."""
        return "+".join(name for name, _ in self.parts) or "clean"

    @property
    def level(self) -> str:
        """The levels alone: "2+3", or "0" for clean."""
        return "+".join(str(level) for _, level in self.parts) or "0"

    def __str__(self) -> str:
        return "+".join(f"{name}{level}" for name, level in self.parts) or "clean"


def parse_degradation(text: str) -> Degradation:
    """Parse "noise2", "haze2+noise3" (any order) or "clean": the inverse of str().

    Raises UserError, naming what is known.
    """
    if text.strip().lower() == "clean":
        return Degradation()
    parts = []
    for item in text.split("+"):
        match = re.fullmatch(r"([a-z]+)([1-9][0-9]*)", item.strip().lower())
        if match is None:
            examples = ", ".join(f"{name}1..{max(family.levels)}" for name, family in FAMILIES.items())
            raise UserError(f"cannot read degradation '{text}'. Write a family and its level: {examples}; or clean.")
        parts.append((match[1], int(match[2])))
    return Degradation(tuple(parts))


def _parse_all(text: str) -> tuple[Degradation, ...]:
    return tuple(parse_degradation(item) for item in text.split())


_DEMMI_RF = _parse_all("noise1 noise2 noise3 haze2 defocus2 stripes2")
_COMBINATIONS = _parse_all(
    "haze2+noise1 haze2+noise2 haze2+noise3 "
    "defocus2+noise1 defocus2+noise2 defocus2+noise3 "
    "noise1+stripes2 noise2+stripes2 noise3+stripes2 "
    "haze2+defocus2 haze2+stripes2 defocus2+stripes2 "
    "haze2+defocus2+stripes2 haze2+noise3+stripes2 haze2+defocus2+noise3 defocus2+noise3+stripes2 "
    "haze2+defocus2+noise3+stripes2"
)
PRESETS: dict[str, tuple[Degradation, ...]] = {
    # the six of DeMMI-RF (TG-ECNet)
    "demmi-rf": _DEMMI_RF,
    # the same six, as many of each from each data set as the paper has: see fusion.data.quotas
    "demmi-rf-counts": _DEMMI_RF,
    # every family at every level, and the clean pair
    "grid": (
        Degradation(),
        *(Degradation(((name, level),)) for name, family in FAMILIES.items() for level in family.levels),
    ),
    # the 17 mixtures that TG-ECNet is tried on; the middle level where the paper names none
    "combinations": _COMBINATIONS,
    # the same 17, each of 30 test pairs: the paper's multi-task test set of 510 images
    "demmi-rf-combinations": _COMBINATIONS,
}


def expand_preset(text: str) -> tuple[Degradation, ...]:
    """Parse presets and degradations, separated by commas, into a list without repeats in the order given.

    "demmi-rf", "noise1,haze2+noise3", "demmi-rf,clean". Raises UserError for anything else, naming what is known.
    """
    degradations: dict[Degradation, None] = {}
    for item in text.split(","):
        name = item.strip().lower()
        try:
            degradations.update(dict.fromkeys(PRESETS[name] if name in PRESETS else (parse_degradation(name),)))
        except UserError as error:
            raise UserError(f"{error} Presets: {', '.join(PRESETS)}.") from error
    return tuple(degradations)


@dataclass(frozen=True)
class Degraded:
    """A degraded pair, uint8 (H, W, 3) and (H, W), and, by family, what was drawn and used.

    The parameters are plain floats and strings, ready for JSON.
    """

    visible: np.ndarray
    infrared: np.ndarray
    parameters: dict[str, Parameters]


def degrade(
    visible: np.ndarray,
    infrared: np.ndarray,
    degradation: Degradation,
    *,
    seed: int,
    key: str,
    depth: np.ndarray | None = None,
    cache: dict[str, Any] | None = None,
) -> Degraded:
    """Degrade one pair. The inputs are not changed; a modality that nothing applies to is handed back as it is.

    visible: uint8 (H, W, 3), RGB. infrared: uint8 (H, W). depth: float (H, W) in [0, 1], 0 near; only haze uses it.
    seed, key: of the corpus and of the pair; they alone decide every draw.
    cache: a dict given to all degradations of one pair, and of no other, draws only once what its levels share. It
    holds up to five float32 images.
    Raises UserError for images or a depth of another kind.
    """
    _check_pair(visible, infrared, depth, key)
    images = {"visible": visible, "infrared": infrared}
    chain: dict[str, np.ndarray] = {}
    parameters: dict[str, Parameters] = {}
    for name, level in degradation.parts:
        family = FAMILIES[name]
        image = chain.get(family.modality)
        if image is None:
            image = _cached(cache, family.modality, partial(_to_chain, images[family.modality]))
        height, width, channels = (*image.shape, 1)[:3]
        draws = _cached(cache, name, partial(_draw, family, seed, key, height, width, channels))
        chain[family.modality], parameters[name] = family.apply(image, draws, family.levels[level], depth)
    images.update({modality: _to_uint8(image) for modality, image in chain.items()})
    if images["visible"].shape[2] == 1:
        images["visible"] = to_rgb(images["visible"][..., 0])
    return Degraded(images["visible"], images["infrared"], parameters)


def _cached(cache: dict[str, Any] | None, name: str, make: Callable[[], Any]) -> Any:
    """Return `make()`, or what it gave the last time. Families leave what they are given unchanged."""
    if cache is None:
        return make()
    if name not in cache:
        cache[name] = make()
    return cache[name]


def _draw(family: Family, seed: int, key: str, height: int, width: int, channels: int) -> Any:
    """Draw what is random about one image, for all levels of the family."""
    return family.draw(make_rng(seed, key, family.name), height, width, channels)


def _to_chain(pixels: np.ndarray) -> np.ndarray:
    """Convert uint8 to float32 in [0, 1], in C order; a grey (H, W, 3) image to (H, W, 1)."""
    if pixels.ndim == 3 and is_grey(pixels):
        pixels = pixels[..., :1]
    unit: np.ndarray = np.divide(pixels, np.float32(255), order="C")
    return unit


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert float32 to uint8: clipped to [0, 1], times 255, rounded half to even.

    Works in place: the image belongs to the chain.
    """
    image *= np.float32(255)
    np.rint(image, out=image)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _check_pair(visible: np.ndarray, infrared: np.ndarray, depth: np.ndarray | None, key: str) -> None:
    """Raise UserError for images and a depth map that `degrade` does not take."""
    for name, image, form in (("visible", visible, "(H, W, 3)"), ("infrared", infrared, "(H, W)")):
        fits = image.ndim == 2 if name == "infrared" else image.ndim == 3 and image.shape[2] == 3
        if image.dtype != np.uint8 or not fits or image.size == 0:
            raise UserError(
                f"pair '{key}': the {name} image is {image.dtype} {image.shape}; degrade needs uint8 {form}, not empty."
            )
    if depth is None:
        return
    if depth.shape != visible.shape[:2]:
        raise UserError(f"pair '{key}': the depth map is {depth.shape}; it must be {visible.shape[:2]} like the image.")
    if not (depth.min() >= 0 and depth.max() <= 1):  # also false for NaN
        raise UserError(f"pair '{key}': the depth map must be finite and in [0, 1]; divide it by its largest value.")
