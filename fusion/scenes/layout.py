"""How a procedural scene is drawn by lot: the street, its houses, who is in it, and the light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.scenes.light import Beam, Lamp, Light
from fusion.scenes.plan import Building, Item, Plan, Street, View, draw_seed
from fusion.scenes.traffic import draw_traffic


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
            seed, skip = draw_seed(rng), rng.random() < (0.75 if open_side else 0.08)
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
    lamp_posts: list[Item],
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
    red, green, blue = (float(level) for level in colour)
    lamps = tuple(
        Lamp(float(post.u - np.sign(post.u) * 1.5 + street.bend(post.z)), 6.5, post.z, (red, green, blue))
        for post in lamp_posts
        if post.seed
    )
    if time == "day":
        if weather == "clear":
            return Light((0.36, 0.41, 0.48), (0.72, 0.66, 0.56), toward)
        return Light((0.62, 0.65, 0.68), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    if time == "dusk":
        return Light((dusk * 0.95, dusk * 0.9, dusk * 1.15), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), lamps, beams)
    return Light((night * 0.8, night * 0.95, night * 1.3), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), lamps, beams)


@dataclass(frozen=True)
class _Widths:
    """Cross section of the street in metres; `road` is half of it. See `Street`."""

    lanes: int
    road: float
    verge: float
    pavement: float


def _widths(rng: np.random.Generator) -> _Widths:
    lanes = 1 if rng.random() < 0.75 else 2
    road = lanes * rng.uniform(3.0, 3.6) + rng.uniform(0.2, 1.8)
    verge = rng.uniform(0.8, 2.0) if rng.random() < 0.35 else 0.0
    return _Widths(lanes, road, verge, rng.uniform(2.0, 4.0))


def _view(rng: np.random.Generator, post: str) -> View:
    """Draw a camera: in a car, in a walker's hands or on a mast."""
    above = {"driver": rng.uniform(1.3, 1.9), "walker": rng.uniform(1.6, 2.2), "mast": rng.uniform(3.2, 5.5)}
    horizon = {"driver": rng.uniform(0.40, 0.50), "walker": rng.uniform(0.36, 0.46), "mast": rng.uniform(0.16, 0.30)}
    focal, centre, noise = rng.uniform(0.95, 1.35), rng.uniform(0.40, 0.60), rng.uniform(0.7, 1.3)
    return View(float(focal), float(horizon[post]), float(centre), float(above[post]), float(noise))


def _street(rng: np.random.Generator, post: str, widths: _Widths, view: View) -> Street:
    """Draw how the street runs past the camera, which stands on the road, on a pavement or on a mast over it."""
    road, verge, pavement = widths.road, widths.verge, widths.pavement
    offset = {
        "driver": -road / 2,
        "walker": -(road + verge + pavement * 0.4) * rng.choice([-1, 1]),
        "mast": rng.uniform(-1, 1) * road,
    }[post]
    curve = rng.uniform(-0.0018, 0.0018) if rng.random() < 0.5 else 0.0
    heading = rng.uniform(-0.06, 0.06) - 0.004 * offset + (-0.1 * np.sign(offset) if post == "walker" else 0.0)
    near = view.nearest * 1.3
    crossing = float(rng.uniform(near, near + 9)) if rng.random() < 0.4 else 0.0
    return Street(
        offset=float(offset),
        heading=float(heading),
        curve=float(curve),
        road=float(road),
        verge=float(verge),
        pavement=float(pavement),
        crossing=crossing,
        lanes=widths.lanes,
        side_grass=bool(rng.random() < 0.5),
    )


def _lamp_posts(rng: np.random.Generator, road: float, time: str, weather: str) -> list[Item]:
    """Draw six lamp posts on alternating sides; `seed` is 1 for a lamp that works, `moving` for one that shines."""
    spacing, first = rng.uniform(16, 26), rng.uniform(8, 18)
    dark = rng.random() < 0.3  # a street where most lamps are out
    posts = []
    for n in range(6):
        u, z = (1 if n % 2 else -1) * (road + 0.5), first + n * spacing * (0.5 if weather != "mist" else 0.7)
        works = bool(rng.random() < (0.3 if dark else 0.9))
        posts.append(Item("lamp", float(u), float(z), 0.0, int(works), time != "day" and works))
    return posts


def _roadside(rng: np.random.Generator, street: Street, edge: float, nearest: float) -> list[Item]:
    """Draw trees, signs and bins along both sides."""
    items = []
    leafy = rng.random() < 0.65
    for side in (-1, 1):
        z = rng.uniform(3, 16)
        while z < 75:
            lot, seed, step, dip = rng.random(), draw_seed(rng), rng.uniform(6, 14), rng.uniform(0.6, 1.2)
            if leafy and lot < 0.7:
                items.append(Item("tree", float(side * (street.road + dip)), float(z), 0.0, seed))
            elif lot > 0.86 and z > 1.6 * nearest:
                items.append(Item("sign", float(side * (street.road + 0.45)), float(z), 0.0, seed))
            elif lot > 0.76:
                items.append(Item("bin", float(side * (edge - 0.5)), float(z), 0.0, seed))
            z += step * (1.0 if z < 35 else 1.7)
    return items


def _signals(rng: np.random.Generator, street: Street) -> list[Item]:
    """Draw a pair of traffic signals at the crossing, or none."""
    if not (street.crossing and rng.random() < 0.6):
        return []
    return [
        Item(
            "signal",
            float(side * (street.road + 0.5)),
            street.crossing + 0.3 + side * 0.2,
            0.0,
            draw_seed(rng) // 2 * 2 + int(side > 0),
        )
        for side in (-1, 1)
    ]


def _smoke(rng: np.random.Generator, edge: float, nearest: float) -> list[Item]:
    """Draw a cloud of smoke, or none."""
    if rng.random() >= 0.22:
        return []
    u, z = float(rng.uniform(-0.6, 0.6) * edge), float(rng.uniform(nearest * 1.1, 14.0))
    return [Item("smoke", u, z, 0.0, draw_seed(rng))]


def _beams(rng: np.random.Generator, items: list[Item], street: Street, post: str) -> tuple[Beam, ...]:
    """Return the headlights of cars in motion, and draw whether the car that carries the camera has its own on."""
    beams = []
    for item in items:
        if item.kind == "car" and item.moving:
            dx, dz = float(np.sin(item.yaw)), float(np.cos(item.yaw))
            beams.append(Beam(float(item.u + street.bend(item.z)) + 2.2 * dx, item.z + 2.2 * dz, dx, dz, 0.22))
    if post == "driver" and rng.random() < 0.6:
        beams.append(Beam(0.0, -1.0, 0.0, 1.0, float(rng.uniform(0.05, 0.10))))
    return tuple(beams)


def _shade(light: Light, edge: float) -> tuple[float, int]:
    """Return `shadow` and `shadow_side` of the plan."""
    sun = light.toward_sun
    if any(light.sun) and abs(sun[0]) > 0.2:
        return float(max(edge + 1 - 8.0 * abs(sun[0]) / sun[1], -edge)), int(np.sign(sun[0]))
    return 1e3, 1


def make_plan(rng: np.random.Generator) -> Plan:
    """Draw a scene by lot. The order of the draws is part of every published seed: keep it."""
    time = str(rng.choice(["day", "dusk", "night"], p=[0.45, 0.14, 0.41]))
    weather = str(rng.choice(["clear", "cloudy", "mist", "wet"], p=[0.5, 0.28, 0.04, 0.18]))
    post = str(rng.choice(["driver", "walker", "mast"], p=[0.4, 0.25, 0.35]))
    widths = _widths(rng)
    view = _view(rng, post)
    street = _street(rng, post, widths, view)
    edge, nearest = street.road + street.verge + street.pavement, view.nearest
    items = draw_traffic(rng, view, street)
    lamp_posts = _lamp_posts(rng, street.road, time, weather)
    items += lamp_posts
    items += _roadside(rng, street, edge, nearest)
    items += _signals(rng, street)
    items += _smoke(rng, edge, nearest)
    light = _light(rng, time, weather, street, lamp_posts, _beams(rng, items, street, post))
    buildings = _buildings(rng, street, edge)
    lit = {"day": 0.03, "dusk": rng.uniform(0.15, 0.4), "night": rng.uniform(0.12, 0.4)}[time]
    shadow, shadow_side = _shade(light, edge)
    ground = {"day": rng.uniform(0.36, 0.48), "dusk": rng.uniform(0.28, 0.38), "night": rng.uniform(0.18, 0.30)}[time]
    return Plan(
        time=time,
        weather=weather,
        view=view,
        street=street,
        light=light,
        buildings=buildings,
        items=tuple(items),
        lit=float(lit),
        shadow=shadow,
        shadow_side=shadow_side,
        ground=float(ground),
        seed=draw_seed(rng),
    )
