"""Light in the procedural scenes: sun, sky, street lamps, headlights, glare, and the two sensors."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fusion.scenes.canvas import FAR, Frame, noise_patch


@dataclass(frozen=True)
class Lamp:
    """A street lamp: its head in metres, its colour and the irradiance right under it."""

    x: float
    y: float
    z: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Beam:
    """A pair of headlights at (x, z) shining along (dx, dz)."""

    x: float
    z: float
    dx: float
    dz: float
    power: float


@dataclass(frozen=True)
class Light:
    """All that lights a scene. `toward_sun` is a unit vector; `sun` is black at night and under cloud."""

    ambient: tuple[float, float, float]
    sun: tuple[float, float, float]
    toward_sun: tuple[float, float, float]
    lamps: tuple[Lamp, ...] = ()
    beams: tuple[Beam, ...] = ()

    def local(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the irradiance of lamps and headlights, float32 (3, ...) for x, y, z (...) in metres.

        A lamp of height h gives E (h^2 / d^2)^1.5 at distance d.
        """
        shape = np.broadcast_shapes(np.shape(x), np.shape(y), np.shape(z))
        total = np.zeros((3, *shape), np.float32)
        unit = (3,) + (1,) * len(shape)
        for lamp in self.lamps:
            square = (x - lamp.x) ** 2 + (y - lamp.y) ** 2 + (z - lamp.z) ** 2
            fall = (lamp.y**2 / (square + 1.0)) ** 1.5
            total += np.asarray(lamp.colour, np.float32).reshape(unit) * np.minimum(fall, 1.6).astype(np.float32)
        for beam in self.beams:
            along = (x - beam.x) * beam.dx + (z - beam.z) * beam.dz
            across = (x - beam.x) * beam.dz - (z - beam.z) * beam.dx
            ahead = np.maximum(along, 0.0)
            fall = (
                np.exp(-((across / (1.1 + 0.22 * ahead)) ** 2)) * ahead**2 / (ahead**2 + 12.0) * np.exp(-ahead / 13.0)
            )
            fall = fall * np.exp(-np.maximum(y - 0.3, 0.0) * 0.9)
            total += np.array((1.0, 0.96, 0.86), np.float32).reshape(unit) * (beam.power * fall).astype(np.float32)
        return total

    def upright(self, x: float, z: float, shade: float = 1.0) -> np.ndarray:
        """Return the light (RGB, (3,)) on something standing at (x, z); `shade` 0 takes the sun away."""
        here = self.local(np.asarray(x), np.asarray(1.0), np.asarray(z)) * 0.75
        return np.asarray(self.ambient) + 0.8 * shade * np.asarray(self.sun) + here


def bloom(frame: Frame, strength: float) -> None:
    """Add glare: what is brighter than white spreads over its surroundings, narrow and wide."""
    height, width = frame.owner.shape
    small = (max(width // 4, 1), max(height // 4, 1))
    excess = cv2.merge([np.maximum(plane - np.float32(0.9), 0) for plane in frame.radiance[:3]])
    lights = cv2.resize(excess, small, interpolation=cv2.INTER_AREA)
    unit = height / 480.0
    halo = np.zeros_like(lights)
    for sigma, weight in ((1.5, 0.5), (5.0, 0.45), (20.0, 0.6)):
        halo += weight * cv2.GaussianBlur(lights, (0, 0), max(sigma * unit, 0.3), borderType=cv2.BORDER_CONSTANT)
    streak = cv2.GaussianBlur(
        lights, (0, 0), sigmaX=14.0 * unit + 0.3, sigmaY=0.35 * unit + 0.2, borderType=cv2.BORDER_CONSTANT
    )
    halo += 0.06 * streak
    for plane, glow in zip(frame.radiance, cv2.split(halo * np.float32(strength)), strict=False):
        plane += cv2.resize(glow, (width, height), interpolation=cv2.INTER_LINEAR)


def haze(frame: Frame, beta: float, air: np.ndarray) -> None:
    """Add thin natural mist, in visible light only: I = J t + A (1 - t), t = exp(-beta d / FAR).

    `air` is the radiance A (RGB, (3,)).
    """
    clear = frame.distance * np.float32(-beta / FAR)
    np.exp(clear, out=clear)
    veil = 1 - clear
    for plane, level in zip(frame.radiance, air, strict=False):
        plane *= clear
        plane += np.float32(level) * veil


def sensor_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return nearly normal noise, float32 (H, W), mean 0, deviation 1.

    It is made of sums of four random bytes: faster than normal deviates.
    """
    size = height * width
    parts = np.frombuffer(rng.bytes(4 * size), np.uint8).reshape(4, height, width)
    total = np.add(parts[0], parts[1], dtype=np.uint16)
    total += parts[2]
    total += parts[3]
    deviation = (4 * (256.0**2 - 1) / 12) ** 0.5
    noise: np.ndarray = cv2.addWeighted(total, 1 / deviation, total, 0.0, -4 * 127.5 / deviation, dtype=cv2.CV_32F)
    return noise


def expose_visible(frame: Frame, rng: np.random.Generator, exposure: float, noise: float) -> np.ndarray:
    """Return the visible picture, uint8 (H, W, 3): soft shoulder, square-root response, photon and read noise."""
    height, width = frame.owner.shape
    grey = sensor_noise(rng, height, width)
    grey *= np.float32(noise)
    pictures, shoulder = [], np.empty((height, width), np.float32)
    for plane in frame.radiance[:3]:
        light = cv2.GaussianBlur(plane, (3, 3), 0.3 + 0.15 * height / 480)
        light *= np.float32(exposure)
        np.add(light, np.float32(0.6), out=shoulder)
        light /= shoulder
        np.sqrt(light, out=light)
        light *= np.float32(255 * 1.6**0.5)
        light += grey
        tint = sensor_noise(rng, height // 3 + 1, width // 3 + 1) * np.float32(0.6 * noise)
        light += cv2.resize(tint, (width, height), interpolation=cv2.INTER_LINEAR)
        pictures.append(cv2.convertScaleAbs(np.maximum(light, 0, out=light)))
    image: np.ndarray = cv2.merge(pictures)
    return image


def expose_infrared(frame: Frame, rng: np.random.Generator, look: np.random.Generator, noise: float) -> np.ndarray:
    """Return the infrared picture, uint8 (H, W): soft lens, uneven response, column pattern and faint noise."""
    height, width = frame.owner.shape
    sigma = 0.9 * height / 480
    heat = frame.radiance[3]
    if sigma > 0.25:
        soft = cv2.GaussianBlur(heat, (0, 0), sigma)
        small = cv2.resize(soft, (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA)
        wide = cv2.resize(
            cv2.GaussianBlur(small, (0, 0), 1.25 * sigma), (width, height), interpolation=cv2.INTER_LINEAR
        )
        heat = cv2.addWeighted(soft, 1.25, wide, -0.25, 0.0)
    picture: np.ndarray = cv2.addWeighted(heat, 255.0, noise_patch(1.6, look, 128, height, width), 3.0, 0.0)
    picture += np.float32(noise * 0.5) * rng.standard_normal((1, width), np.float32)
    grain = sensor_noise(rng, height, width)
    grain *= np.float32(noise)
    picture += grain
    levels: np.ndarray = cv2.convertScaleAbs(np.maximum(picture, 0, out=picture))
    return levels
