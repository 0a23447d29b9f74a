"""PNG chunks: writing with text, reading the text without the pixels, and checking that a file is whole."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

__all__ = ["MAGIC", "encode_png", "iter_chunks", "png_text"]

MAGIC = b"\x89PNG\r\n\x1a\n"


def encode_png(pixels: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """Encode uint8 (H, W) or (H, W, 3) RGB as PNG, with `text` in tEXt or iTXt chunks sorted by keyword.

    The bytes depend on the arguments (and the zlib in use) alone. Raises ValueError for other arrays and for keywords
    that PNG does not allow (1 to 79 Latin-1 characters).
    """
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"a PNG needs uint8 (H, W) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
    info = PngInfo()
    for keyword, value in sorted((text or {}).items()):
        if not 1 <= len(keyword) <= 79 or any(ord(c) > 255 or ord(c) < 32 for c in keyword):
            raise ValueError(f"PNG keyword {keyword!r}: 1 to 79 Latin-1 characters are allowed")
        info.add_text(keyword, value)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def png_text(data: bytes) -> dict[str, str]:
    """Return the text chunks of a PNG, not decoding its pixels; {} if it is not a PNG, and those before any damage."""
    text: dict[str, str] = {}
    try:
        for kind, body in iter_chunks(data):
            if kind in (b"tEXt", b"zTXt", b"iTXt"):
                keyword, _, rest = bytes(body).partition(b"\0")
                text[keyword.decode("latin-1")] = _chunk_text(kind, rest)
    except (ValueError, IndexError, zlib.error):
        return text
    return text


def iter_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (kind, body) of each PNG chunk up to IEND. Raises ValueError: not a PNG, cut short, a wrong checksum."""
    if not data.startswith(MAGIC):
        raise ValueError("not a PNG")
    at = len(MAGIC)
    while True:
        if at + 12 > len(data):
            raise ValueError("truncated PNG")
        (length,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + length > len(data):
            raise ValueError("truncated PNG")
        kind, body = data[at + 4 : at + 8], memoryview(data)[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ValueError(f"damaged PNG: wrong checksum of {kind.decode('latin-1')!r}")
        yield kind, body
        if kind == b"IEND":
            return
        at += 12 + length


def _chunk_text(kind: bytes, rest: bytes) -> str:
    """Return the text of a tEXt, zTXt or iTXt chunk; `rest` is what follows the keyword and its zero byte."""
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflate(rest[1:]).decode("latin-1")
    packed = rest[0] == 1
    _language, _, rest = rest[2:].partition(b"\0")
    _translated, _, body = rest.partition(b"\0")
    return (_inflate(body) if packed else body).decode("utf-8")


def _inflate(data: bytes, limit: int = 1 << 20) -> bytes:
    """Inflate zlib data up to `limit` bytes. Raises zlib.error."""
    return zlib.decompressobj().decompress(data, limit)
