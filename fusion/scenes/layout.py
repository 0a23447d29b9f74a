"""How a procedural scene is drawn by lot: the street, its houses, who is in it, and the light."""

from __future__ import annotations

import numpy as np

from fusion.scenes.light import Beam, Lamp, Light
from fusion.scenes.plan import Building, Item, Plan, Street, View


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _buildings(rng: np.random.Generator, street: Street, edge: float) -> tuple[Building, ...]:
    town = rng.choice(["flats", "office", "house", "mixed"], p=[0.4, 0.2, 0.2, 0.2])
    row = []
    for side in (-1, 1):
        kind = town if town != "mixed" else ("flats" if side < 0 else "house")
        before: Building | None = None
        z, open_side = -8.0 + rng.uniform(0, 6), rng.random() < 0.12
        setback = rng.uniform(0.2, 1.0) if kind != "house" else rng.uniform(2.0, 5.0)
        while z < 100:
            length = (rng.uniform(8, 20) if kind != "house" else rng.uniform(7, 12)) * (1.0 if z < 45 else 1.8)
            height = {"flats": rng.uniform(9, 19), "office": rng.uniform(12, 32), "house": rng.uniform(5.0, 7.2)}[kind]
            gap = rng.uniform(2, 6) if kind == "house" else (0.0 if rng.random() < 0.7 else rng.uniform(2, 9))
            shop = kind != "house" and rng.random() < 0.55
            seed, skip = _seed(rng), rng.random() < (0.75 if open_side else 0.08)
            if not skip:
                u = edge + setback + rng.uniform(0, 0.5)
                hidden = before is not None and before.z1 > z - 0.1 and before.u <= u and before.height >= height
                before = Building(side, z, min(z + length, 115.0), u, height, kind, shop, not hidden, seed)
                row.append(before)
            z += length + gap
    return tuple(row)


def _light(
    rng: np.random.Generator,
    time: str,
    weather: str,
    street: Street,
    posts: list[tuple[float, float, int]],
    beams: tuple[Beam, ...],
) -> Light:
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.35, 1.0)
    toward = (
        float(np.cos(elevation) * np.sin(azimuth)),
        float(np.sin(elevation)),
        float(np.cos(elevation) * np.cos(azimuth)),
    )
    sodium, strength, dusk = rng.random() < 0.6, rng.uniform(0.03, 0.11), rng.uniform(0.08, 0.16)
    night = rng.uniform(0.004, 0.010)
    colour = np.array((1.0, 0.72, 0.36) if sodium else (0.92, 0.97, 1.0)) * strength
    heads = [(u - np.sign(u) * 1.5, z, 6.5) for u, z, on in posts if on]
    lamps = tuple(Lamp(float(u + street.bend(z)), y, float(z), tuple(float(c) for c in colour)) for u, z, y in heads)
    if time == "day":
        if weather == "clear":
            return Light((0.36, 0.41, 0.48), (0.72, 0.66, 0.56), toward)
        return Light((0.62, 0.65, 0.68), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    if time == "dusk":
        return Light((dusk * 0.95, dusk * 0.9, dusk * 1.15), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), lamps, beams)
    return Light((night * 0.8, night * 0.95, night * 1.3), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), lamps, beams)


class _Placer:
    """Finds free places that the camera sees."""

    def __init__(self, view: View, street: Street) -> None:
        self.view, self.street, self.taken = view, street, []
        self.nearest = view.focal * view.above / (1.0 - view.horizon)

    def free(self, u: float, z: float, radius: float, long: float) -> bool:
        x = self.view.focal * (u + self.street.bend(z)) / z
        inside = -0.64 * 2 * self.view.centre < x < 0.64 * 2 * (1 - self.view.centre)
        apart = all(abs(u - a) > radius + r or abs(z - b) > long + s for a, b, r, s in self.taken)
        return bool(inside and apart)

    def take(self, u: float, z: float, radius: float, long: float) -> None:
        self.taken.append((u, z, radius, long))


def _items(rng: np.random.Generator, view: View, street: Street, night: bool) -> list[Item]:
    placer, items = _Placer(view, street), []
    wanted = int(rng.integers(3, 9))
    kinds = rng.choice(
        ["walker", "car", "parked", "cyclist", "bicycle", "crosser"], size=40, p=[0.30, 0.24, 0.16, 0.13, 0.06, 0.11]
    )
    near, count = placer.nearest * 1.12, 0
    inner = street.road + street.verge
    for kind in kinds:
        z = float(near * np.exp(rng.uniform(0, 1) ** 0.8 * np.log(48.0 / near)))
        side = 1 if rng.random() < 0.5 else -1
        a, b, turn, seed, moving = rng.random(), rng.random(), rng.random(), _seed(rng), rng.random() < 0.75
        lean = 0.15 * (turn - 0.5)
        if kind == "car":
            z = max(z, near + 5.0)
            lane = (int(a * street.lanes) + 0.5) * (street.road - 0.4) / street.lanes
            u, yaw, radius, long = side * lane, (0.0 if side > 0 else np.pi) + lean * 0.3, 0.9, 2.6
            if turn > 0.88:
                yaw = np.pi / 2 if b < 0.5 else -np.pi / 2  # one that comes out of a drive
                radius, long = 2.3, 1.2
        elif kind == "parked":
            z, moving = max(z, near + 4.0), False
            u, yaw, radius, long = side * (street.road - 0.95), (0.0 if side > 0 else np.pi), 0.9, 2.4
        elif kind == "cyclist":
            u, yaw, radius, long = side * (street.road - 0.7 - a), (0.0 if side > 0 else np.pi) + lean, 0.5, 1.0
            if turn > 0.6:
                u, yaw, radius, long = (a - 0.5) * 2 * street.road, side * np.pi / 2 + lean, 1.0, 0.5
        elif kind == "bicycle":
            u, yaw, radius, long = (
                side * (inner + 0.5 + a * (street.pavement - 0.9)),
                np.pi / 2 * (1 if b < 0.5 else -1) + 3 * lean,
                0.9,
                0.4,
            )
        elif kind == "walker":
            u, yaw, radius, long = (
                side * (inner + 0.4 + a * (street.pavement - 0.8)),
                (0.0 if b < 0.5 else np.pi) + 6 * lean,
                0.35,
                0.4,
            )
        else:
            z = street.crossing + 0.8 + 2 * b if street.crossing and b < 0.8 else z
            u, yaw, radius, long = (a - 0.5) * 2 * street.road, side * np.pi / 2 + 2 * lean, 0.35, 0.4
        if count >= wanted or not placer.free(u, z, radius, long):
            continue
        placer.take(u, z, radius, long)
        items.append(Item(str(kind), float(u), z, float(yaw + street.slope(z)), seed, bool(moving)))
        count += 2 if kind == "cyclist" else 1
    return items


def make_plan(rng: np.random.Generator) -> Plan:
    """Draw a scene."""
    time = str(rng.choice(["day", "dusk", "night"], p=[0.45, 0.14, 0.41]))
    weather = str(rng.choice(["clear", "cloudy", "mist", "wet"], p=[0.5, 0.28, 0.04, 0.18]))
    post = str(rng.choice(["driver", "walker", "mast"], p=[0.4, 0.25, 0.35]))
    lanes = 1 if rng.random() < 0.75 else 2
    road = lanes * rng.uniform(3.0, 3.6) + rng.uniform(0.2, 1.8)
    verge = rng.uniform(0.8, 2.0) if rng.random() < 0.35 else 0.0
    pavement = rng.uniform(2.0, 4.0)
    above = {"driver": rng.uniform(1.3, 1.9), "walker": rng.uniform(1.6, 2.2), "mast": rng.uniform(3.2, 5.5)}[post]
    horizon = {"driver": rng.uniform(0.40, 0.50), "walker": rng.uniform(0.36, 0.46), "mast": rng.uniform(0.16, 0.30)}[
        post
    ]
    view = View(
        float(rng.uniform(0.95, 1.35)),
        float(horizon),
        float(rng.uniform(0.40, 0.60)),
        float(above),
        float(rng.uniform(0.7, 1.3)),
    )
    stand = {
        "driver": -road / 2,
        "walker": -(road + verge + pavement * 0.4) * rng.choice([-1, 1]),
        "mast": rng.uniform(-1, 1) * road,
    }[post]
    curve = rng.uniform(-0.0018, 0.0018) if rng.random() < 0.5 else 0.0
    heading = rng.uniform(-0.06, 0.06) - 0.004 * stand + (-0.1 * np.sign(stand) if post == "walker" else 0.0)
    nearest = view.focal * above / (1 - horizon)
    crossing = float(rng.uniform(nearest * 1.3, nearest * 1.3 + 9)) if rng.random() < 0.4 else 0.0
    street = Street(
        float(stand),
        float(heading),
        float(curve),
        float(road),
        float(verge),
        float(pavement),
        crossing,
        lanes,
        bool(rng.random() < 0.5),
    )
    items = _items(rng, view, street, time == "night")
    edge = road + verge + pavement
    posts, spacing, first = [], rng.uniform(16, 26), rng.uniform(8, 18)
    dark = rng.random() < 0.3  # a street where most lamps are out
    for n in range(6):
        z = first + n * spacing * (0.5 if weather != "mist" else 0.7)
        posts.append((float((1 if n % 2 else -1) * (road + 0.5)), float(z), int(rng.random() < (0.3 if dark else 0.9))))
    for u, z, on in posts:
        items.append(Item("lamp", u, z, 0.0, on, time != "day" and bool(on)))
    leafy = rng.random() < 0.65
    for side in (-1, 1):
        z = rng.uniform(3, 16)
        while z < 75:
            lot, seed, step, dip = rng.random(), _seed(rng), rng.uniform(6, 14), rng.uniform(0.6, 1.2)
            if leafy and lot < 0.7:
                items.append(Item("tree", float(side * (road + dip)), float(z), 0.0, seed))
            elif lot > 0.86 and z > 1.6 * nearest:
                items.append(Item("sign", float(side * (road + 0.45)), float(z), 0.0, seed))
            elif lot > 0.76:
                items.append(Item("bin", float(side * (edge - 0.5)), float(z), 0.0, seed))
            z += step * (1.0 if z < 35 else 1.7)
    if street.crossing and rng.random() < 0.6:
        items += [
            Item("signal", float(s * (road + 0.5)), crossing + 0.3 + s * 0.2, 0.0, _seed(rng) // 2 * 2 + int(s > 0))
            for s in (-1, 1)
        ]
    if rng.random() < 0.22:
        items.append(
            Item(
                "smoke", float(rng.uniform(-0.6, 0.6) * edge), float(rng.uniform(nearest * 1.1, 14.0)), 0.0, _seed(rng)
            )
        )
    beams = []
    for item in items:
        if item.kind == "car" and item.moving:
            dx, dz = float(np.sin(item.yaw)), float(np.cos(item.yaw))
            beams.append(Beam(float(item.u + street.bend(item.z)) + 2.2 * dx, item.z + 2.2 * dz, dx, dz, 0.22))
    if post == "driver" and rng.random() < 0.6:
        beams.append(Beam(0.0, -1.0, 0.0, 1.0, float(rng.uniform(0.05, 0.10))))
    light = _light(rng, time, weather, street, posts, tuple(beams))
    buildings = _buildings(rng, street, edge)
    lit = {"day": 0.03, "dusk": rng.uniform(0.15, 0.4), "night": rng.uniform(0.12, 0.4)}[time]
    sun = light.toward_sun
    shadow, shadow_side = 1e3, 1
    if any(light.sun) and abs(sun[0]) > 0.2:
        shadow_side = int(np.sign(sun[0]))
        shadow = float(max(edge + 1 - 8.0 * abs(sun[0]) / sun[1], -edge))
    ground = {"day": rng.uniform(0.36, 0.48), "dusk": rng.uniform(0.28, 0.38), "night": rng.uniform(0.18, 0.30)}[time]
    return Plan(
        time,
        weather,
        view,
        street,
        light,
        buildings,
        tuple(items),
        float(lit),
        shadow,
        shadow_side,
        float(ground),
        _seed(rng),
    )
