"""Bicycles of the procedural scenes: wheels and frame as strokes in perspective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion.scenes.canvas import Frame, Place, Point, Sprite, circle
from fusion.scenes.people import CLOTH


def draw_bicycle(
    frame: Frame, place: Place, seed: int, light: np.ndarray, ambient: float, night: bool, owner: int
) -> None:
    """Draw a bicycle 1.75 m long, cold in infrared but for its warmer tyres and saddle.

    `light` is RGB (3,); `ambient` the infrared level of cold metal; by `night` the red lamp at the back shines.
    """
    rng = np.random.default_rng(seed)
    camera = frame.camera
    px = camera.focal / place.z
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    colour = np.array(CLOTH[rng.integers(len(CLOTH))]) * 1.3 + 0.03
    tyre, rim = np.array((0.02, 0.02, 0.02)), np.array((0.3, 0.3, 0.3))

    def project(points: Sequence[Point] | np.ndarray) -> np.ndarray:
        return camera.project(place.points(points))

    wheels = {
        end: np.stack([np.zeros(24), 0.34 + 0.34 * np.sin(turn), end + 0.34 * np.cos(turn)], axis=1)
        for end in (-0.53, 0.53)
    }
    bars = project([(-0.27, 1.02, 0.38), (0.27, 1.02, 0.38)])
    sprite = Sprite(camera, np.concatenate([project(wheels[-0.53]), project(wheels[0.53]), bars]), margin=2 + 0.03 * px)
    warm = ambient + 0.12
    for end, ring in wheels.items():
        for spoke in range(0, 12, 2):
            sprite.stroke(project(ring[[spoke, spoke + 12]]), 0.008 * px, rim, ambient)
        sprite.stroke(project(ring), max(0.045 * px, 0.5), tyre, warm, closed=True)
        sprite.stroke(project((ring - (0, 0.34, end)) * 0.9 + (0, 0.34, end)), 0.015 * px, rim, ambient, closed=True)
    crank, seat, head, fork, rear = (
        (0, 0.29, -0.02),
        (0, 0.86, -0.2),
        (0, 0.86, 0.33),
        (0, 0.34, 0.53),
        (0, 0.34, -0.53),
    )
    for a, b in ((crank, seat), (seat, head), (crank, head), (head, fork), (rear, seat), (rear, crank)):
        sprite.stroke(project([a, b]), max(0.042 * px, 0.45), colour, ambient + 0.03)
    sprite.stroke(project([head, (0, 1.02, 0.36)]), 0.035 * px, rim * 0.5, ambient)
    sprite.stroke(bars, max(0.035 * px, 0.4), tyre, ambient + 0.08)
    sprite.stroke(project([(0, 0.93, -0.33), (0, 0.93, -0.08)]), max(0.07 * px, 0.5), tyre, ambient + 0.15)
    sprite.stroke(project([(0, 0.69, -0.53), (0, 0.70, -0.2)]), 0.03 * px, rim * 0.4, ambient)
    if night and np.cos(place.yaw) > 0.2:  # the red lamp at the back
        lamp = project([(0, 0.62, -0.58)])[0]
        sprite.polygon(circle(lamp, max(0.035 * px, 0.7), 8), (0.3, 0.0, 0.0), ambient + 0.1)
        sprite.glow(circle(lamp, max(0.035 * px, 0.7), 8), (2.5, 0.12, 0.08))
    sprite.paste(frame, place.z, light, owner, rng, texture=0.08)
