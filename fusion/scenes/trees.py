"""Trees of the procedural scenes: trunk and boughs as polygons, the crown cut out of noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fusion.scenes.canvas import Camera, Frame, Sprite, capsule, noise_patch
from fusion.scenes.plan import Item, Plan

LEAVES = ((0.07, 0.13, 0.03), (0.05, 0.10, 0.03), (0.12, 0.15, 0.03), (0.20, 0.12, 0.03), (0.06, 0.12, 0.05))
BARK = np.array((0.09, 0.065, 0.045))
CROWN_REACH = 1.15  # half side of the square in which a crown is made, in crown radii


@dataclass(frozen=True)
class Tree:
    """A tree: its points in pixels, `metre` pixels per metre, colours as linear albedo, infrared levels."""

    foot: np.ndarray  # (2,)
    fork: np.ndarray  # (2,)
    tip: np.ndarray  # (2,) middle of the crown
    metre: float
    crown: float  # radius, metres
    squash: float  # height of the crown over its width
    leaf: np.ndarray  # (3,)
    bare: bool
    heat: float
    boughs: np.ndarray  # (9, 2) in crown radii from the middle of the crown
    bough_sizes: np.ndarray  # (9,) in crown radii


def draw_tree(frame: Frame, plan: Plan, item: Item, x: float) -> None:
    """Draw a trunk, and a crown cut out of noise over a few round boughs, lighter above than below.

    `x` is the tree's X in metres.
    """
    rng = np.random.default_rng(item.seed)
    camera, z = frame.camera, item.z
    px = camera.focal / z
    trunk, crown, squash = rng.uniform(1.9, 2.8), rng.uniform(1.3, 2.3), rng.uniform(0.85, 1.35)
    leaf, bare = np.array(LEAVES[rng.integers(len(LEAVES))]) * rng.uniform(0.8, 1.2), rng.random() < 0.12
    foot, fork, tip = camera.project(
        np.array([(x, 0, z), (x + rng.uniform(-0.1, 0.1), trunk, z), (x, trunk + crown * squash, z)])
    )
    boughs = rng.uniform(-1, 1, (9, 2)) * (0.62, 0.62)
    sizes = rng.uniform(0.35, 0.6, 9)
    tree = Tree(foot, fork, tip, px, crown, squash, leaf, bare, plan.ground - 0.07, boughs, sizes)
    light = plan.light.upright(x, z, shade=float(item.u * plan.shadow_side < plan.shadow))
    _wood(camera, tree, rng).paste(frame, z, light, 0, rng, texture=0.2)
    if not bare:
        _crown(frame, tree, rng, light, z)


def _wood(camera: Camera, tree: Tree, rng: np.random.Generator) -> Sprite:
    """Return a sprite with trunk and boughs, and twigs on a bare tree."""
    foot, fork, tip, px = tree.foot, tree.fork, tree.tip, tree.metre
    wide, high = tree.crown * px, tree.crown * tree.squash * px
    sprite = Sprite(camera, np.stack([foot, fork, tip, fork - wide, fork + wide, tip - high]))
    sprite.polygon(capsule(foot, 0.14 * px, fork, 0.1 * px), BARK * 0.8, tree.heat + 0.02)
    lit = capsule(foot + np.array((0.04 * px, 0)), 0.06 * px, fork + np.array((0.03 * px, 0)), 0.05 * px)
    sprite.polygon(lit, BARK * 1.3, tree.heat + 0.04)
    for bx, by in tree.boughs[: 9 if tree.bare else 5]:
        reach = bx * tree.crown * 1.35 if tree.bare else bx * tree.crown * 0.7
        end = tip + np.array([reach, by * tree.crown * tree.squash]) * px
        sprite.polygon(capsule(fork, 0.06 * px, end, 0.015 * px), BARK, tree.heat)
        if tree.bare:
            for _ in range(4):
                twig = end + rng.normal(0, 0.35, 2) * px
                branch = capsule(0.5 * fork + 0.5 * end, 0.025 * px, twig, 0.008 * px)
                sprite.polygon(branch, BARK, tree.heat - 0.02)
    return sprite


def _crown(frame: Frame, tree: Tree, rng: np.random.Generator, light: np.ndarray, z: float) -> None:
    """Blend the visible cut of the crown into the frame."""
    camera, tip = frame.camera, tree.tip
    wide, high = CROWN_REACH * tree.crown * tree.metre, CROWN_REACH * tree.crown * tree.squash * tree.metre
    x0, x1 = int(max(0, np.floor(tip[0] - wide))), int(min(camera.width, np.ceil(tip[0] + wide)))
    y0, y1 = int(max(0, np.floor(tip[1] - high))), int(min(camera.height, np.ceil(tip[1] + high)))
    if x1 <= x0 or y1 <= y0:
        return
    # The crown is made in its own square and the visible cut of it taken: clipping must not change it.
    alpha, shade = _crown_square(tree, rng)
    side = len(alpha)
    zoom_x, zoom_y = side / (2.3 * tree.crown * tree.metre), side / (2.3 * tree.crown * tree.squash * tree.metre)
    corner = tip - CROWN_REACH * tree.crown * tree.metre * np.array([1.0, tree.squash])
    cut = np.array(
        [(zoom_x, 0, (x0 + 0.5 - corner[0]) * zoom_x - 0.5), (0, zoom_y, (y0 + 0.5 - corner[1]) * zoom_y - 0.5)]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    both = cv2.merge([alpha, shade])
    both = cv2.warpAffine(both, cut, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    alpha, shade = cv2.split(both)
    colour = np.empty((4, *alpha.shape), np.float32)
    colour[:3] = (tree.leaf * light).astype(np.float32)[:, None, None] * shade
    colour[3] = np.float32(tree.heat - 0.03) + np.float32(0.06) * shade
    frame.blend(y0, x0, colour, alpha, z)


def _crown_square(tree: Tree, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return opacity and brightness of the whole crown, float32 (side, side) each."""
    grid = np.linspace(-CROWN_REACH, CROWN_REACH, 48, dtype=np.float32)
    gx, gy = np.meshgrid(grid, grid)
    columns = (tree.boughs[:, 0], tree.boughs[:, 1], tree.bough_sizes)
    bx, by, r = (column.astype(np.float32)[:, None, None] for column in columns)
    bulge = 1 - np.sqrt((gx - bx) ** 2 + (gy - by) ** 2) / r
    front = bulge.argmax(axis=0)[None]
    field = np.take_along_axis(bulge, front, 0)[0]
    bright = np.take_along_axis(0.5 - 0.55 * (gy - by) / r - 0.3 * by, front, 0)[0]
    side = int(np.clip(2.3 * tree.crown * tree.metre, 24, 240))
    field = cv2.resize(field, (side, side), interpolation=cv2.INTER_LINEAR)
    bright = cv2.resize(cv2.blur(bright, (5, 5)), (side, side), interpolation=cv2.INTER_LINEAR)
    fine, clump = noise_patch(0.55, rng, 160, side, side), noise_patch(1.1, rng, 90, side, side)
    soft = np.float32(1.0 / max(0.06, 1.2 / (tree.crown * tree.metre)))
    alpha = np.clip((field + 0.14 * fine + 0.14 * clump) * soft + 0.3, 0, 1)
    shade = np.clip(0.25 + 0.75 * bright + 0.22 * fine + 0.18 * clump, 0.12, 2.0)
    return alpha, shade
