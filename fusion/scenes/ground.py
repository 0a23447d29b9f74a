"""The ground of the procedural scenes, computed per pixel: each pixel knows where in the street it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fusion.scenes.canvas import BANK, FAR, Camera, Frame, planes, sample_noise
from fusion.scenes.light import Light
from fusion.scenes.plan import Item, Plan, Street
from fusion.scenes.sky import sky_colours

STEP = 0.025  # metres per texel across the street
REACH = 40.0  # metres to either side that the profile covers
LEVELS = 7  # blur levels of the profile, each twice as wide


def blurred_levels(profile_NC: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """Return a profile (N, C) at ever wider blurs, (levels, N, C): how wider and wider pixels see the ground."""
    rows = [profile_NC]
    for level in range(1, levels):
        rows.append(
            cv2.blur(profile_NC[None], (2**level | 1, 1), borderType=cv2.BORDER_REPLICATE)[0].reshape(profile_NC.shape)
        )
    return np.ascontiguousarray(np.stack(rows))


def look_up(levels: np.ndarray, position: np.ndarray, footprint: np.ndarray, step: float) -> np.ndarray:
    """Read the profile at `position` (H, W texels) with the blur that suits a pixel `footprint` metres wide.

    `levels` is (levels, N, C), of `step` metres per texel; the result is (H, W, C).
    """
    level = np.log2(np.maximum(footprint / step, 1.0)).astype(np.float32)
    level = np.broadcast_to(np.minimum(level, levels.shape[0] - 1), position.shape)
    return cv2.remap(
        levels,
        position.astype(np.float32, copy=False),
        np.ascontiguousarray(level),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _profiles(plan: Plan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return colour and heat across the street, (N, 4), and the shares of paint, (N, 4) as in `_paint_profile`."""
    u = np.arange(-REACH, REACH, STEP, dtype=np.float32)
    colour = _surface_profile(plan, rng, u)
    if any(plan.light.sun):
        shade = np.clip((u * plan.shadow_side - plan.shadow) / 0.4 + 0.5, 0, 1)
        colour[:, :3] *= 1 - shade[:, None] * (1 - 0.42 * np.array((0.86, 0.96, 1.18)))
        colour[:, 3] -= 0.05 * cv2.blur(shade[None].astype(np.float32), (31, 1))[0]
    return colour, _paint_profile(plan.street, u)


def _surface_profile(plan: Plan, rng: np.random.Generator, u: np.ndarray) -> np.ndarray:
    """Return colour and heat, (N, 4), of asphalt, gutter, kerb, verge, pavement and what lies beyond, at u metres."""
    street, warm = plan.street, plan.ground
    distance = np.abs(u)
    wet = 0.55 if plan.weather == "wet" else 1.0
    tar = rng.uniform(0.06, 0.13) * np.array((1.0, 1.0, rng.uniform(1.0, 1.08))) * wet
    slab = rng.uniform(0.20, 0.34) * np.array((1.0, rng.uniform(0.92, 1.0), rng.uniform(0.82, 0.97)))
    grass = np.array((rng.uniform(0.06, 0.13), rng.uniform(0.12, 0.19), rng.uniform(0.02, 0.05)))
    colour = np.empty((u.size, 4), np.float32)
    colour[:] = (*tar, warm)
    lane = np.mod(distance, street.road / street.lanes) - street.road / street.lanes / 2
    tracks = np.exp(-(((np.abs(lane) - 0.75) / 0.25) ** 2))
    colour[:, :3] *= (1.0 - 0.14 * tracks)[:, None]
    colour[:, 3] += 0.02 * tracks
    colour[distance > street.road - 0.35] *= (0.8, 0.8, 0.8, 0.97)  # the gutter
    off = distance > street.road
    colour[off] = (*(slab * 1.1), warm - 0.03)
    colour[off & (distance < street.road + 0.18)] = (*(slab * 1.35), warm + 0.01)  # the kerb
    green = off & (distance > street.road + 0.18) & (distance < street.road + street.verge)
    colour[green] = (*grass, warm - (0.12 if plan.time == "day" else 0.08))
    inner = street.road + street.verge
    joints = off & ~green & (np.mod(distance - inner, 0.6) < 0.03) & (distance > inner + 0.2)
    colour[joints] *= (0.62, 0.62, 0.62, 0.98)
    grown = street.side_grass or plan.buildings == ()
    beyond = (*(grass * 0.9), warm - 0.11) if grown else (*(slab * 0.75), warm - 0.05)
    colour[distance > inner + street.pavement] = beyond
    colour[distance > inner + street.pavement + 9.0] = (*(grass * 0.85), warm - 0.10)
    return colour


def _paint_profile(street: Street, u: np.ndarray) -> np.ndarray:
    """Return where paint is, (N, 4) in [0, 1]: edge lines, dashes, zebra, stop line."""
    distance = np.abs(u)
    paint = np.zeros((u.size, 4), np.float32)
    paint[np.abs(distance - (street.road - 0.45)) < 0.07, 0] = 1.0
    if street.lanes == 2:
        paint[np.abs(distance - street.road / 2) < 0.07, 1] = 1.0
        paint[np.abs(distance - 0.14) < 0.06, 0] = 1.0
    else:
        paint[distance < 0.07, 1] = 1.0
    paint[(distance < street.road - 0.5) & (np.mod(u, 1.0) < 0.5), 2] = 1.0
    paint[(u > 0.2) & (u < street.road - 0.5), 3] = 1.0
    return paint


def _cover(near: np.ndarray, far: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return which share of each row's stretch of ground [near, far] lies in [low, high]."""
    inside = np.clip(np.minimum(far, high) - np.maximum(near, low), 0, None)
    share: np.ndarray = inside / np.maximum(far - near, 1e-6)
    return share


def _dashes(z: np.ndarray, period: float, duty: float) -> np.ndarray:
    """Return the integral of a dash train up to z."""
    whole = np.floor(z / period)
    return whole * duty + np.minimum(z - whole * period, duty)


@dataclass(frozen=True)
class GroundRows:
    """The rows of the picture that show the ground: for each (N) what it sees, in metres."""

    top: int  # first row
    z: np.ndarray  # in the middle of the row
    z_far: np.ndarray  # at its upper and its lower edge
    z_near: np.ndarray
    bend: np.ndarray  # X of the middle line, float32


def _ground_rows(camera: Camera, street: Street, top: int) -> GroundRows:
    row = np.arange(top, camera.height) + 0.5 - camera.horizon
    reach = camera.focal * camera.above
    z, z_far, z_near = (np.minimum(reach / np.maximum(row + d, 1e-3), 4 * FAR) for d in (0.0, -0.5, 0.5))
    return GroundRows(top, z, z_far, z_near, np.asarray(street.bend(z)).astype(np.float32))


def draw_ground(frame: Frame, plan: Plan) -> None:
    """Draw asphalt, paint, kerbs, pavement and grass below the horizon, lit by whatever shines on them."""
    camera, street = frame.camera, plan.street
    rng = np.random.default_rng(plan.seed + 1)
    top = int(np.clip(np.ceil(camera.horizon), 0, camera.height))
    if top >= camera.height:
        return
    rows = _ground_rows(camera, street, top)
    footprint = (rows.z / camera.focal).astype(np.float32)[:, None]  # metres a pixel
    column = (np.arange(camera.width) + 0.5 - camera.centre).astype(np.float32)
    u = column * footprint - rows.bend[:, None]
    colour, paint = (blurred_levels(profile) for profile in _profiles(plan, rng))
    texel = (u + np.float32(REACH)) * np.float32(1 / STEP)
    surface = planes(look_up(colour, texel, footprint, STEP))
    lines = cv2.split(look_up(paint, texel, footprint, STEP))
    phase, wear = rng.uniform(0, 9), rng.uniform(0.45, 0.8)
    painted = _painted(rows, lines, street.crossing, phase)
    # Texture: fine grain fades where a pixel spans many stones, coarse stains stay longer.
    z = np.broadcast_to(rows.z.astype(np.float32)[:, None], u.shape)
    shift = rng.uniform(0, BANK, 4)
    fine = sample_noise(0.4, u * 45 + shift[0], z * 45 + shift[1]) * (1 / (1 + (footprint / 0.03) ** 1.5))
    coarse = sample_noise(1.3, u * 9 + shift[2], z * 5 + shift[3]) * (1 / (1 + footprint / 0.25))
    painted *= wear * np.clip(0.9 + 0.18 * coarse + 0.12 * fine, 0.25, 1.0)
    _weather(surface, painted, fine, coarse)
    for plane, level in zip(surface, _irradiance(camera, plan.light, u + rows.bend[:, None], z), strict=False):
        plane *= level
    if plan.weather == "wet":
        _shine(frame, plan, surface, top, coarse)
    frame.radiance[:, top:] = surface
    frame.distance[top:] = np.minimum(z, FAR)


def _painted(rows: GroundRows, lines: Sequence[np.ndarray], crossing: float, phase: float) -> np.ndarray:
    """Return the share of each pixel (H, W) that is painted; `lines` as the columns of `_paint_profile`, (H, W) each.

    `crossing` is the distance of the zebra crossing, 0 for none; `phase` shifts the dashes, metres.
    """
    z, near, far = rows.z, rows.z_near, rows.z_far
    dash = (_dashes(far + phase, 7.0, 3.0) - _dashes(near + phase, 7.0, 3.0)) / np.maximum(far - near, 1e-6)
    zebra = _cover(near, far, crossing, crossing + 3.2) if crossing else np.zeros_like(z)
    stop = _cover(near, far, crossing - 1.7, crossing - 1.35) if crossing else np.zeros_like(z)
    open_road = 1.0 - (_cover(near, far, crossing - 1.9, crossing + 3.6) if crossing else np.zeros_like(z))
    weights = (open_road, dash * open_road, zebra, stop)
    total = np.zeros_like(lines[0])
    for line, weight in zip(lines, weights, strict=True):
        total += line * weight.astype(np.float32)[:, None]
    return total


def _weather(surface: np.ndarray, painted: np.ndarray, fine: np.ndarray, coarse: np.ndarray) -> None:
    """Lay paint and texture, (H, W) each, on the surface (4, H, W) in place."""
    shading = np.maximum(1.0 + 0.16 * fine + 0.13 * coarse, 0.3)
    unpainted = 1 - painted
    for plane in surface[:3]:
        plane *= unpainted
        plane += np.float32(0.62) * painted
        plane *= shading
    surface[3] -= 0.035 * painted
    surface[3] *= 1.0 + 0.012 * fine + 0.03 * coarse


def _irradiance(camera: Camera, light: Light, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the light (RGB) on the ground at (x, z), (H, W) metres each: float32 (3, H, W), or (3, 1, 1)."""
    base = np.asarray(light.ambient) + np.asarray(light.sun) * max(light.toward_sun[1], 0.0) * 1.25
    level: np.ndarray = base.astype(np.float32)[:, None, None]
    if not (light.lamps or light.beams):
        return level
    rows, step = len(z), max(1, round(camera.height / 120))
    size = (camera.width // step + 1, rows // step + 1)
    small_x, small_z = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (x, z))
    glow = light.local(small_x, np.zeros_like(small_x), small_z)
    full = [cv2.resize(plane, (camera.width, rows), interpolation=cv2.INTER_LINEAR) for plane in glow]
    total: np.ndarray = level + np.stack(full)
    return total


def _shine(frame: Frame, plan: Plan, surface: np.ndarray, top: int, coarse: np.ndarray) -> None:
    """Add reflections of the sky and of every lamp in the wet road: long streaks under the lights."""
    camera, street = frame.camera, plan.street
    rows, width = surface.shape[1:]
    y, x = np.arange(top, top + rows, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    wet = np.clip(0.55 + 0.35 * coarse, 0.0, 1.0)
    slant = np.clip(1.0 - (y - camera.horizon) / (camera.height - camera.horizon), 0, 1) ** 2
    sky = np.asarray(sky_colours(plan)[1], np.float32)
    surface[:3] += sky[:, None, None] * (0.22 * slant * wet)
    sources = [(lamp.x, lamp.y, lamp.z, np.asarray(lamp.colour) * 4.0, 0.2) for lamp in plan.light.lamps]
    for item in plan.items:
        if item.kind == "car" and item.moving and plan.time != "day":
            toward = np.cos(item.yaw)
            tint = np.array((1.0, 0.95, 0.85)) if toward < -0.3 else np.array((0.45, 0.03, 0.02))
            middle = float(item.u + street.bend(item.z))
            sources += [
                (middle + s * 0.6, 0.7, item.z - 2.2, tint * (0.9 if toward < -0.3 else 0.5), 0.16) for s in (-1, 1)
            ]
    for sx, sy, sz, tint, size in sources:
        if sz < 2:
            continue
        scale = camera.focal / sz
        image_x = camera.centre + sx * scale
        start, end = camera.horizon + camera.above * scale, camera.horizon + (camera.above + sy) * scale
        low, high = int(max(0, image_x - 4 * size * scale)), int(min(width, image_x + 4 * size * scale + 1))
        if high <= low:
            continue
        along = np.clip((y - start) / (0.1 * scale), 0, 1) * np.exp(
            -(((y - end) / (0.8 * sy * scale + 0.05 * camera.height)) ** 2)
        )
        across = np.exp(-(((x[:, low:high] - image_x) / (size * scale * 1.3)) ** 2))
        surface[:3, :, low:high] += tint.astype(np.float32)[:, None, None] * (along * across * wet[:, low:high])


def shadow(frame: Frame, plan: Plan, item: Item, wide: float, long: float, tall: float) -> None:
    """Draw the dark patch under something, and in sunshine the shadow that it throws; sizes in metres."""
    camera, street = frame.camera, plan.street
    x0, z0 = float(item.u + street.bend(item.z)), item.z
    casts = []
    casts.append((x0, z0, x0, z0, wide, long, 0.3 if item.kind in ("bicycle", "cyclist") else 0.55))
    sun = plan.light.toward_sun
    if any(plan.light.sun) and item.u * plan.shadow_side < plan.shadow:
        reach = tall / max(sun[1], 0.3)
        casts.append(
            (
                x0,
                z0,
                x0 - sun[0] * reach,
                z0 - sun[2] * reach,
                wide * 0.9,
                max(long * 0.9, 0.15),
                0.25 if item.kind in ("bicycle", "cyclist") else 0.5,
            )
        )
    for ax, az, bx, bz, rx, rz, depth in casts:
        corners = [
            (x + i * 1.6 * rx, 0.0, max(z + j * 1.6 * rz, 1.0))
            for x, z in ((ax, az), (bx, bz))
            for i in (-1, 1)
            for j in (-1, 1)
        ]
        flat = camera.project(np.array(corners))
        left, up = np.floor(np.maximum(flat.min(axis=0), 0)).astype(int)
        right, down = int(min(flat[:, 0].max() + 1, camera.width)), int(min(flat[:, 1].max() + 1, camera.height))
        up = max(up, int(np.ceil(camera.horizon)))
        if right <= left or down <= up:
            continue
        z = (camera.focal * camera.above / (np.arange(up, down) + 0.5 - camera.horizon))[:, None].astype(np.float32)
        x = (np.arange(left, right) + 0.5 - camera.centre).astype(np.float32)[None] * z / np.float32(camera.focal)
        dx, dz = bx - ax, bz - az
        t = np.clip(((x - ax) * dx + (z - az) * dz) / max(dx * dx + dz * dz, 1e-6), 0, 1) if dx or dz else 0.0
        away = ((x - ax - t * dx) / rx) ** 2 + ((z - az - t * dz) / rz) ** 2
        dark = np.float32(depth) / (1 + away**3)
        frame.radiance[:3, up:down, left:right] *= 1 - dark
