"""Camera, frame and sprite: how the procedural scenes get from metres to anti-aliased pixels.

World axes: X right, Y up, Z forward, in metres, the camera at X = Z = 0 and `above` metres over flat ground.
Radiance is linear light in red, green, blue and, as a fourth channel, the infrared intensity in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

FAR = 120.0  # metres: where depth reaches 1
NEAR = 0.6  # metres: points nearer than this are drawn as if here
BANK = 512  # side of the periodic noise tiles

Point = tuple[float, float, float]  # metres
Colour = tuple[float, ...] | np.ndarray  # RGB, linear


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera; tilt is a shift of the horizon row, so verticals stay vertical."""

    width: int
    height: int
    focal: float
    horizon: float
    centre: float
    above: float

    def project(self, points_N3: np.ndarray) -> np.ndarray:
        """Project world points (N, 3) in metres to the image (N, 2) in pixels.

        x = centre + f X / Z, y = horizon + f (above - Y) / Z; points nearer than NEAR are taken to be there.
        """
        points = np.asarray(points_N3, np.float64)
        scale = self.focal / np.maximum(points[:, 2], NEAR)
        flat = np.empty((len(points), 2))
        flat[:, 0] = self.centre + points[:, 0] * scale
        flat[:, 1] = self.horizon + (self.above - points[:, 1]) * scale
        return flat


@dataclass(frozen=True)
class Place:
    """Where something stands and which way it looks (yaw 0 is away from the camera, pi / 2 to the right)."""

    x: float
    z: float
    yaw: float

    def points(self, side_up_forward_N3: np.ndarray | Sequence[Point]) -> np.ndarray:
        """Return local (side, up, forward) metres, (N, 3), as world (X, Y, Z), (N, 3)."""
        p = np.asarray(side_up_forward_N3, np.float64).reshape(-1, 3)
        s, c = np.sin(self.yaw), np.cos(self.yaw)
        out = p.copy()
        out[:, 0] = self.x + p[:, 0] * c + p[:, 2] * s
        out[:, 2] = self.z - p[:, 0] * s + p[:, 2] * c
        return out


@cache
def noise_tile(roughness: float) -> np.ndarray:
    """Return a periodic BANK x BANK tile of 1 / frequency^roughness noise with mean 0 and deviation 1 (read-only)."""
    rng = np.random.default_rng(20240917 + int(roughness * 100))
    fy, fx = np.fft.fftfreq(BANK)[:, None], np.fft.rfftfreq(BANK)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((BANK, BANK))) / frequency**roughness
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, s=(BANK, BANK))
    tile: np.ndarray = (noise / noise.std()).astype(np.float32)
    tile.setflags(write=False)
    return tile


def sample_noise(roughness: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the tile at fractional positions x, y (H, W; in tile pixels, wrapped): float32 (H, W)."""
    x, y = (np.asarray(a, np.float32) for a in (x, y))
    x, y = (a - np.float32(BANK) * np.floor(a * np.float32(1 / BANK)) for a in (x, y))
    return cv2.remap(noise_tile(roughness), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def noise_patch(roughness: float, rng: np.random.Generator, size: int, height: int, width: int) -> np.ndarray:
    """Return a size x size cut of the tile, stretched to height x width: the same pattern at any resolution."""
    y, x = rng.integers(0, BANK - size, 2)
    return cv2.resize(
        noise_tile(roughness)[y : y + size, x : x + size], (width, height), interpolation=cv2.INTER_LINEAR
    )


def planes(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) as contiguous (C, H, W).

    Whole-plane arithmetic is several times faster than on interleaved pixels.
    """
    out = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(out))
    return out


class Frame:
    """What has been drawn so far: radiance (4 H W), distance in metres (H W), and which object owns each pixel."""

    def __init__(self, camera: Camera) -> None:
        shape = (camera.height, camera.width)
        self.camera = camera
        self.radiance = np.zeros((4, *shape), np.float32)
        self.distance = np.full(shape, FAR, np.float32)
        self.owner = np.zeros(shape, np.int16)
        self.names: list[str] = []
        self.areas: list[int] = []

    def new_object(self, name: str) -> int:
        """Return a fresh owner number (from 1 up) for an object of class `name`."""
        self.names.append(name)
        self.areas.append(0)
        return len(self.names)

    def blend(
        self, y: int, x: int, colour: np.ndarray, alpha: np.ndarray, distance: float | np.ndarray, owner: int = 0
    ) -> None:
        """Lay `colour` (4 h w) with `alpha` (h w) over the frame at row y, column x, and claim the pixels over a half.

        `colour` is used up.
        """
        h, w = alpha.shape
        region = self.radiance[:, y : y + h, x : x + w]
        for plane, fill in zip(region, colour, strict=True):  # plane by plane: the scratch memory stays in the cache
            fill -= plane
            fill *= alpha
            plane += fill
        inside = alpha > 0.5
        np.copyto(self.distance[y : y + h, x : x + w], distance, where=inside)
        np.copyto(self.owner[y : y + h, x : x + w], np.int16(owner), where=inside)
        if owner:
            self.areas[owner - 1] += int(np.count_nonzero(inside))


class Sprite:
    """A supersampled patch of the image on which one object is drawn from polygons, then pasted in one go.

    Colours are linear albedos in [0, 1]; `heat` is the infrared intensity. What glows goes to a second layer.
    """

    GLOW = 16.0  # radiance that the brightest glow code stands for

    def __init__(self, camera: Camera, outline_N2: np.ndarray, margin: float = 2.0) -> None:
        low, high = outline_N2.min(axis=0) - margin, outline_N2.max(axis=0) + margin
        self.x0, self.y0 = int(max(0, np.floor(low[0]))), int(max(0, np.floor(low[1])))
        self.w = int(min(camera.width, np.ceil(high[0]))) - self.x0
        self.h = int(min(camera.height, np.ceil(high[1]))) - self.y0
        self.camera = camera
        self.origin = np.array((self.x0, self.y0), np.float64)
        self.empty = self.w <= 0 or self.h <= 0
        side = max(self.w, self.h)
        self.scale = 4 if side < 110 else 3 if side < 220 else 2
        if not self.empty:
            self.paint = np.zeros((self.h * self.scale, self.w * self.scale, 4), np.uint8)
        self.glows: np.ndarray | None = None

    def _code(self, points_N2: np.ndarray) -> np.ndarray:
        return np.rint((points_N2 - self.origin) * (16.0 * self.scale) - 8.0).astype(np.int32)

    def polygon(self, points_N2: np.ndarray, rgb: Colour, heat: float) -> None:
        """Fill a polygon given in image pixels. The heat code is never 0: it marks what has been painted."""
        if self.empty:
            return
        r, g, b = (255.0 * min(max(float(c), 0.0), 1.0) ** 0.5 for c in rgb)
        cv2.fillPoly(self.paint, [self._code(points_N2)], (r, g, b, max(1.0, 255.0 * min(heat, 1.0))), cv2.LINE_8, 4)

    def face(self, points_N3: np.ndarray, rgb: Colour, heat: float) -> None:
        """Fill a polygon given in the world."""
        if not self.empty:
            self.polygon(self.camera.project(points_N3), rgb, heat)

    def stroke(
        self,
        points_N2: np.ndarray,
        thickness: float,
        rgb: Colour,
        heat: float,
        closed: bool = False,
    ) -> None:
        """Draw a line through image points, `thickness` in image pixels."""
        if self.empty:
            return
        r, g, b = (255.0 * min(max(float(c), 0.0), 1.0) ** 0.5 for c in rgb)
        width = max(1, round(thickness * self.scale))
        colour = (r, g, b, max(1.0, 255.0 * min(heat, 1.0)))
        cv2.polylines(self.paint, [self._code(points_N2)], closed, colour, width, cv2.LINE_8, 4)

    def glow(self, points_N2: np.ndarray, rgb: Colour) -> None:
        """Let a polygon give off light, as radiance (1 is white by day, GLOW the most)."""
        if self.empty:
            return
        if self.glows is None:
            self.glows = np.zeros((*self.paint.shape[:2], 3), np.uint8)
        code = [255.0 * min(max(float(c) / self.GLOW, 0.0), 1.0) ** 0.5 for c in rgb]
        cv2.fillPoly(self.glows, [self._code(points_N2)], code, cv2.LINE_8, 4)

    def paste(
        self,
        frame: Frame,
        distance: float,
        light: np.ndarray,
        owner: int = 0,
        rng: np.random.Generator | None = None,
        texture: float = 0.0,
        opacity: float = 1.0,
    ) -> None:
        """Light the patch by `light` (RGB), give it a surface texture, and lay it over the frame."""
        if self.empty:
            return
        size = (self.w, self.h)
        _, mask = cv2.threshold(cv2.extractChannel(self.paint, 3), 0, 255, cv2.THRESH_BINARY)
        cover = cv2.resize(mask, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        colour = planes(cv2.resize(self.paint, size, interpolation=cv2.INTER_AREA)).astype(np.float32)
        colour *= 1.0 / np.maximum(cover, 1.0)
        rgb = colour[:3]
        rgb *= rgb
        rgb *= np.asarray(light, np.float32)[:, None, None]
        if rng is not None and texture:
            grain = noise_patch(0.7, rng, 96, self.h, self.w)
            rgb *= np.maximum(1.0 + texture * grain, 0.2)
            colour[3] *= 1.0 + 0.18 * texture * cv2.blur(grain, (3, 3))
        if self.glows is not None:
            lights = planes(cv2.resize(self.glows, size, interpolation=cv2.INTER_AREA)).astype(np.float32)
            lights *= 1.0 / np.maximum(cover, 1.0)
            rgb += self.GLOW * lights * lights
        frame.blend(self.y0, self.x0, colour, cover * np.float32(opacity / 255.0), distance, owner)


@cache
def _round(count: int, start: float, stop: float) -> np.ndarray:
    angle = np.linspace(start, stop, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def circle(centre: np.ndarray | tuple[float, float], radius: float, count: int = 16) -> np.ndarray:
    """Return `count` points (count, 2) of a circle in the image plane, in pixels."""
    return np.asarray(centre) + radius * _round(count, 0.0, 2 * np.pi * (1 - 1 / count))


def capsule(a: np.ndarray, ra: float, b: np.ndarray, rb: float) -> np.ndarray:
    """Return the outline (14, 2) of a limb from point a to point b with radii ra and rb, in pixels."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    norm = (dx * dx + dy * dy) ** 0.5 or 1.0
    arc = _round(7, -np.pi / 2, np.pi / 2) @ np.array([(dx, dy), (-dy, dx)]) / norm
    return np.concatenate([b + rb * arc, a - ra * arc])
