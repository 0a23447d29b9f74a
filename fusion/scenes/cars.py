"""Cars of the procedural scenes: a lofted body in metres, its faces culled, shaded and drawn in perspective."""

from __future__ import annotations

import numpy as np

from fusion.scenes.canvas import Frame, Sprite, circle
from fusion.scenes.people import Place

PAINT = (
    (0.55, 0.55, 0.56),
    (0.30, 0.31, 0.33),
    (0.03, 0.03, 0.035),
    (0.70, 0.70, 0.68),
    (0.35, 0.02, 0.03),
    (0.03, 0.07, 0.25),
    (0.09, 0.10, 0.11),
    (0.55, 0.40, 0.04),
    (0.05, 0.18, 0.12),
    (0.08, 0.20, 0.36),
    (0.28, 0.22, 0.16),
    (0.80, 0.80, 0.80),
)
# Length, width, height, hood height, tail height; along the car: windscreen foot and head, roof end, rear screen foot.
SHAPES = (
    (4.5, 1.80, 1.45, 0.80, 0.98, 0.70, 0.54, 0.22, 0.07),  # saloon
    (4.0, 1.75, 1.50, 0.84, 0.98, 0.74, 0.58, 0.10, 0.03),  # hatchback
    (4.6, 1.88, 1.70, 1.00, 1.10, 0.74, 0.60, 0.08, 0.02),  # off-roader
    (4.7, 1.84, 1.48, 0.82, 0.98, 0.71, 0.55, 0.08, 0.02),  # estate
    (5.0, 1.95, 2.05, 1.08, 1.15, 0.85, 0.70, 0.03, 0.01),  # van
)
GLASS = np.array((0.025, 0.032, 0.04))


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
    """A car whose middle stands at `place`; `heat` is the infrared level of cold metal, `sun` points to the light."""
    rng = np.random.default_rng(seed)
    length, width, tall, hood, tail, foot, brow, end, boot = SHAPES[rng.integers(len(SHAPES))]
    paint = np.array(PAINT[rng.integers(len(PAINT))]) * rng.uniform(0.85, 1.1)
    engine = rng.uniform(0.22, 0.42) if moving else rng.choice([0.0, 0.02, 0.12])
    tyre_heat = heat + (0.34 if moving else 0.06)
    body_heat = heat + rng.uniform(-0.07, 0.09)
    half, rear, front = width / 2, -length / 2, length / 2

    def to(points: np.ndarray | list) -> np.ndarray:
        return frame.camera.project(place.points(points))

    box = [(s, u, f) for s in (-half, half) for u in (0, tall) for f in (rear, front)]
    sprite = Sprite(frame.camera, to(box))
    if sprite.empty:
        return
    eye_x, eye_y, eye_z = -place.x, frame.camera.above, -place.z
    turn = np.sin(place.yaw), np.cos(place.yaw)
    eye = np.array(
        [eye_x * turn[1] - eye_z * turn[0], eye_y, eye_x * turn[0] + eye_z * turn[1]]
    )  # the camera seen from the car
    toward = np.array([sun[0] * turn[1] - sun[2] * turn[0], sun[1], sun[0] * turn[0] + sun[2] * turn[1]])
    cold = 0.75 + 0.25 * abs(eye[1]) / (1 + abs(eye[1]))

    def facing(quad: np.ndarray, middle: tuple[float, float, float]) -> tuple[bool, float]:
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = quad[:3].tolist()
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        size = (nx * nx + ny * ny + nz * nz) ** 0.5 + 1e-9
        if nx * (ax - middle[0]) + ny * (ay - middle[1]) + nz * (az - middle[2]) < 0:
            size = -size
        nx, ny, nz = nx / size, ny / size, nz / size
        shade = (0.52 + 0.33 * ny + 0.45 * max(0.0, nx * toward[0] + ny * toward[1] + nz * toward[2])) * cold
        return nx * (eye[0] - ax) + ny * (eye[1] - ay) + nz * (eye[2] - az) > 0, shade

    def quad(
        points: list, colour: np.ndarray, warmth: float, middle: tuple[float, float, float], inset: tuple | None = None
    ) -> bool:
        corners = np.asarray(points, float)
        seen, shade = facing(corners, middle)
        if seen:
            sprite.face(place.points(corners), np.asarray(colour) * shade, warmth)
            if inset is not None and len(corners) == 4:
                colour2, warmth2, margin, sheen = inset
                inner = corners.mean(axis=0) + (corners - corners.mean(axis=0)) * (1 - margin)
                sprite.face(place.points(inner), colour2, warmth2)
                top = np.stack([0.5 * (inner[0] + inner[3]), 0.35 * inner[1] + 0.65 * inner[2], inner[2], inner[3]])
                sprite.face(place.points(top), colour2 + sheen, warmth2 + 0.02)
        return seen

    sprite.face(
        place.points(
            [(-half, 0.12, rear + 0.2), (half, 0.12, rear + 0.2), (half, 0.12, front - 0.2), (-half, 0.12, front - 0.2)]
        ),
        (0.005,) * 3,
        heat + 0.5 * engine,
    )
    # Plan of the body: eight corners, the ends narrower than the middle; four rings from sill to belt.
    plan = np.array([(-0.8, 0), (0.8, 0), (1, 0.09), (1, 0.88), (0.78, 1), (-0.78, 1), (-1, 0.88), (-1, 0.09)]) * (
        half,
        length,
    ) + (0, rear)
    along = (plan[:, 1] - rear) / length
    belt = np.interp(along, [0, 0.15, 0.65, 0.8, 1.0], [tail - 0.06, tail, (tail + hood) / 2 + 0.03, hood, hood - 0.16])
    rings = []
    for level, swell in ((0.2, 0.94), (0.42, 1.0), (0.66, 1.0), (None, 0.93)):
        up = belt if level is None else np.minimum(level, belt - 0.05)
        rings.append(np.stack([plan[:, 0] * swell, np.broadcast_to(up, 8), plan[:, 1] * (0.97 + 0.03 * swell)], axis=1))
    centre = (0.0, 0.5, 0.0)
    trim = (paint * 0.35, paint, paint)

    def mirrors() -> None:
        for side in (-1, 1):
            spot = to([(side * (half + 0.08), hood + 0.16, rear + 0.66 * length)])[0]
            sprite.polygon(
                circle(spot, 0.1 * frame.camera.focal / place.z, 10) * (1, 0.7) + (0, 0.3 * spot[1]),
                paint * 0.45,
                body_heat,
            )

    if eye[2] <= 0:
        mirrors()
    for side in (-1, 1):  # the tyres as they show under the bumpers
        for spot in (rear + 0.12 * length, front - 0.14 * length):
            tyre = [(side * half * k, u, spot) for k, u in ((0.72, 0.0), (0.98, 0.0), (0.98, 0.4), (0.72, 0.4))]
            sprite.face(place.points(tyre), (0.012,) * 3, tyre_heat)
    order = np.argsort([-np.linalg.norm(plan[i] + plan[(i + 1) % 8] - 2 * eye[[0, 2]]) for i in range(8)])
    for i in order:
        j = (i + 1) % 8
        hot = engine * np.clip((along[i] + along[j] - 1.3) / 0.6, 0, 1) + 0.35 * engine * (along[i] + along[j] < 0.1)
        for level in range(3):
            lower, upper = rings[level], rings[level + 1]
            colour = trim[level] if level or i not in (0, 4) else paint * 0.3
            quad([lower[i], lower[j], upper[j], upper[i]], colour, body_heat + hot + 0.02 * (2 - level), centre)
    lid = rings[3].copy()
    if eye[1] > hood:
        sprite.face(place.points(lid), paint * (0.85 + 0.45 * max(0.0, toward[1])) * cold, body_heat + 0.03)
        nose = np.stack(
            [
                lid[3],
                lid[4],
                lid[5],
                lid[6],
                (-half * 0.86, hood, rear + foot * length),
                (half * 0.86, hood, rear + foot * length),
            ]
        )
        sprite.face(place.points(nose), paint * (0.8 + 0.45 * max(0.0, toward[1])) * cold, body_heat + 0.75 * engine)

    for side in (-1, 1):  # wheels on the visible flank, then door lines
        if side * eye[0] <= half:
            continue
        for spot in (0.19, 0.80):
            ring = np.linspace(0, 2 * np.pi, 20, endpoint=False)
            for radius, colour, warmth in (
                (0.37, (0.004,) * 3, heat + 0.08),
                (0.32, (0.018,) * 3, tyre_heat),
                (0.21, (0.22,) * 3, tyre_heat - 0.05),
                (0.07, (0.06,) * 3, tyre_heat + 0.1),
            ):
                hoop = np.stack(
                    [
                        np.full(20, side * half),
                        0.32 + radius * np.sin(ring),
                        rear + spot * length + radius * np.cos(ring),
                    ],
                    axis=1,
                )
                hoop[:, 1] = np.maximum(hoop[:, 1], 0.0)
                sprite.face(place.points(hoop), colour, warmth)
        for spot in (0.30, 0.50, 0.70):
            seam = to([(side * half, 0.3, rear + spot * length), (side * half * 0.95, 0.88, rear + spot * length)])
            sprite.stroke(seam, 0.012 * frame.camera.focal / place.z, paint * 0.25, body_heat - 0.02)
        handle = to([(side * half, 0.78, rear + 0.34 * length), (side * half, 0.78, rear + 0.38 * length)])
        sprite.stroke(handle, 0.025 * frame.camera.focal / place.z, paint * 0.3, body_heat)

    # Cabin: a lower ring at the belt, a narrower one at the roof.
    low_w, top_w = half * 0.93, half * 0.74
    base = np.interp([boot, foot], [0, 0.7, 1], [tail - 0.03, (tail + hood) / 2 - 0.02, hood])
    lower = [
        (-low_w, base[0], rear + boot * length),
        (low_w, base[0], rear + boot * length),
        (low_w, base[1], rear + foot * length),
        (-low_w, base[1], rear + foot * length),
    ]
    upper = [
        (-top_w, tall - 0.04, rear + end * length),
        (top_w, tall - 0.04, rear + end * length),
        (top_w, tall - 0.03, rear + brow * length),
        (-top_w, tall - 0.03, rear + brow * length),
    ]
    inside = (0.0, 1.1, 0.0)
    glass_heat = heat - 0.10 + (0.10 if moving else 0.0)
    sheen = np.array((0.10, 0.12, 0.14))
    walls = [
        (lower[0], lower[1], upper[1], upper[0]),
        (lower[1], lower[2], upper[2], upper[1]),
        (lower[2], lower[3], upper[3], upper[2]),
        (lower[3], lower[0], upper[0], upper[3]),
    ]
    walls.sort(key=lambda wall: -np.linalg.norm(np.mean(wall, axis=0) - eye))
    for wall in walls:
        flank = abs(wall[0][0] + wall[1][0]) > 0.1
        if (
            not quad(
                list(wall), paint * 0.8, body_heat + 0.02, inside, (GLASS, glass_heat, 0.14 if flank else 0.1, sheen)
            )
            or not flank
        ):
            continue
        low, high = np.asarray(wall[:2], float), np.asarray([wall[3], wall[2]], float)
        for part in (0.46,) if length < 4.9 else (0.3, 0.62):  # the pillar between the doors
            post = [low[0] + (low[1] - low[0]) * (part + d) for d in (-0.025, 0.025)] + [
                high[0] + (high[1] - high[0]) * (part + d) for d in (0.025, -0.025)
            ]
            sprite.face(place.points(post), paint * 0.3, body_heat)
    if eye[1] > tall:
        roof = np.asarray(upper) + np.array((0, 0.03, 0))
        sprite.face(place.points(roof), paint * (0.9 + 0.5 * max(0.0, toward[1])) * cold, body_heat + 0.05)
    if eye[2] > 0:
        mirrors()

    def lamp(points: list, colour: tuple[float, ...], warmth: float, glow: tuple[float, ...] | None) -> None:
        flat = to(points)
        sprite.polygon(flat, colour, warmth)
        if glow is not None:
            sprite.glow(flat, glow)

    if eye[2] < rear:
        for side in (-1, 1):
            a, b = side * half * 0.52, side * half * 0.82
            lamp(
                [(a, 0.72, rear), (b, 0.70, rear), (b, 0.86, rear), (a, 0.85, rear)],
                (0.32, 0.01, 0.012),
                heat + 0.1,
                (3.0, 0.10, 0.06) if lamps_on else None,
            )
        lamp(
            [(-0.27, 0.52, rear), (0.27, 0.52, rear), (0.27, 0.64, rear), (-0.27, 0.64, rear)],
            (0.6, 0.58, 0.45),
            body_heat - 0.05,
            (0.25, 0.24, 0.18) if lamps_on else None,
        )
        lamp(
            [(-0.5, 0.22, rear), (0.5, 0.22, rear), (0.5, 0.34, rear), (-0.5, 0.34, rear)],
            (0.012,) * 3,
            heat + 0.04,
            None,
        )
        if moving:
            sprite.polygon(
                circle(to([(0.42, 0.26, rear)])[0], 0.06 * frame.camera.focal / place.z, 8), (0.02,) * 3, heat + 0.45
            )
    if eye[2] > front:
        for side in (-1, 1):
            a, b = side * half * 0.48, side * half * 0.80
            lamp(
                [(a, 0.56, front), (b, 0.58, front - 0.03), (b, 0.72, front - 0.03), (a, 0.67, front)],
                (0.6, 0.62, 0.64),
                heat + 0.2 + 0.3 * lamps_on,
                (16.0, 15.0, 12.5) if lamps_on else None,
            )
        lamp(
            [
                (-0.5 * half, 0.42, front),
                (0.5 * half, 0.42, front),
                (0.44 * half, 0.62, front),
                (-0.44 * half, 0.62, front),
            ],
            (0.012,) * 3,
            heat + 0.1 + 0.9 * engine,
            None,
        )
        lamp(
            [(-0.26, 0.36, front), (0.26, 0.36, front), (0.26, 0.47, front), (-0.26, 0.47, front)],
            (0.6, 0.6, 0.58),
            body_heat,
            None,
        )
    sprite.paste(frame, place.z, light, owner, rng, texture=0.05)
