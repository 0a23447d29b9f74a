"""Checks that an image file is whole, which its decoder may not make.

Pillow raises for most truncated files, libjpeg and libtiff fill up what is missing; here PNG, JPEG and WebP are checked
for their own end marks (PNG also for its checksums) and TIFF for the number of its strips or tiles.
"""

from __future__ import annotations

import re

from PIL.TiffImagePlugin import TiffImageFile

from fusion.images.formats import BadImage
from fusion.images.png import MAGIC, iter_chunks

__all__ = ["check_jpeg_rate", "check_tiff_parts", "check_whole"]

MAX_SCANS = 100  # of a JPEG; every scan is a pass over the whole image, and progressive files have about ten
PIXELS_PER_BYTE = 512  # of a JPEG at most: one bit for each block of 8 x 8 pixels
PADDING = b"\0\xff\t\r\n "  # what cameras and copying tools fill up with after the end
JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)  # other than stuffing and restarts
JPEG_END, JPEG_SCAN, JPEG_NO_LENGTH = 0xD9, 0xDA, (0x01, 0xD8)

TIFF_WIDTH, TIFF_HEIGHT, TIFF_PLANAR = 256, 257, 284
TIFF_SAMPLES, TIFF_STRIPS, TIFF_ROWS_PER_STRIP = 277, 273, 278
TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT, TIFF_TILES = 322, 323, 324


def check_whole(name: str, data: bytes) -> list[str]:
    """Refuse a file of format `name` that breaks off before its own end.

    Returns the ambiguities: one line if data other than padding follows the end. Raises BadImage.
    """
    end = len(data)
    if name == "PNG":
        kinds, end = set(), len(MAGIC)
        try:
            for kind, body in iter_chunks(data):
                kinds.add(kind)
                end += 12 + len(body)
        except ValueError as error:
            raise BadImage(str(error)) from error
        if b"IDAT" not in kinds:
            raise BadImage("damaged PNG: no pixels")
    elif name == "JPEG":
        end = _find_jpeg_end(data)
    elif name == "WebP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise BadImage("truncated WebP")
    rest = data[end:]
    if not rest.strip(PADDING):
        return []
    return [f"{len(rest)} bytes after the end of the {name}; save the image anew"]


def check_jpeg_rate(pixels: int, data: bytes) -> None:
    """Refuse a JPEG with more pixels than its bytes can hold: libjpeg would fill up with grey. Raises BadImage."""
    if pixels > len(data) * PIXELS_PER_BYTE:
        raise BadImage("truncated JPEG")


def check_tiff_parts(image: TiffImageFile) -> None:
    """Refuse a TIFF that has fewer strips or tiles than its size needs: Pillow leaves what is missing black.

    Raises BadImage for those, and what is not documented where the tags are damaged.
    """
    tags = image.tag_v2
    width, height = int(tags[TIFF_WIDTH]), int(tags[TIFF_HEIGHT])
    planes = int(tags.get(TIFF_SAMPLES, 1)) if tags.get(TIFF_PLANAR) == 2 else 1
    if TIFF_TILES in tags:
        offsets = tags[TIFF_TILES]
        needed = -(-width // int(tags[TIFF_TILE_WIDTH])) * -(-height // int(tags[TIFF_TILE_HEIGHT])) * planes
    else:
        offsets, needed = tags[TIFF_STRIPS], -(-height // int(tags.get(TIFF_ROWS_PER_STRIP, height))) * planes
    if len(offsets) < needed:
        raise BadImage("truncated TIFF")


def _find_jpeg_end(data: bytes) -> int:
    """Return where a JPEG ends, after its end mark. Raises BadImage: no end mark, too many scans.

    Segments are skipped by their length: a thumbnail has an end mark too.
    """
    at, scans = 2, 0
    while mark := JPEG_MARKER.search(data, at):
        at = mark.end()
        kind = data[at - 1]
        if kind == JPEG_END:
            return at
        if kind not in JPEG_NO_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
            scans += kind == JPEG_SCAN
        if scans > MAX_SCANS:
            raise BadImage(f"damaged JPEG: more than {MAX_SCANS} scans")
    raise BadImage("truncated JPEG")
