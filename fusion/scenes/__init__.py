"""Procedural road scenes: registered visible and infrared pictures with depth and boxes, from two numbers.

Streets by day, at dusk and at night, drawn in perspective from a seeded plan: people, bicycles and cars among houses,
trees, lamps and signs. Night hides people in visible light and infrared shows them; signs, paint, lit windows and shop
names exist in visible light only; smoke hides what stands behind it in visible light only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from fusion.scenes.bicycles import draw_bicycle
from fusion.scenes.buildings import draw_building
from fusion.scenes.canvas import FAR, Camera, Frame, Place
from fusion.scenes.cars import draw_car
from fusion.scenes.ground import draw_ground, shadow
from fusion.scenes.layout import make_plan
from fusion.scenes.light import bloom, expose_infrared, expose_visible, haze
from fusion.scenes.people import draw_person
from fusion.scenes.plan import Building, Item, Plan
from fusion.scenes.sky import draw_sky, sky_colours
from fusion.scenes.street import draw_bin, draw_lamp, draw_sign, draw_signal, draw_smoke
from fusion.scenes.trees import draw_tree

CLASSES = ("person", "bicycle", "car")
MIN_SIDE = 64  # pixels
MIN_VISIBLE = 0.3  # share of its silhouette that an object needs unhidden to have a box
MIN_BOX_SIDE = 6  # pixels; smaller boxes are dropped
FURNITURE = {
    "tree": draw_tree,
    "lamp": draw_lamp,
    "sign": draw_sign,
    "signal": draw_signal,
    "bin": draw_bin,
    "smoke": draw_smoke,
}


@dataclass(frozen=True)
class Scene:
    """A registered pair with its truth.

    visible: uint8 H W 3, RGB; infrared: uint8 H W; depth: float32 H W in [0, 1], distance over FAR, 1 for the sky;
    boxes: float32 n 4, x1 y1 x2 y2 in pixels (x2, y2 exclusive), the extent of the part of each silhouette that nothing
    nearer hides; classes: n names out of CLASSES; time: "day", "dusk" or "night".
    """

    visible: np.ndarray
    infrared: np.ndarray
    depth: np.ndarray
    boxes: np.ndarray
    classes: tuple[str, ...]
    time: str


def make_generator(seed: int, index: int, what: str) -> np.random.Generator:
    """Return the generator of one of the draws of a scene, named `what`."""
    digest = hashlib.sha256(f"scene {seed} {index} {what}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def make_camera(plan: Plan, height: int, width: int) -> Camera:
    """Return the camera of a scene, for a picture of `height` x `width` pixels."""
    # A picture narrower than 4:3 sees the same street between its sides, a wider one sees more of it.
    view, unit = plan.view, min(float(height), 0.75 * width)
    return Camera(width, height, view.focal * unit, view.horizon * height, view.centre * width, view.above)


def _draw_item(frame: Frame, plan: Plan, item: Item) -> None:
    x = float(item.u + plan.street.bend(item.z))
    reach = 9.0 if item.kind == "smoke" else 3.5  # metres to either side that it may cover
    column, spread = frame.camera.centre + x * frame.camera.focal / item.z, reach * frame.camera.focal / item.z
    if not -spread < column < frame.camera.width + spread:
        return
    if item.kind in FURNITURE:
        FURNITURE[item.kind](frame, plan, item, x)
        return
    place, night = Place(x, item.z, item.yaw), plan.time != "day"
    light = plan.light.upright(x, item.z, shade=float(item.u * plan.shadow_side < plan.shadow))
    warm = {"day": 0.94, "dusk": 0.98, "night": 1.0}[plan.time]
    if item.kind in ("car", "parked"):
        sun = np.asarray(plan.light.toward_sun) if any(plan.light.sun) else np.zeros(3)
        owner = frame.new_object("car")
        draw_car(frame, place, item.seed, light, plan.ground - 0.03, item.moving, night and item.moving, sun, owner)
        return
    if item.kind in ("cyclist", "bicycle"):
        owner = frame.new_object("bicycle")
        draw_bicycle(frame, place, item.seed, light, plan.ground - 0.02, night and item.kind == "cyclist", owner)
    if item.kind != "bicycle":
        pose = "ride" if item.kind == "cyclist" else "walk" if item.moving else "stand"
        draw_person(frame, place, item.seed + 1, light, warm, pose, frame.new_object("person"))


def compose(plan: Plan, camera: Camera) -> Frame:
    """Paint a scene far to near; owner and distance end up with what is in front."""
    frame = Frame(camera)
    draw_sky(frame, plan)
    draw_ground(frame, plan)
    for item in plan.items:
        wide, long, tall = {"car": (0.95, 2.2, 1.4), "parked": (0.95, 2.2, 1.4), "tree": (1.2, 0.8, 3.5)}.get(
            item.kind, (0.28, 0.22, 1.7)
        )
        if item.kind in ("cyclist", "bicycle"):
            wide, long = (0.75, 0.2) if abs(np.sin(item.yaw)) > 0.7 else (0.2, 0.7)
        elif abs(np.sin(item.yaw)) > 0.7 and item.kind in ("car", "parked"):
            wide, long = long, wide
        if item.kind not in ("smoke", "lamp", "sign", "signal"):
            shadow(frame, plan, item, wide, long, tall)
    queue: list[tuple[float, Item | Building]] = [(house.z1, house) for house in plan.buildings]
    queue += [(item.z, item) for item in plan.items]
    for _, thing in sorted(queue, key=lambda entry: -entry[0]):
        if isinstance(thing, Building):
            draw_building(frame, plan, thing)
        else:
            _draw_item(frame, plan, thing)
    return frame


def _boxes(frame: Frame) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...]]:
    boxes, names, owners = [], [], []
    for owner, (name, area) in enumerate(zip(frame.names, frame.areas, strict=True), start=1):
        mask = frame.owner == owner
        seen = int(np.count_nonzero(mask))
        if not seen or seen < MIN_VISIBLE * area:
            continue
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        if box[2] - box[0] >= MIN_BOX_SIDE and box[3] - box[1] >= MIN_BOX_SIDE:
            boxes.append(box)
            names.append(name)
            owners.append(owner)
    return np.array(boxes, np.float32).reshape(-1, 4), tuple(names), tuple(owners)


def render_with_masks(seed: int, index: int, height: int = 480, width: int = 640) -> tuple[Scene, np.ndarray]:
    """Return the scene, and an int16 (H, W) map: 0 where no boxed object is in front, n for the n-th box."""
    if height < MIN_SIDE or width < MIN_SIDE:
        raise ValueError(f"a scene of {height} x {width} pixels is too small: both sides must be at least {MIN_SIDE}")
    plan = make_plan(make_generator(seed, index, "plan"))
    frame = compose(plan, make_camera(plan, height, width))
    boxes, classes, owners = _boxes(frame)
    numbers = np.zeros(len(frame.names) + 1, np.int16)
    numbers[list(owners)] = np.arange(1, len(owners) + 1)
    beta = 0.8 if plan.weather == "mist" else 0.14
    _, low, _ = sky_colours(plan)
    haze(frame, beta, 0.6 * low + 0.4 * np.asarray(plan.light.ambient))
    if plan.time != "day":
        bloom(frame, 1.0 if plan.weather == "mist" else 0.6)
    sensor, look = make_generator(seed, index, f"sensor {height} {width}"), make_generator(seed, index, "look")
    exposure, noise = {"day": (0.8, 1.3), "dusk": (1.6, 2.0), "night": (2.4, 3.0)}[plan.time]
    visible = expose_visible(frame, sensor, exposure, noise * plan.view.noise)
    infrared = expose_infrared(frame, sensor, look, 1.2 * plan.view.noise)
    depth = np.clip(frame.distance / np.float32(FAR), 0, 1)
    return Scene(visible, infrared, depth, boxes, classes, plan.time), numbers[frame.owner]


def render(seed: int, index: int, height: int = 480, width: int = 640) -> Scene:
    """Return scene number `index` of `seed`: the same bytes for the same four numbers, in any process.

    Raises ValueError for a side under 64 pixels.
    """
    return render_with_masks(seed, index, height, width)[0]
