"""What a procedural scene is made of, in metres: nothing here depends on the size of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.scenes.light import Light


@dataclass(frozen=True)
class View:
    """Focal length and horizon as fractions of the height, centre as one of the width; metres over the ground."""

    focal: float
    horizon: float
    centre: float
    above: float
    noise: float

    @property
    def nearest(self) -> float:
        """Distance of the nearest ground in the picture, metres."""
        return self.focal * self.above / (1.0 - self.horizon)


@dataclass(frozen=True)
class Street:
    """The street: u metres to the right of its middle line, z metres ahead; X = u + offset + heading z + curve z^2."""

    offset: float
    heading: float
    curve: float
    road: float  # half width
    verge: float  # grass between kerb and pavement
    pavement: float
    crossing: float  # z of the zebra crossing, 0 for none
    lanes: int  # to a side
    side_grass: bool

    def bend(self, z: np.ndarray | float) -> np.ndarray | float:
        """Return the X of the middle line at z, metres, in the shape of `z`."""
        return self.offset + self.heading * z + self.curve * np.asarray(z) ** 2

    def slope(self, z: float) -> float:
        """Return the yaw of the street at z, radians."""
        return float(np.arctan(self.heading + 2 * self.curve * z))


@dataclass(frozen=True)
class Item:
    """Something that stands in the street; `kind` names how it is drawn."""

    kind: str
    u: float
    z: float
    yaw: float
    seed: int
    moving: bool = False


@dataclass(frozen=True)
class Building:
    """One house of the row on `side` (-1 left, 1 right), from z0 to z1, its face `u` metres from the middle line."""

    side: int
    z0: float
    z1: float
    u: float
    height: float
    kind: str  # "flats" | "office" | "house"
    shop: bool
    front: bool  # whether the wall toward the camera shows past the house before it
    seed: int


@dataclass(frozen=True)
class Plan:
    """Everything about a scene but its size."""

    time: str
    weather: str  # "clear" | "cloudy" | "mist" | "wet"
    view: View
    street: Street
    light: Light
    buildings: tuple[Building, ...]
    items: tuple[Item, ...]
    lit: float  # share of lit windows
    shadow: float  # the street right of this u (or left, for a negative shadow_side) lies in the shade of the houses
    shadow_side: int
    ground: float  # infrared level of the asphalt
    seed: int


def draw_seed(rng: np.random.Generator) -> int:
    """Draw the seed of an item or a building."""
    return int(rng.integers(2**31))
