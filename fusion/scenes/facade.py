"""Walls of the procedural scenes, computed per pixel in metres along and up the wall: sharp at any size."""

from __future__ import annotations

import cv2
import numpy as np

from fusion.scenes.canvas import Frame, planes, sample_noise
from fusion.scenes.ground import blurred_levels, look_up
from fusion.scenes.plan import Building, Plan

TALL = 0.05  # metres per texel up the wall
WALLS = (
    (0.34, 0.15, 0.10),
    (0.42, 0.22, 0.14),
    (0.55, 0.50, 0.42),
    (0.62, 0.60, 0.56),
    (0.36, 0.34, 0.32),
    (0.50, 0.42, 0.28),
    (0.30, 0.34, 0.38),
    (0.58, 0.46, 0.38),
    (0.24, 0.22, 0.22),
    (0.46, 0.50, 0.48),
)
ROOFS = ((0.20, 0.07, 0.05), (0.08, 0.08, 0.09), (0.14, 0.10, 0.08))
GLOWS = ((1.0, 0.66, 0.30), (1.0, 0.78, 0.48), (0.85, 0.92, 1.0), (1.0, 0.55, 0.22))
WORDS = (
    "CAFE",
    "HOTEL",
    "BAR",
    "BANK",
    "SHOP",
    "TEA",
    "PIZZA",
    "BIKES",
    "BOOKS",
    "FISH",
    "TAILOR",
    "CINEMA",
    "PHOTO",
    "LOTTO",
)


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
        self.sign = np.array(
            [(0.5, 0.06, 0.05), (0.05, 0.12, 0.4), (0.05, 0.3, 0.14), (0.06, 0.06, 0.06), (0.6, 0.42, 0.05)][
                rng.integers(5)
            ]
        )
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
        self.goods = (rng.uniform(0.15, 1.0, (7, 61, 1)) * rng.uniform(0.62, 1.0, (7, 61, 3))).astype(np.float32)
        self.shift = rng.uniform(0, 400, 2)
        self.brick = rng.random() < 0.5 and not office
        levels = self._profiles(house)
        self.looks, self.openings = np.ascontiguousarray(levels[..., :4]), np.ascontiguousarray(levels[..., 4:7])

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
            rows[t < 2.8, 6] = t[t < 2.8] / 2.8
            rows[(t >= 2.85) & (t < 3.5), :4] = (*self.sign, self.heat + 0.02)
        return blurred_levels(rows, 6)


def draw_facade(
    frame: Frame,
    plan: Plan,
    house: Building,
    style: Style,
    a: tuple[float, float],
    b: tuple[float, float],
    skipped: float,
    blind: bool,
) -> None:
    """The wall over the ground line from a to b (X, Z): for every pixel its place on the wall, then its looks."""
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
    up = (
        (camera.horizon + camera.above / foot).astype(np.float32)[None]
        - (np.arange(y0, y1, dtype=np.float32) + 0.5)[:, None]
    ) * foot32
    step = np.maximum(np.abs(np.gradient(along)), 1e-3) if along.size > 1 else np.array([0.05])
    reading = up * np.float32(1 / TALL)
    rows = planes(look_up(style.looks, reading, foot32, TALL))
    along32 = np.ascontiguousarray(np.broadcast_to(along.astype(np.float32), up.shape))
    grain = sample_noise(1.1, along32 * 22 + np.float32(style.shift[0]), up * 22 + np.float32(style.shift[1]))
    grain *= 1 / (1 + (np.maximum(foot, step)[None] / 0.12).astype(np.float32))
    rows[:3] *= np.maximum(1 + 0.18 * grain, 0.3)
    rows[3] += 0.014 * grain
    # What the wall reflects.
    normal = np.array([0.0, 0.0, -1.0]) if a[1] == b[1] else np.array([-house.side, 0.0, 0.0])
    sunny = max(0.0, float(normal @ np.asarray(light.toward_sun)))
    base = np.asarray(light.ambient) * (0.85 + 0.15 * (a[1] == b[1])) + np.asarray(light.sun) * sunny
    lit = base.astype(np.float32)[:, None, None]
    rows[3] += np.float32(0.07 * sunny * any(light.sun))
    if light.lamps or light.beams:
        n, m = min(8, y1 - y0), min(24, right - left)
        xs, zs = (np.interp(np.linspace(0, 1, m), np.linspace(0, 1, v.size), v) for v in (x, z))
        lamps = light.local(xs[None], cv2.resize(up, (m, n), interpolation=cv2.INTER_LINEAR), zs[None]) * np.float32(
            0.7
        )
        for plane, lamp, level in zip(rows, lamps, lit, strict=False):
            plane *= cv2.resize(lamp, (right - left, y1 - y0), interpolation=cv2.INTER_LINEAR) + level
    else:
        rows[:3] *= lit
    if not blind:
        length = (b[1] - a[1]) + skipped if a[1] != b[1] else 14.0
        _windows(plan, house, style, rows, (reading, up, foot32), (along, along32, step, length), grain)
    alpha = np.clip((house.height - up) / foot32 + 0.5, 0, 1)
    alpha *= np.clip(up / foot32 + 0.5, 0, 1)
    edge = np.arange(left, right)
    alpha *= (np.clip(edge + 1 - min(ends), 0, 1) * np.clip(max(ends) - edge, 0, 1)).astype(np.float32)[None]
    frame.blend(y0, left, rows, alpha, np.broadcast_to(z[None].astype(np.float32), alpha.shape))


def _windows(
    plan: Plan,
    house: Building,
    style: Style,
    rows: np.ndarray,
    rise: tuple[np.ndarray, ...],
    run: tuple,
    grain: np.ndarray,
) -> None:
    """Lay frames and panes over the lit wall `rows` (4 h w), placed by a profile up the wall and by column along it."""
    reading, up, foot = rise
    along, along32, step, length = run
    shares = cv2.split(look_up(style.openings, reading, foot, TALL))
    bays = max(1, int(length / style.bay))
    bay = length / bays
    phase = np.abs(np.mod(along, bay) - bay / 2)

    def cover(width: float) -> np.ndarray:
        sharp = np.clip((width - phase) / step + 0.5, 0, 1)
        far = np.clip(step / bay * 2 - 1, 0, 1)
        return (sharp + (2 * width / bay - sharp) * far).astype(np.float32)[None]

    half = style.share * bay / 2
    mullion = np.clip(1 - phase / 0.05, 0, 1) * np.clip(0.08 / step, 0, 1)
    window, surround = cover(half) * (1 - 0.6 * mullion).astype(np.float32), cover(half + 0.1)
    ground = up < style.ground - 0.4
    if house.shop:
        wide = cover(bay * 0.44)
        window, surround = np.where(ground, wide, window), np.where(ground, wide, surround)
    glass = shares[0] * window
    border = np.clip(shares[1] * surround - glass, 0, 1)
    # Panes are dark and mirror the sky, more so higher up; rooms behind may be lit.
    floor_index = np.floor(np.clip((up - style.ground) * np.float32(1 / style.floor), 0, 15))
    bay_index = np.floor(np.clip(along32 * np.float32(1 / bay), 0, 39))
    pane = planes(cv2.remap(style.rooms, bay_index, floor_index, cv2.INTER_NEAREST))
    mirror = pane[3] * (0.35 + 0.9 * shares[2])
    pane[:3] *= 0.75 + 0.35 * shares[2] + 0.18 * grain
    if house.shop:
        goods = planes(
            cv2.remap(
                style.goods, along32 * np.float32(2.1), up * np.float32(1.7), cv2.INTER_NEAREST, None, cv2.BORDER_WRAP
            )
        )
        shine = (style.shop_light + 0.12 * plan.light.ambient[1]) * (0.55 + 0.35 * shares[2] + 0.1 * grain)
        for plane, good, tone in zip(pane, goods, (1.0, 0.86, 0.62), strict=False):
            np.copyto(plane, tone * shine * good, where=ground)
    for plane, level in zip(pane, plan.light.ambient, strict=False):
        plane += np.float32(0.17 * level) * mirror
    pane[3] *= 0.03
    pane[3] += np.float32(style.glass_heat - 0.03)
    trim = np.append(
        style.trim * (np.asarray(plan.light.ambient) + 0.3 * np.asarray(plan.light.sun)), style.heat + 0.01
    )
    for plane, fill, level in zip(rows, pane, trim, strict=True):
        plane += (np.float32(level) - plane) * border
        fill -= plane
        fill *= glass
        plane += fill
