"""Image bytes to arrays and back: png, jpeg, bmp, tiff, webp, ppm and pgm, told apart by content, not by name.

Decoding is strict. OpenCV fills the missing part of a truncated file with grey and says nothing; Pillow raises, and
PNG, JPEG and WebP are also checked here for their own end marks (and PNG for its checksums), so that half an image
never becomes a sample. Whatever is not plain 8-bit grey or RGB is converted, and every conversion is noted.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fusion.png import MAGIC, chunks, encode_png, png_text

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "BadImage",
    "Decoded",
    "decode",
    "decode_depth",
    "encode_png",
    "png_text",
    "size",
]

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
MAX_PIXELS = 12_000 * 9_000
STRETCH = (0.1, 99.9)  # percentiles
ORIENTATION = 0x0112

# Pillow's reader classes are used directly, because Image.open compares the size with a limit that is global, warns
# below ours, and that other libraries switch off; the size is compared with MAX_PIXELS here instead.
FORMATS: dict[str, tuple[tuple[bytes, ...], type[ImageFile]]] = {
    "PNG": ((MAGIC,), PngImageFile),
    "JPEG": ((b"\xff\xd8\xff",), JpegImageFile),
    "BMP": ((b"BM",), BmpImageFile),
    "TIFF": ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    "WebP": ((b"RIFF",), WebPImageFile),
    "PNM": ((b"P5", b"P6", b"P2", b"P3"), PpmImageFile),
}


class BadImage(Exception):
    """Bytes that are no usable image; the text is the reason, such as "truncated JPEG" or "empty file"."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """pixels: uint8, (H, W) grey or (H, W, 3) RGB. notes: each conversion made, in order."""

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def decode(data: bytes) -> Decoded:
    """The image in `data`, upright, as 8-bit grey or RGB. Raises BadImage.

    16-bit (also 32-bit and float) grey is stretched linearly from its 0.1 and 99.9 percentiles to 0..255: thermal
    cameras deliver 14 bits of which a scene fills a few hundred steps, so that dividing by 257 would leave a nearly
    black image of few grey levels, and the extremes are left to single dead or saturated pixels. The stretch is per
    image: 8-bit values of different images are then not the same temperature. 16-bit colour is divided by 257.
    """
    values, notes = _values(data)
    if values.dtype == np.uint8:
        return Decoded(values, tuple(notes))
    if values.ndim == 3:
        notes.append("16-bit colour divided by 257")
        return Decoded(((values.astype(np.uint32) + 128) // 257).astype(np.uint8), tuple(notes))
    pixels, note = _stretch(values)
    return Decoded(pixels, (*notes, note))


def decode_depth(data: bytes) -> np.ndarray:
    """A depth map as float32 (H, W) in [0, 1]: value / largest value of the map, 0 near. Raises BadImage."""
    values, _ = _values(data)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise BadImage("a colour image is no depth map")
        values = values[..., 0]
    depth = values.astype(np.float64)
    if not np.isfinite(depth).all() or depth.min() < 0 or depth.max() <= 0:
        raise BadImage("a depth map must be finite, not negative and not all zero")
    return (depth / depth.max()).astype(np.float32)


def size(data: bytes) -> tuple[int, int]:
    """(height, width) after the EXIF rotation, from the header alone. Raises BadImage."""
    name = _format(data)
    image = _open(name, data)
    width, height = image.size
    # Pillow gives the size of a TIFF after its rotation, and of all others before it
    turned = name != "TIFF" and _orientation(image) >= 5
    return (width, height) if turned else (height, width)


def _format(data: bytes) -> str:
    """The format by its signature."""
    if not data:
        raise BadImage("empty file")
    if data.startswith(b"version https://git-lfs"):
        raise BadImage("a Git LFS pointer, not the image itself")
    name = next((name for name, (magics, _) in FORMATS.items() if data.startswith(magics)), "")
    if not name or (name == "WebP" and data[8:12] != b"WEBP"):
        raise BadImage("not an image")
    return name


def _open(name: str, data: bytes) -> ImageFile:
    """The image with its header read."""
    try:
        image = FORMATS[name][1](io.BytesIO(data))
    except Exception as error:  # what a reader raises on arbitrary bytes is not documented
        raise BadImage(_reason(name, error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width}x{image.height} is above {MAX_PIXELS // 10**6} megapixels")
    return image


def _values(data: bytes) -> tuple[np.ndarray, list[str]]:
    """Upright values before the reduction to 8 bits: uint8 grey or RGB, uint16 RGB, or grey of any number type."""
    name = _format(data)
    _check_whole(name, data)
    image = _open(name, data)
    notes: list[str] = []
    frames = getattr(image, "n_frames", 1)
    orientation = _orientation(image)
    mode = image.mode
    deep_colour = _is_deep_colour(name, image, data)
    try:
        image.load()  # strict for what is truncated, also where OpenCV gives the values
        if deep_colour:
            values = _deep_colour(data, notes)
        elif mode in ("L", "RGB") or mode[0] in "IF":
            values = np.array(image)
            if name == "PNM" and values.dtype == np.int32:
                values = values.astype(np.uint16)  # Pillow widens what the format limits to 16 bits
        else:
            values = _convert(image, mode, notes)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(_reason(name, error)) from error
    if frames > 1:
        notes.append(f"first of {frames} frames")
    if orientation != 1:
        notes.append("EXIF rotation applied")
        if name != "TIFF":  # both readers turn a TIFF while loading
            values = _turn(values, orientation)
    return np.ascontiguousarray(values), notes


def _convert(image: ImageFile, mode: str, notes: list[str]) -> np.ndarray:
    """8-bit modes other than L and RGB."""
    if mode in ("LA", "La", "1"):
        notes.append("1 bit to grey" if mode == "1" else "alpha dropped")
        return np.array(image.convert("L"))
    if mode in ("RGBA", "RGBa", "RGBX"):
        notes.append("alpha dropped")
    else:
        notes.append({"P": "palette to RGB", "PA": "palette to RGB"}.get(mode, f"{mode} to RGB"))
        if mode == "PA" or "transparency" in image.info:
            notes.append("alpha dropped")
            return np.array(image.convert("RGBA"))[..., :3]  # a plain "RGB" would warn
    return np.array(image.convert("RGB"))


def _is_deep_colour(name: str, image: ImageFile, data: bytes) -> bool:
    """Is it 16-bit colour (or grey with alpha), which Pillow would cut to its high bytes?"""
    if name == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)
    return name == "TIFF" and image.mode[:3] == "RGB" and max(image.tag_v2.get(258, (8,))) == 16


def _deep_colour(data: bytes, notes: list[str]) -> np.ndarray:
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise BadImage("16-bit image that cannot be read")
    if values.ndim == 3 and values.shape[2] in (2, 4):
        notes.append("alpha dropped")
    if values.ndim == 2 or values.shape[2] < 3:
        return values.reshape(*values.shape[:2], -1)[..., 0]
    if data[:8] == MAGIC and data[25] == 4:  # grey with alpha comes as B, G, R, A
        return values[..., 0]
    return values[..., 2::-1]


def _stretch(values: np.ndarray) -> tuple[np.ndarray, str]:
    kind = "float" if values.dtype.kind == "f" else f"{16 if values.dtype.itemsize == 2 else 32}-bit"
    if not np.isfinite(values).all():
        raise BadImage("not a number among the pixel values")
    low, high = np.percentile(values, STRETCH, method="nearest")
    if low == high:  # a few bright pixels in a flat image
        low, high = values.min(), values.max()
    if low == high:
        return np.zeros(values.shape, np.uint8), f"{kind}, constant {low:g}, set to 0"
    scaled = (values.astype(np.float64) - float(low)) * (255.0 / (float(high) - float(low)))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8), f"{kind}, {low:g}..{high:g} stretched to 8 bits"


def _orientation(image: ImageFile) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data says nothing about the pixels
        return 1
    return value if value in range(1, 9) else 1


def _turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation: 5 to 8 are transposed; then mirrored left-right (2 3 6 7) and upside down (3 4 7 8)."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if orientation in (3, 4, 7, 8) else values


def _check_whole(name: str, data: bytes) -> None:
    if name == "PNG":
        try:
            kinds = {kind for kind, _ in chunks(data)}
        except ValueError as error:
            raise BadImage(str(error)) from error
        if b"IDAT" not in kinds:
            raise BadImage("damaged PNG: no pixels")
    elif name == "JPEG":
        if data.find(b"\xff\xd9", _first_scan(data)) < 0:
            raise BadImage("truncated JPEG")
    elif name == "WebP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise BadImage("truncated WebP")


def _first_scan(data: bytes) -> int:
    """Where the pixel data of a JPEG begins, after its segments (an EXIF thumbnail has an end mark of its own)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def _reason(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"truncated {name}" if "truncated" in text.lower() else f"damaged {name}: {text or type(error).__name__}"
