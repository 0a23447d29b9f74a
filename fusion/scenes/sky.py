"""The sky of the procedural scenes: gradient, clouds, stars, and the far end of the town at the horizon."""

from __future__ import annotations

import numpy as np

from fusion.scenes.canvas import BANK, FAR, Frame, noise_patch, noise_tile, sample_noise
from fusion.scenes.plan import Plan


def sky_colours(plan: Plan) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the radiance (RGB, (3,)) of the zenith and of the horizon, and the infrared level of the sky."""
    rng = np.random.default_rng(plan.seed + 2)
    tone = rng.uniform(0.85, 1.15)
    if plan.time == "day":
        if plan.weather == "clear":
            return np.array((0.16, 0.32, 0.68)) * tone, np.array((0.62, 0.74, 0.88)), 0.06
        return np.array((0.52, 0.56, 0.62)) * tone, np.array((0.74, 0.76, 0.78)), 0.24
    if plan.time == "dusk":
        warm = np.array((0.62, 0.30, 0.14)) if plan.weather == "clear" else np.array((0.26, 0.24, 0.28))
        return np.array((0.05, 0.075, 0.17)) * tone, warm * tone, 0.10
    glow = np.array((0.035, 0.024, 0.014)) if rng.random() < 0.6 else np.array((0.012, 0.014, 0.022))
    return np.array((0.0015, 0.002, 0.0045)) * tone, glow, 0.05


def draw_sky(frame: Frame, plan: Plan) -> None:
    """Draw gradient, clouds or stars, and the far end of the town at the horizon."""
    camera = frame.camera
    rng = np.random.default_rng(plan.seed + 3)
    rows = int(np.clip(np.ceil(camera.horizon), 0, camera.height))
    if rows < 1:
        return
    up = np.clip((camera.horizon - np.arange(rows) - 0.5) / camera.focal, 1e-3, None)
    side = (np.arange(camera.width) + 0.5 - camera.centre) / camera.focal
    sky = _gradient(plan, up, camera.width)
    shift, amount = rng.uniform(0, BANK, 2), rng.uniform(0.2, 1.0)
    x, y = np.meshgrid((side * 150).astype(np.float32), (up * 420).astype(np.float32))
    clouds = sample_noise(1.7, x + shift[0], y + shift[1])
    if plan.time == "night":
        _add_stars(sky, plan, rng, clouds)
    else:
        _add_clouds(sky, plan, clouds, amount)
    sky[3] += (0.05 if plan.weather == "clear" else 0.02) * np.clip(clouds, -1.5, 1.5)
    frame.radiance[:, :rows] = sky
    _draw_skyline(frame, plan, rng, side, rows)


def _gradient(plan: Plan, up: np.ndarray, width: int) -> np.ndarray:
    """Return the clear sky, float32 (4, H, width); `up` (H) is the tangent of the elevation of each row."""
    zenith, low, cold = sky_colours(plan)
    rise = np.clip(up / 0.55, 0, 1)[:, None] ** 0.6
    column = np.empty((4, len(up), 1), np.float32)
    column[:3, :, 0] = (low + (zenith - low) * rise).T
    column[3] = cold + 0.10 * (1 - rise) ** 2
    return np.repeat(column, width, axis=2)


def _add_stars(sky: np.ndarray, plan: Plan, rng: np.random.Generator, clouds: np.ndarray) -> None:
    """Add stars to a clear sky (4, H, W), and let thin clouds (H, W) darken or brighten it, in place."""
    _, rows, width = sky.shape
    stars = (rng.random(60), rng.random(60), rng.random(60))
    if plan.weather == "clear":
        for fx, fy, power in zip(*stars, strict=True):
            sky[:3, int(fy * rows), int(fx * width)] += 0.06 * power**3
    sky[:3] *= 1 + 0.3 * np.clip(clouds, -1, 2)


def _add_clouds(sky: np.ndarray, plan: Plan, clouds: np.ndarray, amount: float) -> None:
    """Cover the sky (4, H, W) with clouds (H, W) in place; `amount` in 0..1."""
    clear = plan.weather == "clear"
    cover = np.clip(clouds * 0.55 + amount - 0.45, 0, 1) * (0.9 if clear else 0.5)
    white = np.array((0.9, 0.9, 0.9)) if plan.time == "day" else sky_colours(plan)[1] * 1.3 + 0.02
    bright = white * (1.0 if clear else 0.72)
    for plane, level in zip(sky, bright, strict=False):
        plane += (np.float32(level) - plane) * cover


def _draw_skyline(frame: Frame, plan: Plan, rng: np.random.Generator, side: np.ndarray, rows: int) -> None:
    """Draw a stepped profile of far roofs, or of trees; `side` (W) is the tangent of the azimuth of each column."""
    camera = frame.camera
    steps = rng.integers(10, 24)
    roofs, x = rng.uniform(0.01, 0.06, steps) * rng.uniform(0.6, 1.8), (side - side[0]) / 1.6 * 10 + rng.uniform(0, 5)
    if rng.random() < 0.5:
        profile = roofs[np.floor(x).astype(int) % steps]
    else:
        profile = 0.03 + 0.012 * noise_tile(1.3)[7, np.mod((x * 25).astype(int), BANK)]
    top = camera.horizon - profile * camera.focal
    alpha = np.clip(np.arange(rows)[:, None] + 1 - top[None], 0, 1).astype(np.float32)
    haze = 0.35 * sky_colours(plan)[1] + 0.07 * np.asarray(plan.light.ambient)
    far = np.append(haze, plan.ground - 0.06).astype(np.float32)
    grain = noise_patch(1.0, rng, 256, rows, camera.width)
    colour = far[:, None, None] * (1 + 0.06 * grain)
    if plan.time != "day":  # windows of the far town
        spark = noise_patch(0.0, rng, 200, rows, camera.width) > 2.3
        colour[:3] += np.array((0.20, 0.14, 0.06), np.float32)[:, None, None] * spark
    frame.blend(0, 0, colour, alpha, FAR * 0.99)
