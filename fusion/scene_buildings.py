"""Houses of the procedural scenes: facades evaluated per pixel in metres along and up the wall, so they are sharp at any size."""

from __future__ import annotations

import numpy as np
import cv2

from fusion.scene_canvas import NEAR, Frame, Sprite, planes, sample_noise
from fusion.scene_ground import blurred_levels, look_up
from fusion.scene_plan import Building, Plan

TALL = 0.05  # metres per texel up the wall
WALLS = (
    (0.34, 0.15, 0.10), (0.42, 0.22, 0.14), (0.55, 0.50, 0.42), (0.62, 0.60, 0.56), (0.36, 0.34, 0.32), (0.50, 0.42, 0.28),
    (0.30, 0.34, 0.38), (0.58, 0.46, 0.38), (0.24, 0.22, 0.22), (0.46, 0.50, 0.48),
)  # fmt: skip
ROOFS = ((0.20, 0.07, 0.05), (0.08, 0.08, 0.09), (0.14, 0.10, 0.08))
GLOWS = ((1.0, 0.66, 0.30), (1.0, 0.78, 0.48), (0.85, 0.92, 1.0), (1.0, 0.55, 0.22))
LETTERS = {
    "A": "0210 1022 0121", "B": "0002 0020 0121 0222 2022", "C": "2000 0002 0222", "E": "2000 0002 0222 0111", "F": "2000 0002 0111",
    "H": "0002 2022 0121", "K": "0002 0120 0122", "L": "0002 0222", "N": "0002 0022 2220", "O": "0020 2022 2202 0200",
    "P": "0002 0020 2021 2101", "R": "0002 0020 2021 2101 1122", "S": "2000 0001 0121 2122 2202", "T": "0020 1012", "I": "1012", "M": "0200 0011 1120 2022",
    "Z": "0020 2002 0222",
}  # fmt: skip
WORDS = ("CAFE", "HOTEL", "BAR", "BANK", "SHOP", "TEA", "PIZZA", "BIKES", "BOOKS", "FISH", "TAILOR", "CINEMA", "PHOTO", "LOTTO")


class Style:
    """How one house looks: drawn once, used for its faces."""

    def __init__(self, plan: Plan, house: Building) -> None:
        rng = np.random.default_rng(house.seed)
        self.wall = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(0.8, 1.1)
        self.roof = np.array(ROOFS[rng.integers(len(ROOFS))])
        office = house.kind == "office"
        self.floor = float(rng.uniform(2.8, 3.5))
        self.ground = 3.6 if house.shop else 0.0
        self.bay = float(rng.uniform(1.5, 2.4) if office else rng.uniform(2.0, 3.2))
        self.share = float(rng.uniform(0.72, 0.9) if office else rng.uniform(0.36, 0.5))
        self.sill, self.head = (0.7, 0.95 * self.floor) if office else (0.9, min(2.3, 0.8 * self.floor))
        self.trim = self.wall * 0.6 if rng.random() < 0.5 else np.array((0.62, 0.62, 0.60))
        self.sign = np.array([(0.5, 0.06, 0.05), (0.05, 0.12, 0.4), (0.05, 0.3, 0.14), (0.06, 0.06, 0.06), (0.6, 0.42, 0.05)][rng.integers(5)])
        self.word = WORDS[rng.integers(len(WORDS))]
        self.heat = plan.ground + float(rng.uniform(-0.09, 0.10))
        warm_night = 0.10 if plan.time == "night" else 0.04 if plan.time == "dusk" else -0.13
        self.glass_heat = self.heat + warm_night
        floors, bays = 16, 40
        lit = rng.random((floors, bays)) < plan.lit
        colour = np.array(GLOWS)[rng.integers(0, len(GLOWS), (floors, bays))]
        power = rng.uniform(0.12, 0.75, (floors, bays)) * lit
        self.rooms = np.zeros((floors, bays, 4), np.float32)
        self.rooms[..., :3] = colour * power[..., None]
        self.rooms[..., 3] = rng.uniform(0.5, 1.5, (floors, bays)) + lit
        self.shop_light = float(rng.uniform(0.35, 0.9)) if plan.time != "day" and rng.random() < 0.65 else 0.0
        self.shift = rng.uniform(0, 400, 2)
        self.brick = rng.random() < 0.5 and not office
        self.levels = self._profiles(house)

    def _profiles(self, house: Building) -> np.ndarray:
        """Up the wall: wall colour and heat (4), window share (1), frame share (1), for each texel."""
        t = np.arange(0, house.height + 0.5, TALL, dtype=np.float32)
        up = np.mod(t - self.ground, self.floor)
        above = t >= self.ground
        whole = np.floor((t - self.ground) / self.floor) * self.floor + self.ground + self.floor <= house.height + 0.3
        rows = np.zeros((t.size, 8), np.float32)
        rows[:, :4] = (*self.wall, self.heat)
        if self.brick:
            rows[np.mod(t, 0.15) < 0.05, :3] *= 0.8
        rows[above & (up < 0.18), :3] *= 1.18
        rows[above & (up > self.sill - 0.14) & (up < self.sill) & whole, :3] *= 0.8
        rows[t < 0.5, :3] *= 0.7
        top = t > house.height - 0.45
        rows[top, :4] = (*(self.wall * 0.6), self.heat - 0.05)
        rows[(t > house.height - 0.55) & ~top, :3] *= 0.55
        band = above & whole & ~top
        rows[band & (up > self.sill) & (up < self.head), 4] = 1.0
        rows[band & (up > self.sill - 0.1) & (up < self.head + 0.1), 5] = 1.0
        rows[band, 6] = ((up - self.sill) / (self.head - self.sill))[band].clip(0, 1)
        if house.shop:
            rows[t < 3.0, 4:7] = 0.0
            rows[(t > 0.5) & (t < 2.8), 4:6] = 1.0
            rows[(t >= 2.85) & (t < 3.5), :4] = (*self.sign, self.heat + 0.02)
        return blurred_levels(rows, 6)


def draw_building(frame: Frame, plan: Plan, house: Building) -> None:
    """One house: the face on the street, the face toward the camera, the roof if it has one."""
    street = plan.street
    u = house.side * house.u
    near = max(house.z0, 1.0)
    x0, x1 = float(u + street.bend(near)), float(u + street.bend(house.z1))
    back = x0 + house.side * 14.0
    camera = frame.camera
    seen = [camera.centre + camera.focal * x / z for x, z in ((x0, near), (x1, house.z1), (back, near), (x1 + house.side * 14.0, house.z1))]
    if max(seen) < 0 or min(seen) > camera.width:
        return
    style = Style(plan, house)
    if house.kind == "house":
        _roof(frame, plan, house, style, x0, x1, near)
    if house.z0 > 1.0 and house.front:
        _facade(frame, plan, house, style, (x0, house.z0), (back, house.z0), 0.0, blind=house.kind != "house")
    _facade(frame, plan, house, style, (x0, near), (x1, house.z1), near - house.z0, blind=False)
    if house.shop:
        _word(frame, plan, house, style, (x0, near), (x1, house.z1))


def _facade(
    frame: Frame, plan: Plan, house: Building, style: Style, a: tuple[float, float], b: tuple[float, float], skipped: float, blind: bool
) -> None:
    """The wall over the ground line from a to b (X, Z): for every pixel its place along and up the wall, then its looks."""
    camera, light = frame.camera, plan.light
    ends = [camera.centre + camera.focal * p[0] / p[1] for p in (a, b)]
    if (ends[1] - ends[0]) * house.side * (1 if a[1] == b[1] else -1) <= 0:
        return  # seen from behind
    left, right = max(int(np.floor(min(ends))), 0), min(int(np.ceil(max(ends))), camera.width)
    if right <= left:
        return
    slope = (np.arange(left, right) + 0.5 - camera.centre) / camera.focal
    if a[1] == b[1]:
        z = np.full(slope.shape, a[1])
        x = slope * z
        along = np.abs(x - a[0])
    else:
        k = (b[0] - a[0]) / (b[1] - a[1])
        cross = slope - k
        cross = np.where(np.abs(cross) < 1e-6, 1e-6, cross)
        z = np.clip((a[0] - k * a[1]) / cross, a[1], b[1])
        x = slope * z
        along = z - a[1] + skipped
    foot = z / camera.focal
    tops = camera.horizon - (house.height - camera.above) / foot
    bottoms = camera.horizon + camera.above / foot
    y0, y1 = max(int(np.floor(tops.min())), 0), min(int(np.ceil(bottoms.max())), camera.height)
    if y1 <= y0:
        return
    foot32 = foot.astype(np.float32)[None]
    up = (np.float32(camera.horizon + camera.above / foot)[None] - (np.arange(y0, y1, dtype=np.float32) + 0.5)[:, None]) * foot32
    rows = look_up(np.ascontiguousarray(style.levels[..., :4]), up * np.float32(1 / TALL), foot32, TALL)
    shares = look_up(np.ascontiguousarray(style.levels[..., 4:8]), up * np.float32(1 / TALL), foot32, TALL)
    rows, shares = planes(rows), cv2.split(shares)
    # Along the wall everything depends on the column alone.
    step = np.abs(np.gradient(along)) if along.size > 1 else np.array([0.05])
    step = np.maximum(step, 1e-3)
    length = (b[1] - a[1]) + skipped if a[1] != b[1] else 14.0
    bays = max(1, int(length / style.bay))
    bay = length / bays
    phase = np.abs(np.mod(along, bay) - bay / 2)
    half = style.share * bay / 2

    def cover(width: float) -> np.ndarray:
        sharp = np.clip((width - phase) / step + 0.5, 0, 1)
        far = np.clip(step / bay * 2 - 1, 0, 1)
        return (sharp + (2 * width / bay - sharp) * far).astype(np.float32)

    window, surround = cover(half)[None], cover(half + 0.1)[None]
    mullion = np.clip(1 - phase / 0.05, 0, 1) * (half > 0.3) * np.clip(0.08 / step, 0, 1)
    window = window * (1 - 0.6 * mullion[None].astype(np.float32))
    if house.shop:
        ground = up < style.ground - 0.4
        wide = cover(bay * 0.44)[None]
        window, surround = np.where(ground, wide, window), np.where(ground, wide, surround)
    if blind:
        window, surround = window * 0, surround * 0
    glass, border = shares[0] * window, shares[1] * surround
    grain = sample_noise(1.1, (along * 22 + style.shift[0]).astype(np.float32)[None].repeat(y1 - y0, 0), up * 22 + np.float32(style.shift[1]))
    grain *= 1 / (1 + (np.maximum(foot, step)[None] / 0.12).astype(np.float32))
    shade = 1 + 0.18 * grain
    rows[:3] *= np.maximum(shade, 0.3)
    rows[3] += 0.014 * grain
    rows += (np.append(style.trim, style.heat + 0.01).astype(np.float32)[:, None, None] - rows) * (border - glass).clip(0, 1)
    # What the wall reflects.
    normal = np.array([0.0, 0.0, -1.0]) if a[1] == b[1] else np.array([-house.side, 0.0, 0.0])
    sunny = max(0.0, float(normal @ np.asarray(light.toward_sun)))
    base = np.asarray(light.ambient) * (0.85 + 0.15 * (a[1] == b[1])) + np.asarray(light.sun) * sunny
    lit = base.astype(np.float32)[:, None, None]
    rows[3] += np.float32(0.07 * sunny * any(light.sun))
    if light.lamps or light.beams:
        n, m = min(8, y1 - y0), min(24, right - left)
        xs, zs = np.interp(np.linspace(0, 1, m), np.linspace(0, 1, x.size), x), np.interp(np.linspace(0, 1, m), np.linspace(0, 1, z.size), z)
        ys = cv2.resize(up, (m, n), interpolation=cv2.INTER_LINEAR)
        lamps = light.local(xs[None], ys, zs[None]) * 0.7
        lit = lit + np.stack([cv2.resize(lamp, (right - left, y1 - y0), interpolation=cv2.INTER_LINEAR) for lamp in lamps])
    rows[:3] *= lit
    # Glass: dark, mirrors the sky higher up; rooms behind may be lit.
    floor_index = np.clip((up - style.ground) / style.floor, 0, 15).astype(np.float32)
    bay_index = np.clip(along / bay, 0, 39).astype(np.float32)[None].repeat(y1 - y0, 0)
    rooms = planes(cv2.remap(style.rooms, np.floor(bay_index), np.floor(floor_index), cv2.INTER_NEAREST))
    tint = rooms[3].copy()
    rooms[3] = 0.03 * (tint - 1)
    mirror = np.append(np.asarray(light.ambient) * 0.17, 0.0).astype(np.float32)
    pane = mirror[:, None, None] * (tint * (0.35 + 0.9 * shares[2]))
    rooms[:3] *= 0.75 + 0.35 * shares[2] + 0.18 * grain
    if house.shop:
        display = style.shop_light * np.maximum(0.7 + 0.4 * grain, 0.1)
        for plane, tone in zip(rooms, (1.0, 0.86, 0.62), strict=False):
            np.copyto(plane, tone * display, where=ground)
    pane += rooms
    pane[3] += style.glass_heat
    rows += (pane - rows) * glass
    alpha = np.clip((house.height - up) / foot32 + 0.5, 0, 1) * np.clip(up / foot32 + 0.5, 0, 1)
    edge = np.arange(left, right)
    alpha *= (np.clip(edge + 1 - min(ends), 0, 1) * np.clip(max(ends) - edge, 0, 1)).astype(np.float32)[None]
    frame.blend(y0, left, rows, alpha, np.broadcast_to(z[None].astype(np.float32), alpha.shape))


def _roof(frame: Frame, plan: Plan, house: Building, style: Style, x0: float, x1: float, near: float) -> None:
    """A pitched roof with its gable."""
    eaves, ridge = house.height - 0.1, house.height + 2.6
    over, deep = -0.4 * house.side, 5.0 * house.side
    slopes = np.array([(x0 + over, eaves - 0.1, near), (x1 + over, eaves - 0.1, house.z1), (x1 + deep, ridge, house.z1), (x0 + deep, ridge, near)])
    gable = np.array([(x0, eaves, near), (x0 + deep, ridge, near), (x0 + 2 * deep, eaves, near)])
    sprite = Sprite(frame.camera, frame.camera.project(np.concatenate([slopes, gable])))
    sun = np.asarray(plan.light.toward_sun)
    toward = max(0.0, float(np.array([-house.side * 0.46, 0.89, 0]) @ sun))
    sprite.face(gable, style.wall * 0.8, style.heat)
    sprite.face(slopes, style.roof * (0.7 + 0.6 * toward), style.heat - 0.06)
    for part in np.linspace(0.12, 0.9, 7):
        course = np.stack([slopes[0] * (1 - part) + slopes[3] * part, slopes[1] * (1 - part) + slopes[2] * part])
        sprite.stroke(frame.camera.project(course), 0.05 * frame.camera.focal / max(near, 6.0), style.roof * (0.5 + 0.5 * toward), style.heat - 0.07)
    light = np.asarray(plan.light.ambient) + 0.7 * np.asarray(plan.light.sun)
    sprite.paste(frame, (max(near, NEAR) + house.z1) / 2, light, 0, np.random.default_rng(house.seed + 1), texture=0.15)


def _word(frame: Frame, plan: Plan, house: Building, style: Style, a: tuple[float, float], b: tuple[float, float]) -> None:
    """The name over the shop, in strokes on a 3 x 3 grid."""
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
    letters = style.word if house.side < 0 else style.word
    sprite = None
    quads = []
    for n, letter in enumerate(letters):
        place = n if house.side < 0 else len(letters) - 1 - n  # on the right-hand side, right is nearer
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
    thick = 0.07 * frame.camera.focal / middle
    for line in flat:
        sprite.stroke(line, thick, (0.75, 0.74, 0.68), style.heat + 0.03)
    light = plan.light.upright(float(first[0]), middle)
    if style.shop_light and sprite.glows is None and not sprite.empty:
        light = light + style.shop_light * 1.6
    sprite.paste(frame, middle, light)
