"""Walls of the procedural scenes, computed per pixel in metres along and up the wall: sharp at any size."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fusion.scenes.canvas import Camera, Frame, planes, sample_noise
from fusion.scenes.ground import look_up
from fusion.scenes.house_style import TALL, Style
from fusion.scenes.light import Light
from fusion.scenes.plan import Building, Plan


@dataclass(frozen=True)
class Span:
    """The ground line of a wall, from `start` to `end` (X, Z) in metres.

    It runs along the street, or across it at one z, toward the camera's side of a house. `skipped`: metres of the wall
    before `start`, which are not drawn.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    skipped: float

    @property
    def across(self) -> bool:
        """Whether the wall looks toward the camera."""
        return self.start[1] == self.end[1]

    @property
    def length(self) -> float:
        """Metres, for the number of windows."""
        return 14.0 if self.across else (self.end[1] - self.start[1]) + self.skipped


@dataclass(frozen=True)
class WallColumns:
    """The columns of the picture that show a wall: for each (w) what it sees."""

    left: int
    right: int
    ends: tuple[float, float]  # columns of the start and the end of the wall
    x: np.ndarray  # metres
    z: np.ndarray  # metres
    along: np.ndarray  # metres along the wall

    @property
    def step(self) -> np.ndarray:
        """Metres along the wall per pixel, (w)."""
        return np.maximum(np.abs(np.gradient(self.along)), 1e-3) if self.along.size > 1 else np.array([0.05])


@dataclass(frozen=True)
class WallPixels:
    """Where every pixel (h, w) of a patch of the picture is on a wall, float32."""

    up: np.ndarray  # metres above the ground
    reading: np.ndarray  # texels up the wall
    along: np.ndarray  # metres along the wall
    foot: np.ndarray  # (1, w) metres a pixel


def draw_facade(frame: Frame, plan: Plan, house: Building, style: Style, span: Span, blind: bool) -> None:
    """Draw a wall: for every pixel its place on the wall, then its looks. A `blind` wall has no windows."""
    camera, light = frame.camera, plan.light
    columns = _columns(camera, house, span)
    if columns is None:
        return
    foot = columns.z / camera.focal
    tops, bottoms = camera.horizon - (house.height - camera.above) / foot, camera.horizon + camera.above / foot
    y0, y1 = max(int(np.floor(tops.min())), 0), min(int(np.ceil(bottoms.max())), camera.height)
    if y1 <= y0:
        return
    pixels = _pixels(columns, foot, bottoms, y0, y1)
    wall = planes(look_up(style.looks, pixels.reading, pixels.foot, TALL))
    shift_x, shift_y = (np.float32(shift) for shift in style.shift)
    grain = sample_noise(1.1, pixels.along * 22 + shift_x, pixels.up * 22 + shift_y)
    grain *= 1 / (1 + (np.maximum(foot, columns.step)[None] / 0.12).astype(np.float32))
    wall[:3] *= np.maximum(1 + 0.18 * grain, 0.3)
    wall[3] += 0.014 * grain
    _light_wall(wall, light, house.side, span.across, columns, pixels.up)
    if not blind:
        _windows(plan, house, style, wall, pixels, columns, span.length, grain)
    alpha = np.clip((house.height - pixels.up) / pixels.foot + 0.5, 0, 1)
    alpha *= np.clip(pixels.up / pixels.foot + 0.5, 0, 1)
    column = np.arange(columns.left, columns.right)
    first, last = min(columns.ends), max(columns.ends)
    alpha *= (np.clip(column + 1 - first, 0, 1) * np.clip(last - column, 0, 1)).astype(np.float32)[None]
    frame.blend(y0, columns.left, wall, alpha, np.broadcast_to(columns.z[None].astype(np.float32), alpha.shape))


def _columns(camera: Camera, house: Building, span: Span) -> WallColumns | None:
    """Return the columns that show the wall; None where it is out of the picture or seen from behind."""
    a, b = span.start, span.end
    ends = (camera.centre + camera.focal * a[0] / a[1], camera.centre + camera.focal * b[0] / b[1])
    if (ends[1] - ends[0]) * house.side * (1 if span.across else -1) <= 0:
        return None
    left, right = max(int(np.floor(min(ends))), 0), min(int(np.ceil(max(ends))), camera.width)
    if right <= left:
        return None
    slope = (np.arange(left, right) + 0.5 - camera.centre) / camera.focal
    if span.across:
        z = np.full(slope.shape, a[1])
        x = slope * z
        return WallColumns(left, right, ends, x, z, np.abs(x - a[0]))
    k = (b[0] - a[0]) / (b[1] - a[1])
    cross = slope - k
    cross = np.where(np.abs(cross) < 1e-6, 1e-6, cross)
    z = np.clip((a[0] - k * a[1]) / cross, a[1], b[1])
    return WallColumns(left, right, ends, slope * z, z, z - a[1] + span.skipped)


def _pixels(columns: WallColumns, foot: np.ndarray, bottoms: np.ndarray, y0: int, y1: int) -> WallPixels:
    """Return the places on the wall of rows y0 to y1.

    `foot` is metres a pixel and `bottoms` the row of the ground, (w) each.
    """
    foot32 = foot.astype(np.float32)[None]
    rows = (np.arange(y0, y1, dtype=np.float32) + 0.5)[:, None]
    up = (bottoms.astype(np.float32)[None] - rows) * foot32
    along = np.ascontiguousarray(np.broadcast_to(columns.along.astype(np.float32), up.shape))
    return WallPixels(up, up * np.float32(1 / TALL), along, foot32)


def _light_wall(wall: np.ndarray, light: Light, side: int, across: bool, columns: WallColumns, up: np.ndarray) -> None:
    """Multiply the wall (4, h, w) by the light on it, in place; the sun warms it."""
    normal = np.array([0.0, 0.0, -1.0]) if across else np.array([-side, 0.0, 0.0])
    sunny = max(0.0, float(normal @ np.asarray(light.toward_sun)))
    base = np.asarray(light.ambient) * (0.85 + 0.15 * across) + np.asarray(light.sun) * sunny
    lit = base.astype(np.float32)[:, None, None]
    wall[3] += np.float32(0.07 * sunny * any(light.sun))
    if not (light.lamps or light.beams):
        wall[:3] *= lit
        return
    height, width = up.shape
    n, m = min(8, height), min(24, width)
    xs, zs = (np.interp(np.linspace(0, 1, m), np.linspace(0, 1, v.size), v) for v in (columns.x, columns.z))
    small_up = cv2.resize(up, (m, n), interpolation=cv2.INTER_LINEAR)
    lamps = light.local(xs[None], small_up, zs[None]) * np.float32(0.7)
    for plane, lamp, level in zip(wall, lamps, lit, strict=False):
        plane *= cv2.resize(lamp, (width, height), interpolation=cv2.INTER_LINEAR) + level


def _windows(
    plan: Plan,
    house: Building,
    style: Style,
    wall: np.ndarray,
    pixels: WallPixels,
    columns: WallColumns,
    length: float,
    grain: np.ndarray,
) -> None:
    """Lay frames and panes over the lit wall (4, h, w), by a profile up the wall and by column along it.

    `length` is that of the wall in metres, `grain` (h, w) its texture.
    """
    shares = cv2.split(look_up(style.openings, pixels.reading, pixels.foot, TALL))
    bay = length / max(1, int(length / style.bay))
    ground = pixels.up < style.ground - 0.4
    window, surround = _openings(house, style, columns, bay, ground)
    glass = shares[0] * window
    border = np.clip(shares[1] * surround - glass, 0, 1)
    pane = _panes(plan, house, style, pixels, bay, shares[2], ground, grain)
    light = np.asarray(plan.light.ambient) + 0.3 * np.asarray(plan.light.sun)
    trim = np.append(style.trim * light, style.heat + 0.01)
    for plane, fill, level in zip(wall, pane, trim, strict=True):
        plane += (np.float32(level) - plane) * border
        fill -= plane
        fill *= glass
        plane += fill


def _openings(
    house: Building, style: Style, columns: WallColumns, bay: float, ground: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of each pixel that lie across a window and across its surround, (1, w) or (h, w).

    `bay` is metres from window to window; `ground` (h, w) tells the ground floor.
    """
    step = columns.step
    phase = np.abs(np.mod(columns.along, bay) - bay / 2)

    def cover(width: float) -> np.ndarray:
        sharp = np.clip((width - phase) / step + 0.5, 0, 1)
        far = np.clip(step / bay * 2 - 1, 0, 1)
        share: np.ndarray = (sharp + (2 * width / bay - sharp) * far).astype(np.float32)[None]
        return share

    half = style.share * bay / 2
    mullion = np.clip(1 - phase / 0.05, 0, 1) * np.clip(0.08 / step, 0, 1)
    window, surround = cover(half) * (1 - 0.6 * mullion).astype(np.float32), cover(half + 0.1)
    if house.shop:
        wide = cover(bay * 0.44)
        window, surround = np.where(ground, wide, window), np.where(ground, wide, surround)
    return window, surround


def _panes(
    plan: Plan,
    house: Building,
    style: Style,
    pixels: WallPixels,
    bay: float,
    rise: np.ndarray,
    ground: np.ndarray,
    grain: np.ndarray,
) -> np.ndarray:
    """Return what the panes show, float32 (4, h, w): they are dark and mirror the sky; rooms behind may be lit.

    `rise` (h, w) is the height within the window, 0 at the sill and 1 at the head: higher up there is more sky.
    """
    floor_index = np.floor(np.clip((pixels.up - style.ground) * np.float32(1 / style.floor), 0, 15))
    bay_index = np.floor(np.clip(pixels.along * np.float32(1 / bay), 0, 39))
    pane = planes(cv2.remap(style.rooms, bay_index, floor_index, cv2.INTER_NEAREST))
    mirror = pane[3] * (0.35 + 0.9 * rise)
    pane[:3] *= 0.75 + 0.35 * rise + 0.18 * grain
    if house.shop:
        column, row = pixels.along * np.float32(2.1), pixels.up * np.float32(1.7)
        goods = planes(cv2.remap(style.goods, column, row, cv2.INTER_NEAREST, None, cv2.BORDER_WRAP))
        shine = (style.shop_light + 0.12 * plan.light.ambient[1]) * (0.55 + 0.35 * rise + 0.1 * grain)
        for plane, good, tone in zip(pane, goods, (1.0, 0.86, 0.62), strict=False):
            np.copyto(plane, tone * shine * good, where=ground)
    for plane, level in zip(pane, plan.light.ambient, strict=False):
        plane += np.float32(0.17 * level) * mirror
    pane[3] *= 0.03
    pane[3] += np.float32(style.glass_heat - 0.03)
    return pane
