"""Houses of the procedural scenes: how each looks, and its walls, roof and shop name put in perspective."""

from __future__ import annotations

import numpy as np

from fusion.scenes.canvas import NEAR, Frame, Sprite
from fusion.scenes.facade import Span, draw_facade
from fusion.scenes.house_style import Style
from fusion.scenes.plan import Building, Plan

LETTERS = {
    "A": "0210 1022 0121",
    "B": "0002 0020 0121 0222 2022",
    "C": "2000 0002 0222",
    "E": "2000 0002 0222 0111",
    "F": "2000 0002 0111",
    "H": "0002 2022 0121",
    "K": "0002 0120 0122",
    "L": "0002 0222",
    "N": "0002 0022 2220",
    "O": "0020 2022 2202 0200",
    "P": "0002 0020 2021 2101",
    "R": "0002 0020 2021 2101 1122",
    "S": "2000 0001 0121 2122 2202",
    "T": "0020 1012",
    "I": "1012",
    "M": "0200 0011 1120 2022",
    "Z": "0020 2002 0222",
}


def draw_building(frame: Frame, plan: Plan, house: Building) -> None:
    """Draw one house: the face on the street, the face toward the camera, the roof if it has one."""
    street = plan.street
    u = house.side * house.u
    near = max(house.z0, 1.0)
    x0, x1 = float(u + street.bend(near)), float(u + street.bend(house.z1))
    back = x0 + house.side * 14.0
    camera = frame.camera
    seen = [
        camera.centre + camera.focal * x / z
        for x, z in ((x0, near), (x1, house.z1), (back, near), (x1 + house.side * 14.0, house.z1))
    ]
    if max(seen) < 0 or min(seen) > camera.width:
        return
    style = Style(plan, house)
    if house.kind == "house":
        _roof(frame, plan, house, style, x0, x1, near)
    if house.z0 > 1.0 and house.front:
        gable_end = Span((x0, house.z0), (back, house.z0), 0.0)
        draw_facade(frame, plan, house, style, gable_end, blind=house.kind != "house")
    draw_facade(frame, plan, house, style, Span((x0, near), (x1, house.z1), near - house.z0), blind=False)
    if house.shop:
        _word(frame, plan, house, style, (x0, near), (x1, house.z1))


def _roof(frame: Frame, plan: Plan, house: Building, style: Style, x0: float, x1: float, near: float) -> None:
    """Draw a pitched roof with its gable; the wall goes from X = x0 at Z = near to X = x1 at the house's z1."""
    eaves, ridge = house.height - 0.1, house.height + 2.6
    over, deep = -0.4 * house.side, 5.0 * house.side
    slopes = np.array(
        [
            (x0 + over, eaves - 0.1, near),
            (x1 + over, eaves - 0.1, house.z1),
            (x1 + deep, ridge, house.z1),
            (x0 + deep, ridge, near),
        ]
    )
    gable = np.array([(x0, eaves, near), (x0 + deep, ridge, near), (x0 + 2 * deep, eaves, near)])
    sprite = Sprite(frame.camera, frame.camera.project(np.concatenate([slopes, gable])))
    sun = np.asarray(plan.light.toward_sun)
    toward = max(0.0, float(np.array([-house.side * 0.46, 0.89, 0]) @ sun))
    sprite.face(gable, style.wall * 0.8, style.heat)
    sprite.face(slopes, style.roof * (0.7 + 0.6 * toward), style.heat - 0.06)
    for part in np.linspace(0.12, 0.9, 7):
        course = np.stack([slopes[0] * (1 - part) + slopes[3] * part, slopes[1] * (1 - part) + slopes[2] * part])
        sprite.stroke(
            frame.camera.project(course),
            0.05 * frame.camera.focal / max(near, 6.0),
            style.roof * (0.5 + 0.5 * toward),
            style.heat - 0.07,
        )
    light = np.asarray(plan.light.ambient) + 0.7 * np.asarray(plan.light.sun)
    sprite.paste(frame, (max(near, NEAR) + house.z1) / 2, light, 0, np.random.default_rng(house.seed + 1), texture=0.15)


def _word(
    frame: Frame, plan: Plan, house: Building, style: Style, a: tuple[float, float], b: tuple[float, float]
) -> None:
    """Draw the name over the shop on the wall from a to b (X, Z), in strokes on a 3 x 3 grid."""
    start, end = np.array([a[0], a[1]]), np.array([b[0], b[1]])
    length = float(np.linalg.norm(end - start))
    size = 0.42
    total = len(style.word) * 0.5
    if length < total + 2 or b[1] < 6:
        return
    along = (end - start) / length
    out = -house.side * 0.04
    first = start + along * (0.5 * (length - total))
    if first[1] < 3.0:
        first = start + along * (length - total - 1.0)
    quads = []
    for n, letter in enumerate(style.word):
        place = n if house.side < 0 else len(style.word) - 1 - n  # on the right-hand side, right is nearer
        for stroke in LETTERS[letter].split():
            p = np.array([int(stroke[0]), int(stroke[1])], float), np.array([int(stroke[2]), int(stroke[3])], float)
            ends = []
            for q in p:
                across = q[0] / 2 * 0.34
                s = place * 0.5 + (across if house.side < 0 else 0.34 - across)
                ground = first + along * s
                ends.append((ground[0] + out, 3.38 - q[1] / 2 * size, ground[1]))
            quads.append(np.array(ends))
    flat = [frame.camera.project(q) for q in quads]
    sprite = Sprite(frame.camera, np.concatenate(flat))
    middle = float(first[1] + along[1] * total / 2)
    spread = np.ptp(np.concatenate(flat)[:, 0]) / total  # pixels a metre along the wall, seen at a slant
    thick = 0.07 * min(frame.camera.focal / middle, 1.5 * spread)
    for line in flat:
        sprite.stroke(line, thick, (0.75, 0.74, 0.68), style.heat + 0.03)
    light = plan.light.upright(float(first[0]), middle)
    if style.shop_light:
        light = light + style.shop_light * 1.6
    sprite.paste(frame, middle, light)
