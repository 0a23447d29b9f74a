"""Image bytes to arrays: png, jpeg, bmp, tiff, webp, ppm and pgm, told apart by content, not by name.

Decoding is strict. OpenCV fills the missing part of a truncated file with grey and says nothing; Pillow raises, and
files are also checked for their own end (see `integrity`), so that half an image never becomes a sample. Whatever is
not plain 8-bit grey or RGB is converted, and every conversion is noted; what can be converted only by a guess (which
frame, what colour under the alpha) is an ambiguity, for which pairs are refused.

Work on more than 8 bits goes in strips of rows, so that a large image does not take many times its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from fusion.images.formats import BadImage, damage_reason, detect_format, open_image, read_orientation
from fusion.images.integrity import check_jpeg_rate, check_tiff_parts, check_whole
from fusion.images.png import MAGIC

__all__ = ["Decoded", "decode", "decode_depth"]

STRIP = 1 << 20  # values worked on at a time
STRETCH = (0.1, 99.9)  # percentiles
TIFF_BITS = 258  # tag: bits per sample

AMBIGUITIES = {  # by note
    "alpha dropped": "an alpha channel (transparency); save the image without one",
    "1 bit to grey": "1 bit a pixel: a mask, not a picture",
}


@dataclass(frozen=True, eq=False)
class Decoded:
    """pixels: uint8, (H, W) grey or (H, W, 3) RGB. notes: each conversion made, in order.

    ambiguities: why the pixels may not be what was meant; in plain words.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()
    ambiguities: tuple[str, ...] = ()


class _RawImage(NamedTuple):
    """Upright values before the reduction to 8 bits: uint8 grey or RGB, uint16 RGB, or grey of another type."""

    values: np.ndarray
    notes: list[str]
    ambiguities: list[str]


def decode(data: bytes) -> Decoded:
    """Decode an image file, upright, to 8-bit grey (H, W) or RGB (H, W, 3). Raises BadImage.

    16-bit (also 32-bit and float) grey is stretched linearly from its 0.1 and 99.9 percentiles to 0..255: thermal
    cameras deliver 14 bits of which a scene fills a few hundred steps, so that dividing by 257 would leave a nearly
    black image of few grey levels, and the extremes are left to single dead or saturated pixels. The stretch is per
    image: 8-bit values of different images are then not the same temperature. 16-bit colour is divided by 257.
    """
    values, notes, ambiguities = _read_values(data)
    if values.dtype == np.uint8:
        return Decoded(values, tuple(notes), tuple(ambiguities))
    if values.ndim == 3:
        notes.append("16-bit colour divided by 257")
        pixels = _apply_in_strips(values, lambda rows: (rows + np.uint32(128)) // 257)
        return Decoded(pixels, tuple(notes), tuple(ambiguities))
    pixels, note = _stretch(values)
    return Decoded(pixels, (*notes, note), tuple(ambiguities))


def decode_depth(data: bytes) -> np.ndarray:
    """Decode a depth map to float32 (H, W) in [0, 1], 0 near: value / largest value of the map.

    Raises BadImage: no usable image, more than one frame, alpha, colour, values that are negative, not finite or all 0.
    """
    values, _, ambiguities = _read_values(data)
    if ambiguities:
        raise BadImage(ambiguities[0])
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise BadImage("a colour image is no depth map")
        values = values[..., 0]
    if not np.isfinite(values).all() or values.min() < 0 or values.max() <= 0:
        raise BadImage("a depth map must be finite, not negative and not all zero")
    largest = float(values.max())
    return _apply_in_strips(values, lambda rows: rows.astype(np.float64) / largest, np.float32)


def _read_values(data: bytes) -> _RawImage:
    """Check and load an image file. Raises BadImage."""
    name = detect_format(data)
    ambiguities = check_whole(name, data)
    image = open_image(name, data)
    notes: list[str] = []
    try:
        frames, orientation = getattr(image, "n_frames", 1), read_orientation(image)
        if isinstance(image, TiffImageFile):
            check_tiff_parts(image)
        if name == "JPEG":
            check_jpeg_rate(image.width * image.height, data)
        image.load()  # strict for what is truncated, also where OpenCV gives the values
        if _is_deep_colour(name, image, data):
            del image  # its pixels, before others are made
            values = _load_deep_colour(data, notes)
        elif image.mode in ("L", "RGB") or image.mode[0] in "IF":
            values = np.array(image)
            if name == "PNM" and values.dtype == np.int32:
                values = values.astype(np.uint16)  # Pillow widens what the format limits to 16 bits
        else:
            values = _convert_mode(image, notes)
    except BadImage:
        raise
    except Exception as error:  # what the readers raise on arbitrary bytes is not documented
        raise BadImage(damage_reason(name, error)) from error
    ambiguities += [ambiguity for note, ambiguity in AMBIGUITIES.items() if note in notes]
    if frames > 1:
        notes.append(f"first of {frames} frames")
        ambiguities.append(f"{frames} frames in one file; save the one that is meant")
    if orientation != 1:
        notes.append("EXIF rotation applied")
        if name != "TIFF":  # both readers turn a TIFF while loading
            values = _undo_orientation(values, orientation)
    return _RawImage(np.ascontiguousarray(values) if values.dtype == np.uint8 else values, notes, ambiguities)


def _convert_mode(image: ImageFile, notes: list[str]) -> np.ndarray:
    """Convert 8-bit modes other than L and RGB to uint8 (H, W) or (H, W, 3); adds to `notes`."""
    mode = image.mode
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
    """Whether this is 16-bit colour (or grey with alpha), which Pillow would cut to its high bytes."""
    if name == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)
    return isinstance(image, TiffImageFile) and image.mode[:3] == "RGB" and max(image.tag_v2.get(TIFF_BITS, (8,))) == 16


def _load_deep_colour(data: bytes, notes: list[str]) -> np.ndarray:
    """Load 16-bit colour or grey with alpha as uint16 (H, W, 3) RGB or (H, W); adds to `notes`. Raises BadImage."""
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


def _stretch(values_HW: np.ndarray) -> tuple[np.ndarray, str]:
    """Stretch grey values from the percentiles of STRETCH to uint8 0..255, and describe it for a note."""
    kind = "float" if values_HW.dtype.kind == "f" else f"{16 if values_HW.dtype.itemsize == 2 else 32}-bit"
    if not np.isfinite(values_HW).all():
        raise BadImage("not a number among the pixel values")
    low, high = np.percentile(values_HW, STRETCH, method="nearest")
    if low == high:  # a few bright pixels in a flat image
        low, high = values_HW.min(), values_HW.max()
    if low == high:
        return np.zeros(values_HW.shape, np.uint8), f"{kind}, constant {low:g}, set to 0"
    low, high = float(low), float(high)

    def stretch_rows(rows: np.ndarray) -> np.ndarray:
        return np.clip(np.rint((rows.astype(np.float64) - low) * (255.0 / (high - low))), 0, 255)

    return _apply_in_strips(values_HW, stretch_rows), f"{kind}, {low:g}..{high:g} stretched to 8 bits"


def _apply_in_strips(
    values: np.ndarray, function: Callable[[np.ndarray], np.ndarray], dtype: type[np.generic] = np.uint8
) -> np.ndarray:
    """Return `function` of `values` as `dtype`, worked out a strip of rows at a time."""
    result = np.empty(values.shape, dtype)
    step = max(1, STRIP // max(1, values[0].size))
    for top in range(0, len(values), step):
        result[top : top + step] = function(values[top : top + step])
    return result


def _undo_orientation(values: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation: 5 to 8 are transposed; then mirrored left-right (2 3 6 7) and upside down (3 4 7 8)."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if orientation in (3, 4, 7, 8) else values
