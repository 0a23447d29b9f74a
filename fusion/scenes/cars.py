"""Cars of the procedural scenes: a lofted body in metres, its faces culled, shaded and drawn in perspective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.scenes.canvas import Frame, Place, Point, Sprite, circle
from fusion.scenes.car_geometry import SHAPES, CarGeometry, CarLook, CarPainter, choose_look, locate

GLASS = np.array((0.025, 0.032, 0.04))
SHEEN = np.array((0.10, 0.12, 0.14))  # added to the upper part of a pane
BODY_MIDDLE = (0.0, 0.5, 0.0)  # inside the body and the cabin: tells the outside of a face
CABIN_MIDDLE = (0.0, 1.1, 0.0)


@dataclass(frozen=True)
class BodyRings:
    """The body as four rings of eight corners from sill to belt, each (8, 3) metres in the car's axes."""

    outline: np.ndarray  # (8, 2) side and forward
    along: np.ndarray  # (8,) 0 at the rear, 1 at the front
    levels: tuple[np.ndarray, ...]


def draw_car(
    frame: Frame,
    place: Place,
    seed: int,
    light: np.ndarray,
    heat: float,
    moving: bool,
    lamps_on: bool,
    sun: np.ndarray,
    owner: int,
) -> None:
    """Draw a car whose middle stands at `place`.

    `light` is RGB (3,); `heat` is the infrared level of cold metal; `sun` (3,) points to the light in world axes and is
    0 without sun.
    """
    rng = np.random.default_rng(seed)
    geometry = locate(frame, place, SHAPES[rng.integers(len(SHAPES))], sun)
    look = choose_look(rng, heat, moving, lamps_on)
    shape, half = geometry.shape, geometry.half_width
    box = [(s, u, f) for s in (-half, half) for u in (0, shape.height) for f in (geometry.rear, geometry.front)]
    sprite = Sprite(frame.camera, frame.camera.project(place.points(box)))
    if sprite.empty:
        return
    painter = CarPainter(sprite, geometry)
    _underside(painter, look)
    if geometry.eye[2] <= 0:
        _mirrors(painter, look)
    _tyres(painter, look)
    _body(painter, look)
    _flanks(painter, look)
    _cabin(painter, look)
    if geometry.eye[2] > 0:
        _mirrors(painter, look)
    if geometry.eye[2] < geometry.rear:
        _rear_lamps(painter, look)
    if geometry.eye[2] > geometry.front:
        _front_lamps(painter, look)
    sprite.paste(frame, place.z, light, owner, rng, texture=0.05)


def _underside(painter: CarPainter, look: CarLook) -> None:
    """Draw the dark floor, warmed by the engine."""
    geometry = painter.geometry
    half, rear, front = geometry.half_width, geometry.rear + 0.2, geometry.front - 0.2
    floor = [(-half, 0.12, rear), (half, 0.12, rear), (half, 0.12, front), (-half, 0.12, front)]
    painter.face(floor, (0.005,) * 3, look.cold + 0.5 * look.engine)


def _mirrors(painter: CarPainter, look: CarLook) -> None:
    geometry = painter.geometry
    for side in (-1, 1):
        where = (side * (geometry.half_width + 0.08), geometry.shape.hood_height + 0.16, geometry.along(0.66))
        spot = painter.project([where])[0]
        oval = circle(spot, 0.1 * painter.metre, 10) * (1, 0.7) + (0, 0.3 * spot[1])
        painter.sprite.polygon(oval, look.paint * 0.45, look.body)


def _tyres(painter: CarPainter, look: CarLook) -> None:
    """Draw the tyres as they show under the bumpers."""
    geometry, length = painter.geometry, painter.geometry.shape.length
    half = geometry.half_width
    for side in (-1, 1):
        for spot in (geometry.rear + 0.12 * length, geometry.front - 0.14 * length):
            tyre = [(side * half * k, u, spot) for k, u in ((0.72, 0.0), (0.98, 0.0), (0.98, 0.4), (0.72, 0.4))]
            painter.face(tyre, (0.012,) * 3, look.tyres)


def _rings(geometry: CarGeometry) -> BodyRings:
    """Return the rings of the body, the ends narrower than the middle."""
    shape = geometry.shape
    hood, tail = shape.hood_height, shape.tail_height
    corners = [(-0.8, 0), (0.8, 0), (1, 0.09), (1, 0.88), (0.78, 1), (-0.78, 1), (-1, 0.88), (-1, 0.09)]
    outline = np.array(corners) * (geometry.half_width, shape.length) + (0, geometry.rear)
    along = (outline[:, 1] - geometry.rear) / shape.length
    belt = np.interp(along, [0, 0.15, 0.65, 0.8, 1.0], [tail - 0.06, tail, (tail + hood) / 2 + 0.03, hood, hood - 0.16])
    rings = []
    for level, swell in ((0.2, 0.94), (0.42, 1.0), (0.66, 1.0), (None, 0.93)):
        up = belt if level is None else np.minimum(level, belt - 0.05)
        forward = outline[:, 1] * (0.97 + 0.03 * swell)
        rings.append(np.stack([outline[:, 0] * swell, np.broadcast_to(up, 8), forward], axis=1))
    return BodyRings(outline, along, tuple(rings))


def _body(painter: CarPainter, look: CarLook) -> None:
    """Draw the sides of the body, far to near, then its lid and the hood."""
    geometry, paint, eye = painter.geometry, look.paint, painter.geometry.eye
    rings = _rings(geometry)
    outline, along = rings.outline, rings.along
    trim = (paint * 0.35, paint, paint)
    order = np.argsort([-np.linalg.norm(outline[i] + outline[(i + 1) % 8] - 2 * eye[[0, 2]]) for i in range(8)])
    for i in order:
        j = (i + 1) % 8
        ends = along[i] + along[j]
        hot = look.engine * np.clip((ends - 1.3) / 0.6, 0, 1) + 0.35 * look.engine * (ends < 0.1)
        for level in range(3):
            lower, upper = rings.levels[level], rings.levels[level + 1]
            colour = trim[level] if level or i not in (0, 4) else paint * 0.3
            panel = np.array([lower[i], lower[j], upper[j], upper[i]])
            painter.shaded(panel, colour, look.body + hot + 0.02 * (2 - level), BODY_MIDDLE)
    hood = geometry.shape.hood_height
    if eye[1] > hood:
        lid = rings.levels[3]
        painter.face(lid, paint * geometry.lid_shade(0.85, 0.45) * geometry.dimming, look.body + 0.03)
        foot, wide = geometry.along(geometry.shape.windscreen_foot), geometry.half_width * 0.86
        nose = np.stack([lid[3], lid[4], lid[5], lid[6], (-wide, hood, foot), (wide, hood, foot)])
        painter.face(nose, paint * geometry.lid_shade(0.8, 0.45) * geometry.dimming, look.body + 0.75 * look.engine)


def _flanks(painter: CarPainter, look: CarLook) -> None:
    """Draw wheels, door lines and the handle on the flank that the camera sees."""
    geometry = painter.geometry
    for side in (-1, 1):
        if side * geometry.eye[0] <= geometry.half_width:
            continue
        flank = side * geometry.half_width
        for spot in (0.19, 0.80):
            _wheel(painter, look, flank, spot)
        for spot in (0.30, 0.50, 0.70):
            seam = painter.project([(flank, 0.3, geometry.along(spot)), (flank * 0.95, 0.88, geometry.along(spot))])
            painter.sprite.stroke(seam, 0.012 * painter.metre, look.paint * 0.25, look.body - 0.02)
        handle = painter.project([(flank, 0.78, geometry.along(0.34)), (flank, 0.78, geometry.along(0.38))])
        painter.sprite.stroke(handle, 0.025 * painter.metre, look.paint * 0.3, look.body)


def _wheel(painter: CarPainter, look: CarLook, flank: float, spot: float) -> None:
    """Draw wheel arch, tyre, rim and hub at a share `spot` of the length."""
    ring = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    for radius, level, heat in (
        (0.37, 0.004, look.cold + 0.08),
        (0.32, 0.018, look.tyres),
        (0.21, 0.22, look.tyres - 0.05),
        (0.07, 0.06, look.tyres + 0.1),
    ):
        up, forward = 0.32 + radius * np.sin(ring), painter.geometry.along(spot) + radius * np.cos(ring)
        hoop = np.stack([np.full(20, flank), np.maximum(up, 0.0), forward], axis=1)
        painter.face(hoop, (level,) * 3, heat)


def _cabin(painter: CarPainter, look: CarLook) -> None:
    """Draw the four walls of the cabin with their windows, far to near, then the roof."""
    geometry, shape, eye = painter.geometry, painter.geometry.shape, painter.geometry.eye
    lower, upper = _cabin_rings(geometry)
    glass_heat = look.cold - 0.10 + (0.10 if look.moving else 0.0)
    walls = [np.array([lower[i], lower[j], upper[j], upper[i]]) for i, j in ((0, 1), (1, 2), (2, 3), (3, 0))]
    walls.sort(key=lambda wall: -float(np.linalg.norm(np.mean(wall, axis=0) - eye)))
    for wall in walls:
        flank = abs(wall[0][0] + wall[1][0]) > 0.1
        if not painter.shaded(wall, look.paint * 0.8, look.body + 0.02, CABIN_MIDDLE):
            continue
        _window(painter, wall, 0.14 if flank else 0.1, glass_heat)
        if flank:
            _door_pillars(painter, look, wall)
    if eye[1] > shape.height:
        roof = upper + np.array((0, 0.03, 0))
        painter.face(roof, look.paint * geometry.lid_shade(0.9, 0.5) * geometry.dimming, look.body + 0.05)


def _cabin_rings(geometry: CarGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the cabin at the belt and, narrower, at the roof: (4, 3) each, the rear ones first."""
    shape = geometry.shape
    hood, tail = shape.hood_height, shape.tail_height
    low, top = geometry.half_width * 0.93, geometry.half_width * 0.74
    boot, foot = geometry.along(shape.rear_screen_foot), geometry.along(shape.windscreen_foot)
    end, brow = geometry.along(shape.roof_end), geometry.along(shape.windscreen_head)
    spots = [shape.rear_screen_foot, shape.windscreen_foot]
    belt = np.interp(spots, [0, 0.7, 1], [tail - 0.03, (tail + hood) / 2 - 0.02, hood])
    lower = [(-low, belt[0], boot), (low, belt[0], boot), (low, belt[1], foot), (-low, belt[1], foot)]
    behind, ahead = shape.height - 0.04, shape.height - 0.03
    upper = [(-top, behind, end), (top, behind, end), (top, ahead, brow), (-top, ahead, brow)]
    return np.array(lower), np.array(upper)


def _window(painter: CarPainter, wall_43: np.ndarray, margin: float, heat: float) -> None:
    """Draw a pane inside a wall of the cabin, lighter in its upper part."""
    centre = wall_43.mean(axis=0)
    pane = centre + (wall_43 - centre) * (1 - margin)
    painter.face(pane, GLASS, heat)
    top = np.stack([0.5 * (pane[0] + pane[3]), 0.35 * pane[1] + 0.65 * pane[2], pane[2], pane[3]])
    painter.face(top, GLASS + SHEEN, heat + 0.02)


def _door_pillars(painter: CarPainter, look: CarLook, wall_43: np.ndarray) -> None:
    """Draw the pillars between the doors: one, two on a long car."""
    low, high = wall_43[:2], wall_43[[3, 2]]
    for part in (0.46,) if painter.geometry.shape.length < 4.9 else (0.3, 0.62):
        post = [low[0] + (low[1] - low[0]) * (part + d) for d in (-0.025, 0.025)]
        post += [high[0] + (high[1] - high[0]) * (part + d) for d in (0.025, -0.025)]
        painter.face(np.array(post), look.paint * 0.3, look.body)


def _upright(left: float, right: float, low: float, high: float, forward: float) -> list[Point]:
    """Return the corners of a rectangle across the car."""
    return [(left, low, forward), (right, low, forward), (right, high, forward), (left, high, forward)]


def _rear_lamps(painter: CarPainter, look: CarLook) -> None:
    """Draw tail lamps, number plate, bumper and, on a car in use, the hot exhaust."""
    half, rear = painter.geometry.half_width, painter.geometry.rear
    for side in (-1, 1):
        a, b = side * half * 0.52, side * half * 0.82
        lamp = [(a, 0.72, rear), (b, 0.70, rear), (b, 0.86, rear), (a, 0.85, rear)]
        painter.lamp(lamp, (0.32, 0.01, 0.012), look.cold + 0.1, (3.0, 0.10, 0.06) if look.lamps_on else None)
    plate, plate_glow = _upright(-0.27, 0.27, 0.52, 0.64, rear), (0.25, 0.24, 0.18) if look.lamps_on else None
    painter.lamp(plate, (0.6, 0.58, 0.45), look.body - 0.05, plate_glow)
    painter.lamp(_upright(-0.5, 0.5, 0.22, 0.34, rear), (0.012,) * 3, look.cold + 0.04)
    if look.moving:
        exhaust = circle(painter.project([(0.42, 0.26, rear)])[0], 0.06 * painter.metre, 8)
        painter.sprite.polygon(exhaust, (0.02,) * 3, look.cold + 0.45)


def _front_lamps(painter: CarPainter, look: CarLook) -> None:
    """Draw headlights, the grille in front of the engine, and the number plate."""
    half, front = painter.geometry.half_width, painter.geometry.front
    glow = (16.0, 15.0, 12.5) if look.lamps_on else None
    for side in (-1, 1):
        a, b = side * half * 0.48, side * half * 0.80
        lamp = [(a, 0.56, front), (b, 0.58, front - 0.03), (b, 0.72, front - 0.03), (a, 0.67, front)]
        painter.lamp(lamp, (0.6, 0.62, 0.64), look.cold + 0.2 + 0.3 * look.lamps_on, glow)
    low, high = 0.5 * half, 0.44 * half
    grille = [(-low, 0.42, front), (low, 0.42, front), (high, 0.62, front), (-high, 0.62, front)]
    painter.lamp(grille, (0.012,) * 3, look.cold + 0.1 + 0.9 * look.engine)
    painter.lamp(_upright(-0.26, 0.26, 0.36, 0.47, front), (0.6, 0.6, 0.58), look.body)
