"""Combined vision in a procedural scene: what a database shows from the assumed pose, and what a sensor sees in fog.

Synthetic vision is drawn from a database of ground, road, buildings and trees, as seen from the pose that navigation
gives. People, vehicles and smoke are in no database. The pose is a little wrong, so the two pictures are not
registered: errors of heading and pitch shift the synthetic picture, roll turns it, an error of height moves near ground
more than far.

Enhanced vision is the infrared picture through fog, I = J t + A (1 - t) with t = exp(-beta d), and sensor noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from fusion.scenes import Scene, compose, make_camera, make_generator
from fusion.scenes.canvas import FAR, Camera
from fusion.scenes.layout import make_plan
from fusion.scenes.light import sensor_noise
from fusion.scenes.plan import Plan

IN_DATABASE = ("tree", "lamp", "sign", "signal")
YAW, PITCH, ROLL = 0.8, 0.5, 0.6  # degrees: the largest errors of the pose
HEIGHT = 0.15  # metres
FOG = (0.8, 2.2)  # beta, for a depth of unit range
NOISE = (2.0, 5.0)  # grey levels, standard deviation
SKY = ((70, 120, 200), (170, 200, 235))  # at the top, at the horizon
ROAD, FIELD, UPRIGHT = (92, 92, 98), (86, 122, 70), (188, 168, 136)
GRID = 10.0  # metres between the lines on the ground


@dataclass(frozen=True)
class PoseError:
    """By how much the assumed pose is wrong: yaw, pitch and roll in degrees, height in metres."""

    yaw: float
    pitch: float
    roll: float
    height: float


def pose_error(seed: int, index: int) -> PoseError:
    """Draw the error of a scene's pose, uniform up to the largest ones."""
    rng = make_generator(seed, index, "pose")
    return PoseError(*(float(rng.uniform(-most, most)) for most in (YAW, PITCH, ROLL, HEIGHT)))


def synthetic_vision(seed: int, index: int, height: int, width: int, error: PoseError | None = None) -> np.ndarray:
    """Return what the database shows of a scene, uint8 (height, width, 3); `error`: by default that of the scene."""
    error = error or pose_error(seed, index)
    plan = make_plan(make_generator(seed, index, "plan"))
    plan = replace(plan, items=tuple(item for item in plan.items if item.kind in IN_DATABASE))
    camera = make_camera(plan, height, width)
    assumed = replace(
        camera,
        centre=camera.centre + camera.focal * float(np.tan(np.radians(error.yaw))),
        horizon=camera.horizon + camera.focal * float(np.tan(np.radians(error.pitch))),
        above=camera.above + error.height,
    )
    picture = _shade(plan, assumed)
    turn = cv2.getRotationMatrix2D((assumed.centre, assumed.horizon), error.roll, 1.0)
    return cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _shade(plan: Plan, camera: Camera) -> np.ndarray:
    """Draw the distances that a camera sees, uint8 (H, W, 3): sky, road and fields with a grid, what stands on them."""
    frame = compose(plan, camera)
    z_HW = frame.distance.astype(np.float64)
    row_H1, column_W = np.arange(camera.height)[:, None] + 0.5, np.arange(camera.width) + 0.5
    x_HW = (column_W - camera.centre) * z_HW / camera.focal
    y_HW = camera.above - (row_H1 - camera.horizon) * z_HW / camera.focal
    sky = z_HW >= 0.999 * FAR
    upright = ~sky & (y_HW > 0.2)
    across = np.abs(x_HW - np.asarray(plan.street.bend(z_HW)))

    rise_H1 = np.clip(row_H1 / max(camera.horizon, 1.0), 0, 1)
    picture = np.repeat((1 - rise_H1)[..., None] * SKY[0] + rise_H1[..., None] * SKY[1], camera.width, axis=1)
    picture[~sky] = FIELD
    picture[~sky & (across < plan.street.road)] = ROAD
    footprint = z_HW / camera.focal  # metres across a pixel
    lines = (np.mod(z_HW, GRID) < 0.1 + 4 * footprint) | (np.mod(across, GRID / 2) < 0.05 + footprint)
    picture[~sky & lines & (z_HW < 60)] *= 1.35
    slope = np.abs(np.gradient(z_HW, axis=1)) / footprint  # of distance: 0 for a wall that faces the camera
    picture[upright] = (1 - 0.4 * np.clip(slope[upright] / 3, 0, 1))[:, None] * UPRIGHT
    window = np.ones((3, 3), np.uint8)
    picture[cv2.erode(z_HW, window) < 0.85 * z_HW] *= 0.5  # outlines, on what lies behind
    shaded: np.ndarray = np.rint(np.clip(cv2.GaussianBlur(picture, (0, 0), 0.6), 0, 255)).astype(np.uint8)
    return shaded


def enhanced_vision(scene: Scene, seed: int, index: int) -> np.ndarray:
    """Return the infrared picture of a scene through fog and sensor noise, uint8 (H, W)."""
    rng = make_generator(seed, index, "enhanced vision")
    beta, sigma = rng.uniform(*FOG), rng.uniform(*NOISE)
    clear = np.exp(-beta * scene.depth)
    air = float(np.percentile(scene.infrared, 60))
    seen = scene.infrared * clear + air * (1 - clear) + sigma * sensor_noise(rng, *scene.infrared.shape)
    levels: np.ndarray = np.rint(np.clip(seen, 0, 255)).astype(np.uint8)
    return levels
