"""What a car of the procedural scenes is: its shape, its place under camera and sun, its colours, and a brush.

A car's own axes: side (to its right), up and forward, in metres, from the middle of the car on the ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion.scenes.canvas import Colour, Frame, Place, Point, Sprite

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


@dataclass(frozen=True)
class CarShape:
    """Sizes in metres; then where along the car (0 rear, 1 front) the windows' corners are."""

    length: float
    width: float
    height: float
    hood_height: float
    tail_height: float
    windscreen_foot: float
    windscreen_head: float
    roof_end: float
    rear_screen_foot: float


SHAPES = (
    CarShape(4.5, 1.80, 1.45, 0.80, 0.98, 0.70, 0.54, 0.22, 0.07),  # saloon
    CarShape(4.0, 1.75, 1.50, 0.84, 0.98, 0.74, 0.58, 0.10, 0.03),  # hatchback
    CarShape(4.6, 1.88, 1.70, 1.00, 1.10, 0.74, 0.60, 0.08, 0.02),  # off-roader
    CarShape(4.7, 1.84, 1.48, 0.82, 0.98, 0.71, 0.55, 0.08, 0.02),  # estate
    CarShape(5.0, 1.95, 2.05, 1.08, 1.15, 0.85, 0.70, 0.03, 0.01),  # van
)


@dataclass(frozen=True)
class CarGeometry:
    """A car in its place: its shape, and the camera and the light as seen from its own axes."""

    shape: CarShape
    place: Place
    eye: np.ndarray  # (3,) metres: the camera
    toward_sun: np.ndarray  # (3,) unit vector, 0 without sun
    dimming: float  # factor on all faces

    @property
    def half_width(self) -> float:
        """Half of the width, metres."""
        return self.shape.width / 2

    @property
    def rear(self) -> float:
        """Forward coordinate of the rear end, metres."""
        return -self.shape.length / 2

    @property
    def front(self) -> float:
        """Forward coordinate of the front end, metres."""
        return self.shape.length / 2

    def along(self, share: float) -> float:
        """Return the forward coordinate at a share of the length, 0 at the rear and 1 at the front."""
        return self.rear + share * self.shape.length

    def lid_shade(self, base: float, sunny: float) -> float:
        """Return the brightness of a level face: `base`, and `sunny` more under a sun straight above."""
        return base + sunny * max(0.0, float(self.toward_sun[1]))

    def facing(self, corners_N3: np.ndarray, middle: Point) -> tuple[bool, float]:
        """Return whether the camera sees the outside of a face, and how bright the face is.

        `middle` is a point behind the face; three corners define its plane.
        """
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners_N3[:3].tolist()
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        norm = (nx * nx + ny * ny + nz * nz) ** 0.5 + 1e-9
        if nx * (ax - middle[0]) + ny * (ay - middle[1]) + nz * (az - middle[2]) < 0:
            norm = -norm
        nx, ny, nz = nx / norm, ny / norm, nz / norm
        sun, eye = self.toward_sun, self.eye
        shade = (0.52 + 0.33 * ny + 0.45 * max(0.0, nx * sun[0] + ny * sun[1] + nz * sun[2])) * self.dimming
        return bool(nx * (eye[0] - ax) + ny * (eye[1] - ay) + nz * (eye[2] - az) > 0), float(shade)


@dataclass(frozen=True)
class CarLook:
    """Colour and infrared levels of a car; `cold` is the level of cold metal."""

    paint: np.ndarray  # (3,) linear albedo
    cold: float
    body: float
    tyres: float
    engine: float  # above the body
    moving: bool
    lamps_on: bool


class CarPainter:
    """Draws points in a car's own axes (metres) on the sprite of the car."""

    def __init__(self, sprite: Sprite, geometry: CarGeometry) -> None:
        self.sprite, self.geometry = sprite, geometry
        self.metre = sprite.camera.focal / geometry.place.z  # pixels

    def project(self, points_N3: np.ndarray | Sequence[Point]) -> np.ndarray:
        """Return the image points (N, 2) in pixels."""
        return self.sprite.camera.project(self.geometry.place.points(points_N3))

    def face(self, points_N3: np.ndarray | Sequence[Point], rgb: Colour, heat: float) -> None:
        """Fill a polygon whichever way it faces."""
        self.sprite.face(self.geometry.place.points(points_N3), rgb, heat)

    def shaded(self, corners_N3: np.ndarray, rgb: np.ndarray, heat: float, middle: Point) -> bool:
        """Fill a face by its shade if the camera sees its outside, and return whether it does."""
        seen, shade = self.geometry.facing(corners_N3, middle)
        if seen:
            self.face(corners_N3, rgb * shade, heat)
        return seen

    def lamp(self, points_N3: Sequence[Point], rgb: Colour, heat: float, glow: Colour | None = None) -> None:
        """Fill a polygon, and let it give off light (RGB radiance) if `glow` is given."""
        points_N2 = self.project(points_N3)
        self.sprite.polygon(points_N2, rgb, heat)
        if glow is not None:
            self.sprite.glow(points_N2, glow)


def locate(frame: Frame, place: Place, shape: CarShape, sun: np.ndarray) -> CarGeometry:
    """Return the geometry of a car at `place`; `sun` (3,) points to the light in world axes, 0 without sun."""
    eye_x, eye_y, eye_z = -place.x, frame.camera.above, -place.z
    sine, cosine = np.sin(place.yaw), np.cos(place.yaw)
    eye = np.array([eye_x * cosine - eye_z * sine, eye_y, eye_x * sine + eye_z * cosine])
    toward_sun = np.array([sun[0] * cosine - sun[2] * sine, sun[1], sun[0] * sine + sun[2] * cosine])
    dimming = 0.75 + 0.25 * abs(eye[1]) / (1 + abs(eye[1]))
    return CarGeometry(shape, place, eye, toward_sun, dimming)


def choose_look(rng: np.random.Generator, heat: float, moving: bool, lamps_on: bool) -> CarLook:
    """Draw a paint and infrared levels by lot; `heat` is the infrared level of cold metal."""
    paint = np.array(PAINT[rng.integers(len(PAINT))]) * rng.uniform(0.85, 1.1)
    engine = rng.uniform(0.22, 0.42) if moving else rng.choice([0.0, 0.02, 0.12])
    tyres = heat + (0.34 if moving else 0.06)
    return CarLook(paint, heat, heat + rng.uniform(-0.07, 0.09), tyres, engine, moving, lamps_on)
