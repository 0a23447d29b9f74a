"""Street furniture of the procedural scenes: lamp posts, signs, traffic signals, bins, smoke."""

from __future__ import annotations

import cv2
import numpy as np

from fusion.scenes.canvas import Frame, Sprite, capsule, circle, noise_patch
from fusion.scenes.plan import Item, Plan

STEEL = np.array((0.10, 0.105, 0.11))


def draw_lamp(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """Draw a lamp post with an arm over the road; `x` is its X in metres."""
    camera, z = frame.camera, item.z
    px = camera.focal / z
    arm = -np.sign(item.u) * 1.5
    foot, low, top, head = camera.project(np.array([(x, 0, z), (x, 1.2, z), (x, 6.6, z), (x + arm, 6.75, z)]))
    sprite = Sprite(camera, np.stack([foot, top, head]), margin=2 + 0.4 * px)
    warm = plan.ground - 0.04
    sprite.polygon(capsule(foot, 0.10 * px, low, 0.09 * px), STEEL * 0.8, warm)
    sprite.polygon(capsule(low, max(0.065 * px, 0.35), top, max(0.045 * px, 0.3)), STEEL, warm)
    sprite.polygon(
        capsule(low + np.array((0.02 * px, 0)), 0.02 * px, top + np.array((0.015 * px, 0)), 0.015 * px),
        STEEL * 1.8,
        warm + 0.02,
    )
    sprite.polygon(capsule(top, max(0.04 * px, 0.3), head, max(0.035 * px, 0.3)), STEEL, warm)
    shade = np.array([(-0.38, -0.06), (0.38, -0.06), (0.32, 0.06), (-0.32, 0.06)]) * max(px, 4.0) + head
    sprite.polygon(shade, STEEL * 1.2, warm + (0.30 if item.moving else 0.0))
    if item.moving and plan.light.lamps:
        tint = np.asarray(plan.light.lamps[0].colour)
        under = np.array([(-0.3, 0.0), (0.3, 0.0), (0.27, 0.11), (-0.27, 0.11)]) * max(px, 4.0) + head
        sprite.polygon(under, (0.9, 0.9, 0.9), warm + 0.35)
        sprite.glow(under, tint / tint.max() * 14.0)
    sprite.paste(frame, z, plan.light.upright(x, z))


def draw_sign(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """Draw a traffic sign: colours that only the visible camera sees, and that throw light back at night."""
    rng = np.random.default_rng(item.seed)
    camera, z = frame.camera, item.z
    px = camera.focal / z
    kind, night = int(rng.integers(4)), plan.time != "day"
    foot, top = camera.project(np.array([(x, 0, z), (x, 2.7, z)]))
    plate = camera.project(np.array([(x, 2.35, z - 0.05)]))[0]
    sprite = Sprite(camera, np.stack([foot, top, plate]), margin=2 + 0.45 * px)
    warm = plan.ground - 0.03
    sprite.polygon(capsule(foot, max(0.035 * px, 0.4), top, max(0.035 * px, 0.4)), STEEL * 2.2, warm)
    r = 0.36 * px
    for shape, colour in _sign_shapes(kind):
        sprite.polygon(plate + shape * r, colour, warm + 0.01)
        if night:
            sprite.glow(plate + shape * r, np.array(colour) * 0.35)
    sprite.paste(frame, z, plan.light.upright(x, z), 0, rng, texture=0.04)


def _sign_shapes(kind: int) -> list[tuple[np.ndarray, tuple[float, float, float]]]:
    """Return the polygons (N, 2) of a sign, in units of its half width, and their RGB colours, the lowest first."""
    red, white, blue, dark = (0.55, 0.02, 0.03), (0.8, 0.8, 0.8), (0.02, 0.10, 0.45), (0.02, 0.02, 0.02)
    triangle = np.array([(0, -1.05), (0.95, 0.62), (-0.95, 0.62)])
    if kind == 0:
        bars = [
            np.array([(-0.42 + d, -0.3), (-0.12 + d, -0.3), (-0.12 + d, 0.32), (-0.42 + d, 0.32)]) for d in (0.0, 0.52)
        ]
        return [(circle((0, 0), 1.0, 24), red), (circle((0, 0), 0.74, 24), white), (bars[0], dark), (bars[1], dark)]
    if kind == 1:
        bar = np.array([(-0.08, -0.25), (0.08, -0.25), (0.05, 0.3), (-0.05, 0.3)])
        return [(triangle, red), (triangle * 0.66 + (0, 0.05), white), (bar, dark)]
    if kind == 2:
        square = np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)])
        bar = np.array([(-0.1, -0.25), (0.1, -0.25), (0.16, 0.4), (-0.16, 0.4)])
        return [(square, blue), (triangle * 0.6 + (0, 0.1), white), (bar, dark)]
    arrow = np.array([(-0.15, 0.7), (0.15, 0.7), (0.15, -0.1), (0.45, -0.1), (0, -0.7), (-0.45, -0.1), (-0.15, -0.1)])
    return [(circle((0, 0), 1.0, 24), blue), (arrow, white)]


def draw_signal(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """Draw a traffic signal with one of its three lights on."""
    rng = np.random.default_rng(item.seed)
    camera, z = frame.camera, item.z
    px = camera.focal / z
    foot, top = camera.project(np.array([(x, 0, z), (x, 3.3, z)]))
    sprite = Sprite(camera, np.stack([foot, top]), margin=2 + 0.25 * px)
    warm = plan.ground - 0.02
    sprite.polygon(capsule(foot, max(0.06 * px, 0.4), top, max(0.055 * px, 0.4)), STEEL, warm)
    case = np.array([(-0.17, -0.05), (0.17, -0.05), (0.17, 0.95), (-0.17, 0.95)]) * px + top
    sprite.polygon(case, (0.015, 0.018, 0.016), warm + 0.05)
    on = int(rng.choice([0, 2]))
    for n, colour in enumerate(((1.0, 0.04, 0.03), (1.0, 0.5, 0.03), (0.05, 0.9, 0.45))):
        spot = circle(top + np.array([0, (0.13 + 0.32 * n) * px]), 0.105 * px, 12)
        sprite.polygon(spot, np.array(colour) * 0.06, warm + (0.22 if n == on else 0.05))
        if n == on:
            sprite.glow(spot, np.array(colour) * (1.2 if plan.time == "day" else 5.0))
    sprite.paste(frame, z, plan.light.upright(x, z))


def draw_bin(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """Draw a litter bin, or a green box on the pavement."""
    rng = np.random.default_rng(item.seed)
    camera, z = frame.camera, item.z
    wide, tall = rng.uniform(0.22, 0.4), rng.uniform(0.8, 1.25)
    colour = np.array(
        [(0.03, 0.07, 0.04), (0.06, 0.06, 0.065), (0.12, 0.03, 0.02), (0.16, 0.15, 0.13)][rng.integers(4)]
    )
    front = np.array(
        [(x - wide, 0, z - wide), (x + wide, 0, z - wide), (x + wide, tall, z - wide), (x - wide, tall, z - wide)]
    )
    lid = np.array(
        [(x - wide, tall, z - wide), (x + wide, tall, z - wide), (x + wide, tall, z + wide), (x - wide, tall, z + wide)]
    )
    near = -np.sign(x) * wide
    flank = np.array(
        [(x + near, 0, z - wide), (x + near, 0, z + wide), (x + near, tall, z + wide), (x + near, tall, z - wide)]
    )
    sprite = Sprite(camera, camera.project(np.concatenate([front, lid])))
    warm = plan.ground - 0.02
    for face, shade in ((flank, 0.75), (front, 1.0), (lid, 1.5)):
        if face is not lid or camera.above > tall:
            sprite.face(face, colour * shade, warm + 0.02 * shade)
    sprite.paste(frame, z, plan.light.upright(x, z), 0, rng, texture=0.15)


def draw_smoke(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """Draw a drifting cloud: opaque to visible light, nearly clear in the thermal infrared."""
    rng = np.random.default_rng(item.seed)
    camera, z = frame.camera, item.z
    wide, tall, lean = rng.uniform(1.8, 3.4), rng.uniform(2.5, 4.5), rng.uniform(-0.4, 0.4)
    low, high = camera.project(np.array([(x - 2.2 * wide, 0.0, z), (x + 2.2 * wide, tall * 1.5, z)]))
    x0, x1 = int(max(0, low[0])), int(min(camera.width, high[0]))
    y0, y1 = int(max(0, high[1])), int(min(camera.height, low[1] + 0.05 * camera.height))
    if x1 <= x0 or y1 <= y0:
        return
    step = max(1, round(camera.height / 160))
    px = camera.focal / z
    columns, rows = np.arange(x0, x1, step) + 0.5 * step, np.arange(y0, y1, step) + 0.5 * step
    sx, sy = np.meshgrid((columns - camera.centre) / px - x, camera.above - (rows - camera.horizon) / px)
    puff = noise_patch(1.7, rng, 200, 256, 256)
    noise = cv2.remap(
        puff,
        ((sx + 8) * 15).astype(np.float32),
        ((sy + 2) * 15).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    shape = (
        1.1
        - ((sx - lean * sy) / (wide * (0.7 + 0.25 * np.maximum(sy, 0)))) ** 2
        - ((sy - 0.35 * tall) / (0.75 * tall)) ** 2
    )
    thick = (np.clip(shape * 0.8 + 0.35 * noise, 0, 1) * np.clip(1 + sy / 0.9, 0, 1)).astype(np.float32)
    thick = cv2.resize(thick, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    bright = cv2.resize(noise.astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    alpha = np.float32(rng.uniform(0.75, 0.95)) * thick * thick * (3 - 2 * thick)
    light = plan.light.upright(x, z) * rng.uniform(0.45, 0.7)
    region = frame.radiance[:, y0:y1, x0:x1]
    cloud = light.astype(np.float32)[:, None, None] * np.maximum(1 + 0.14 * bright, 0.4)
    region[:3] += (cloud - region[:3]) * alpha
    region[3] += (np.float32(plan.ground) - region[3]) * (0.07 * alpha)
