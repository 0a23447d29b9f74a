"""Who is in a procedural scene: people, bicycles and cars drawn by lot and put on free places of the street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.scenes.plan import Item, Street, View, draw_seed


@dataclass(frozen=True)
class Lots:
    """What is drawn by lot for one candidate, whatever its kind, so that kinds do not shift each other's lots."""

    z: float
    side: int  # of the street, -1 left, 1 right
    across: float
    first: float
    turn: float
    seed: int
    moving: bool

    @property
    def lean(self) -> float:
        """A small turn out of the main direction, radians."""
        return 0.15 * (self.turn - 0.5)

    @property
    def along(self) -> float:
        """The yaw of traffic on this side of the street, radians."""
        return 0.0 if self.side > 0 else np.pi


@dataclass(frozen=True)
class Spot:
    """A place in the street and the half extents that are kept free around it, in metres and radians."""

    u: float
    z: float
    yaw: float
    radius: float
    long: float


class Placer:
    """Find free places that the camera sees."""

    def __init__(self, view: View, street: Street) -> None:
        self.view, self.street = view, street
        self.taken: list[Spot] = []

    def free(self, spot: Spot) -> bool:
        """Return whether the camera sees the spot and nothing stands there yet."""
        x = self.view.focal * (spot.u + self.street.bend(spot.z)) / spot.z
        inside = -0.64 * 2 * self.view.centre < x < 0.64 * 2 * (1 - self.view.centre)
        apart = all(
            abs(spot.u - other.u) > spot.radius + other.radius or abs(spot.z - other.z) > spot.long + other.long
            for other in self.taken
        )
        return bool(inside and apart)

    def take(self, spot: Spot) -> None:
        """Claim the spot."""
        self.taken.append(spot)


def _draw_lots(rng: np.random.Generator, near: float) -> Lots:
    z = float(near * np.exp(rng.uniform(0, 1) ** 0.8 * np.log(48.0 / near)))
    side = 1 if rng.random() < 0.5 else -1
    across, first, turn = rng.random(), rng.random(), rng.random()
    return Lots(z, side, across, first, turn, draw_seed(rng), bool(rng.random() < 0.75))


def _car_spot(lots: Lots, street: Street, near: float) -> Spot:
    z = max(lots.z, near + 5.0)
    u = lots.side * ((int(lots.across * street.lanes) + 0.5) * (street.road - 0.4) / street.lanes)
    if lots.turn > 0.88:  # one that comes out of a drive
        return Spot(u, z, np.pi / 2 if lots.first < 0.5 else -np.pi / 2, 2.3, 1.2)
    return Spot(u, z, lots.along + lots.lean * 0.3, 0.9, 2.6)


def _cyclist_spot(lots: Lots, street: Street) -> Spot:
    if lots.turn > 0.6:
        return Spot((lots.across - 0.5) * 2 * street.road, lots.z, lots.side * np.pi / 2 + lots.lean, 1.0, 0.5)
    return Spot(lots.side * (street.road - 0.7 - lots.across), lots.z, lots.along + lots.lean, 0.5, 1.0)


def _spot(kind: str, lots: Lots, street: Street, near: float) -> Spot:
    """Return where a candidate of this kind would stand."""
    inner = street.road + street.verge
    if kind == "car":
        return _car_spot(lots, street, near)
    if kind == "parked":
        return Spot(lots.side * (street.road - 0.95), max(lots.z, near + 4.0), lots.along, 0.9, 2.4)
    if kind == "cyclist":
        return _cyclist_spot(lots, street)
    if kind == "bicycle":
        u = lots.side * (inner + 0.5 + lots.across * (street.pavement - 0.9))
        return Spot(u, lots.z, np.pi / 2 * (1 if lots.first < 0.5 else -1) + 3 * lots.lean, 0.9, 0.4)
    if kind == "walker":
        u = lots.side * (inner + 0.4 + lots.across * (street.pavement - 0.8))
        return Spot(u, lots.z, (0.0 if lots.first < 0.5 else np.pi) + 6 * lots.lean, 0.35, 0.4)
    z = street.crossing + 0.8 + 2 * lots.first if street.crossing and lots.first < 0.8 else lots.z
    return Spot((lots.across - 0.5) * 2 * street.road, z, lots.side * np.pi / 2 + 2 * lots.lean, 0.35, 0.4)


def draw_traffic(rng: np.random.Generator, view: View, street: Street) -> list[Item]:
    """Draw three to eight people, bicycles and cars on free places."""
    placer, items = Placer(view, street), []
    wanted = int(rng.integers(3, 9))
    kinds = rng.choice(
        ["walker", "car", "parked", "cyclist", "bicycle", "crosser"], size=40, p=[0.30, 0.24, 0.16, 0.13, 0.06, 0.11]
    )
    near, count = view.nearest * 1.12, 0
    for kind in kinds:
        lots = _draw_lots(rng, near)
        spot = _spot(kind, lots, street, near)
        if count >= wanted or not placer.free(spot):
            continue
        placer.take(spot)
        yaw, moving = float(spot.yaw + street.slope(spot.z)), lots.moving and kind != "parked"
        items.append(Item(str(kind), float(spot.u), spot.z, yaw, lots.seed, moving))
        count += 2 if kind == "cyclist" else 1
    return items
