"""Image bytes to arrays and back: png, jpeg, bmp, tiff, webp, ppm and pgm, told apart by content, not by name.

Decoding is strict. OpenCV fills the missing part of a truncated file with grey and says nothing; Pillow raises, and
PNG, JPEG and WebP are also checked here for their own end marks (and PNG for its checksums), so that half an image
never becomes a sample. Whatever is not plain 8-bit grey or RGB is converted, and every conversion is noted; what can
be converted only by a guess (which frame, what colour under the alpha) is an ambiguity, for which pairs are refused.

Work on more than 8 bits goes in strips of rows, so that a large image does not take many times its size.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
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

from fusion.images.png import MAGIC, chunks, encode_png, png_text

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "BadImage",
    "Decoded",
    "decode",
    "decode_depth",
    "encode_png",
    "png_text",
    "read_size",
]

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
UNREAD = frozenset({".gif", ".apng", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".exr", ".hdr", ".psd", ".svg"})
MAX_PIXELS = 12_000 * 9_000
MAX_BYTES = 1 << 30  # of a file; 108 megapixels of 16-bit colour with alpha, not compressed, are 0.86e9
MAX_SCANS = 100  # of a JPEG; every scan is a pass over the whole image, and progressive files have about ten
PIXELS_PER_BYTE = 512  # of a JPEG at most: one bit for each block of 8 x 8 pixels
STRIP = 1 << 20  # values worked on at a time
STRETCH = (0.1, 99.9)  # percentiles
ORIENTATION = 0x0112
PADDING = b"\0\xff\t\r\n "  # what cameras and copying tools fill up with after the end
MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)  # of a JPEG, other than stuffing and restarts

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


AMBIGUITIES = {  # by note
    "alpha dropped": "an alpha channel (transparency); save the image without one",
    "1 bit to grey": "1 bit a pixel: a mask, not a picture",
}


class BadImage(Exception):
    """Bytes that are no usable image; the text is the reason, such as "truncated JPEG" or "empty file"."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """pixels: uint8, (H, W) grey or (H, W, 3) RGB. notes: each conversion made, in order.

    ambiguities: why the pixels may not be what was meant; in plain words.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()
    ambiguities: tuple[str, ...] = ()


def decode(data: bytes) -> Decoded:
    """The image in `data`, upright, as 8-bit grey or RGB. Raises BadImage.

    16-bit (also 32-bit and float) grey is stretched linearly from its 0.1 and 99.9 percentiles to 0..255: thermal
    cameras deliver 14 bits of which a scene fills a few hundred steps, so that dividing by 257 would leave a nearly
    black image of few grey levels, and the extremes are left to single dead or saturated pixels. The stretch is per
    image: 8-bit values of different images are then not the same temperature. 16-bit colour is divided by 257.
    """
    values, notes, ambiguities = _values(data)
    if values.dtype == np.uint8:
        return Decoded(values, tuple(notes), tuple(ambiguities))
    if values.ndim == 3:
        notes.append("16-bit colour divided by 257")
        return Decoded(_by_rows(values, lambda rows: (rows + np.uint32(128)) // 257), tuple(notes), tuple(ambiguities))
    pixels, note = _stretch(values)
    return Decoded(pixels, (*notes, note), tuple(ambiguities))


def decode_depth(data: bytes) -> np.ndarray:
    """A depth map as float32 (H, W) in [0, 1]: value / largest value of the map, 0 near. Raises BadImage."""
    values, _, ambiguities = _values(data)
    if ambiguities:
        raise BadImage(ambiguities[0])
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise BadImage("a colour image is no depth map")
        values = values[..., 0]
    if not np.isfinite(values).all() or values.min() < 0 or values.max() <= 0:
        raise BadImage("a depth map must be finite, not negative and not all zero")
    largest = float(values.max())
    return _by_rows(values, lambda rows: rows.astype(np.float64) / largest, np.float32)


def read_size(data: bytes) -> tuple[int, int]:
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
        raise BadImage("a GIF, which is not read; save it as PNG" if data.startswith(b"GIF8") else "not an image")
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


def _values(data: bytes) -> tuple[np.ndarray, list[str], list[str]]:
    """Upright values before the reduction to 8 bits, notes, ambiguities; uint8 grey or RGB, uint16 RGB, deep grey."""
    name = _format(data)
    ambiguities = _check_whole(name, data)
    image = _open(name, data)
    notes: list[str] = []
    try:
        frames, orientation = getattr(image, "n_frames", 1), _orientation(image)
        if name == "TIFF":
            _check_parts(image)
        if name == "JPEG" and image.width * image.height > len(data) * PIXELS_PER_BYTE:
            raise BadImage("truncated JPEG")  # libjpeg would fill up with grey
        image.load()  # strict for what is truncated, also where OpenCV gives the values
        if _is_deep_colour(name, image, data):
            del image
            values = _deep_colour(data, notes)
        elif image.mode in ("L", "RGB") or image.mode[0] in "IF":
            values = np.array(image)
            if name == "PNM" and values.dtype == np.int32:
                values = values.astype(np.uint16)  # Pillow widens what the format limits to 16 bits
        else:
            values = _convert(image, image.mode, notes)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(_reason(name, error)) from error
    ambiguities += [ambiguity for note, ambiguity in AMBIGUITIES.items() if note in notes]
    if frames > 1:
        notes.append(f"first of {frames} frames")
        ambiguities.append(f"{frames} frames in one file; save the one that is meant")
    if orientation != 1:
        notes.append("EXIF rotation applied")
        if name != "TIFF":  # both readers turn a TIFF while loading
            values = _turn(values, orientation)
    return np.ascontiguousarray(values) if values.dtype == np.uint8 else values, notes, ambiguities


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
    low, high = float(low), float(high)

    def scaled(rows: np.ndarray) -> np.ndarray:
        return np.clip(np.rint((rows.astype(np.float64) - low) * (255.0 / (high - low))), 0, 255)

    return _by_rows(values, scaled), f"{kind}, {low:g}..{high:g} stretched to 8 bits"


def _by_rows(
    values: np.ndarray, function: Callable[[np.ndarray], np.ndarray], dtype: type[np.generic] = np.uint8
) -> np.ndarray:
    """`function` of `values`, a strip of rows at a time."""
    done = np.empty(values.shape, dtype)
    step = max(1, STRIP // max(1, values[0].size))
    for top in range(0, len(values), step):
        done[top : top + step] = function(values[top : top + step])
    return done


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


def _check_whole(name: str, data: bytes) -> list[str]:
    """Refuse a file that breaks off before its own end; note one that goes on after it."""
    end = len(data)
    if name == "PNG":
        kinds, end = set(), len(MAGIC)
        try:
            for kind, body in chunks(data):
                kinds.add(kind)
                end += 12 + len(body)
        except ValueError as error:
            raise BadImage(str(error)) from error
        if b"IDAT" not in kinds:
            raise BadImage("damaged PNG: no pixels")
    elif name == "JPEG":
        end = _jpeg_end(data)
    elif name == "WebP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise BadImage("truncated WebP")
    rest = data[end:]
    if not rest.strip(PADDING):
        return []
    return [f"{len(rest)} bytes after the end of the {name}; save the image anew"]


def _check_parts(image: ImageFile) -> None:
    """Refuse a TIFF that has fewer strips or tiles than its size needs: Pillow leaves what is missing black."""
    tags = image.tag_v2
    width, height = int(tags[256]), int(tags[257])
    planes = int(tags.get(277, 1)) if tags.get(284) == 2 else 1
    if 324 in tags:
        offsets, needed = tags[324], -(-width // int(tags[322])) * -(-height // int(tags[323])) * planes
    else:
        offsets, needed = tags[273], -(-height // int(tags.get(278, height))) * planes
    if len(offsets) < needed:
        raise BadImage("truncated TIFF")


def _jpeg_end(data: bytes) -> int:
    """Where a JPEG ends, after its end mark. Segments are skipped by their length: a thumbnail has an end mark too."""
    at, scans = 2, 0
    while mark := MARKER.search(data, at):
        at = mark.end()
        kind = data[at - 1]
        if kind == 0xD9:
            return at
        if kind not in (0x01, 0xD8):
            at += int.from_bytes(data[at : at + 2], "big")
            scans += kind == 0xDA
        if scans > MAX_SCANS:
            raise BadImage(f"damaged JPEG: more than {MAX_SCANS} scans")
    raise BadImage("truncated JPEG")


def _reason(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"truncated {name}" if "truncated" in text.lower() else f"damaged {name}: {text or type(error).__name__}"
