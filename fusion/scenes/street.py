"""Street furniture of the procedural scenes: trees, lamp posts, signs, traffic signals, bins, smoke."""

from __future__ import annotations

import cv2
import numpy as np

from fusion.scenes.canvas import Frame, Sprite, capsule, circle, noise_patch
from fusion.scenes.plan import Item, Plan

STEEL = np.array((0.10, 0.105, 0.11))
LEAVES = ((0.07, 0.13, 0.03), (0.05, 0.10, 0.03), (0.12, 0.15, 0.03), (0.20, 0.12, 0.03), (0.06, 0.12, 0.05))


def draw_tree(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """A trunk, and a crown cut out of noise over a few round boughs, lighter above than below."""
    rng = np.random.default_rng(item.seed)
    camera, z = frame.camera, item.z
    px = camera.focal / z
    trunk, crown, squash = rng.uniform(1.9, 2.8), rng.uniform(1.3, 2.3), rng.uniform(0.85, 1.35)
    leaf, bare = np.array(LEAVES[rng.integers(len(LEAVES))]) * rng.uniform(0.8, 1.2), rng.random() < 0.12
    foot, fork, tip = camera.project(
        np.array([(x, 0, z), (x + rng.uniform(-0.1, 0.1), trunk, z), (x, trunk + crown * squash, z)])
    )
    light = plan.light.upright(x, z, shade=float(item.u * plan.shadow_side < plan.shadow))
    bark, cool = np.array((0.09, 0.065, 0.045)), plan.ground - 0.07
    sprite = Sprite(
        camera, np.stack([foot, fork, tip, fork - crown * px, fork + crown * px, tip - crown * squash * px])
    )
    sprite.polygon(capsule(foot, 0.14 * px, fork, 0.1 * px), bark * 0.8, cool + 0.02)
    sprite.polygon(
        capsule(foot + np.array((0.04 * px, 0)), 0.06 * px, fork + np.array((0.03 * px, 0)), 0.05 * px),
        bark * 1.3,
        cool + 0.04,
    )
    boughs = rng.uniform(-1, 1, (9, 2)) * (0.62, 0.62)
    sizes = rng.uniform(0.35, 0.6, 9)
    for (bx, by), _ in zip(boughs[: 9 if bare else 5], sizes, strict=False):
        end = tip + np.array([bx * crown * 1.35 if bare else bx * crown * 0.7, by * crown * squash]) * px
        sprite.polygon(capsule(fork, 0.06 * px, end, 0.015 * px), bark, cool)
        if bare:
            for _ in range(4):
                twig = end + rng.normal(0, 0.35, 2) * px
                sprite.polygon(capsule(0.5 * fork + 0.5 * end, 0.025 * px, twig, 0.008 * px), bark, cool - 0.02)
    sprite.paste(frame, z, light, 0, rng, texture=0.2)
    if bare:
        return
    x0, x1 = (
        int(max(0, np.floor(tip[0] - 1.15 * crown * px))),
        int(min(camera.width, np.ceil(tip[0] + 1.15 * crown * px))),
    )
    y0, y1 = (
        int(max(0, np.floor(tip[1] - 1.15 * crown * squash * px))),
        int(min(camera.height, np.ceil(tip[1] + 1.15 * crown * squash * px))),
    )
    if x1 <= x0 or y1 <= y0:
        return
    # The crown is made in its own square and the visible cut of it taken: clipping must not change it.
    grid = np.linspace(-1.15, 1.15, 48, dtype=np.float32)
    gx, gy = np.meshgrid(grid, grid)
    bx, by, r = (a.astype(np.float32)[:, None, None] for a in (boughs[:, 0], boughs[:, 1], sizes))
    bulge = 1 - np.sqrt((gx - bx) ** 2 + (gy - by) ** 2) / r
    front = bulge.argmax(axis=0)[None]
    field = np.take_along_axis(bulge, front, 0)[0]
    bright = np.take_along_axis(0.5 - 0.55 * (gy - by) / r - 0.3 * by, front, 0)[0]
    side = int(np.clip(2.3 * crown * px, 24, 240))
    field, bright = (
        cv2.resize(a, (side, side), interpolation=cv2.INTER_LINEAR) for a in (field, cv2.blur(bright, (5, 5)))
    )
    fine, clump = noise_patch(0.55, rng, 160, side, side), noise_patch(1.1, rng, 90, side, side)
    soft = np.float32(1.0 / max(0.06, 1.2 / (crown * px)))
    alpha = np.clip((field + 0.14 * fine + 0.14 * clump) * soft + 0.3, 0, 1)
    shade = np.clip(0.25 + 0.75 * bright + 0.22 * fine + 0.18 * clump, 0.12, 2.0)
    zoom_x, zoom_y = side / (2.3 * crown * px), side / (2.3 * crown * squash * px)
    corner = tip - 1.15 * crown * px * np.array([1.0, squash])
    cut = np.array(
        [(zoom_x, 0, (x0 + 0.5 - corner[0]) * zoom_x - 0.5), (0, zoom_y, (y0 + 0.5 - corner[1]) * zoom_y - 0.5)]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    both = cv2.warpAffine(
        cv2.merge([alpha, shade]), cut, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_CONSTANT
    )
    alpha, shade = cv2.split(both)
    colour = np.empty((4, *alpha.shape), np.float32)
    colour[:3] = (leaf * light).astype(np.float32)[:, None, None] * shade
    colour[3] = np.float32(cool - 0.03) + np.float32(0.06) * shade
    frame.blend(y0, x0, colour, alpha, z)


def draw_lamp(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """A lamp post with an arm over the road."""
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
    """A traffic sign: colours that only the visible camera sees, and that throw light back at night."""
    rng = np.random.default_rng(item.seed)
    camera, z = frame.camera, item.z
    px = camera.focal / z
    kind, night = rng.integers(4), plan.time != "day"
    foot, top = camera.project(np.array([(x, 0, z), (x, 2.7, z)]))
    plate = camera.project(np.array([(x, 2.35, z - 0.05)]))[0]
    sprite = Sprite(camera, np.stack([foot, top, plate]), margin=2 + 0.45 * px)
    warm = plan.ground - 0.03
    sprite.polygon(capsule(foot, max(0.035 * px, 0.4), top, max(0.035 * px, 0.4)), STEEL * 2.2, warm)
    red, white, blue, dark = (0.55, 0.02, 0.03), (0.8, 0.8, 0.8), (0.02, 0.10, 0.45), (0.02, 0.02, 0.02)
    r = 0.36 * px
    tri = np.array([(0, -1.05), (0.95, 0.62), (-0.95, 0.62)])
    box = np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)])
    shapes: list[tuple[np.ndarray, tuple[float, ...]]]
    if kind == 0:
        bars = [
            np.array([(-0.42 + d, -0.3), (-0.12 + d, -0.3), (-0.12 + d, 0.32), (-0.42 + d, 0.32)]) for d in (0.0, 0.52)
        ]
        shapes = [(circle((0, 0), 1.0, 24), red), (circle((0, 0), 0.74, 24), white), (bars[0], dark), (bars[1], dark)]
    elif kind == 1:
        shapes = [
            (tri, red),
            (tri * 0.66 + (0, 0.05), white),
            (np.array([(-0.08, -0.25), (0.08, -0.25), (0.05, 0.3), (-0.05, 0.3)]), dark),
        ]
    elif kind == 2:
        shapes = [
            (box, blue),
            (tri * 0.6 + (0, 0.1), white),
            (np.array([(-0.1, -0.25), (0.1, -0.25), (0.16, 0.4), (-0.16, 0.4)]), dark),
        ]
    else:
        arrow = np.array(
            [(-0.15, 0.7), (0.15, 0.7), (0.15, -0.1), (0.45, -0.1), (0, -0.7), (-0.45, -0.1), (-0.15, -0.1)]
        )
        shapes = [(circle((0, 0), 1.0, 24), blue), (arrow, white)]
    for shape, colour in shapes:
        sprite.polygon(plate + shape * r, colour, warm + 0.01)
        if night:
            sprite.glow(plate + shape * r, np.array(colour) * 0.35)
    sprite.paste(frame, z, plan.light.upright(x, z), 0, rng, texture=0.04)


def draw_signal(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """A traffic signal with one of its three lights on."""
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
    """A litter bin, or a green box on the pavement."""
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
    """A drifting cloud: opaque to visible light, nearly clear in the thermal infrared."""
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
