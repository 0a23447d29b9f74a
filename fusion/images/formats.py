"""Image formats: told apart by content, opened with limits on size, and their headers read.

Pillow's reader classes are used directly, because Image.open compares the size with a limit that is global, warns
below ours, and that other libraries switch off; the size is compared with MAX_PIXELS here instead.
"""

from __future__ import annotations

import io

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fusion.images.png import MAGIC

__all__ = [
    "EXTENSIONS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "UNREAD",
    "BadImage",
    "damage_reason",
    "detect_format",
    "open_image",
    "read_orientation",
    "read_size",
]

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
UNREAD = frozenset({".gif", ".apng", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".exr", ".hdr", ".psd", ".svg"})
MAX_PIXELS = 12_000 * 9_000
MAX_BYTES = 1 << 30  # of a file; 108 megapixels of 16-bit colour with alpha, not compressed, are 0.86e9
ORIENTATION_TAG = 0x0112  # EXIF

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


def read_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) in pixels after the EXIF rotation, from the header alone. Raises BadImage."""
    name = detect_format(data)
    image = open_image(name, data)
    width, height = image.size
    # Pillow gives the size of a TIFF after its rotation, and of all others before it
    turned = name != "TIFF" and read_orientation(image) >= 5
    return (width, height) if turned else (height, width)


def detect_format(data: bytes) -> str:
    """Return the key of FORMATS whose signature the bytes begin with. Raises BadImage if there is none."""
    if not data:
        raise BadImage("empty file")
    if data.startswith(b"version https://git-lfs"):
        raise BadImage("a Git LFS pointer, not the image itself")
    name = next((name for name, (magics, _) in FORMATS.items() if data.startswith(magics)), "")
    if not name or (name == "WebP" and data[8:12] != b"WEBP"):
        raise BadImage("a GIF, which is not read; save it as PNG" if data.startswith(b"GIF8") else "not an image")
    return name


def open_image(name: str, data: bytes) -> ImageFile:
    """Open bytes of format `name` and read the header, not the pixels. Raises BadImage: damaged, too many pixels."""
    try:
        image = FORMATS[name][1](io.BytesIO(data))
    except Exception as error:  # what a reader raises on arbitrary bytes is not documented
        raise BadImage(damage_reason(name, error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width}x{image.height} is above {MAX_PIXELS // 10**6} megapixels")
    return image


def read_orientation(image: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where it is absent or unreadable."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # what Pillow raises on damaged EXIF data is not documented; it says nothing about the pixels
        return 1
    return int(value) if value in range(1, 9) else 1


def damage_reason(name: str, error: Exception) -> str:
    """Return one line for what a reader of format `name` raised."""
    text = " ".join(str(error).split())
    return f"truncated {name}" if "truncated" in text.lower() else f"damaged {name}: {text or type(error).__name__}"
