"""Decoding: what is exact, what is converted and noted, and what is refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from fusion.images.decode import decode, decode_depth
from fusion.images.formats import MAX_PIXELS, BadImage, read_size
from fusion.images.png import encode_png, png_text

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
SMOOTH = cv2.GaussianBlur(COLOUR, (0, 0), 6)
THERMAL = RNG.integers(2900, 4100, (40, 50), dtype=np.uint16)


def encode(pixels: np.ndarray | Image.Image, form: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("pixels", [COLOUR, COLOUR[..., 0]], ids=["colour", "grey"])
def test_lossless_formats_are_exact_and_without_notes(form, pixels):
    image = decode(encode(pixels, form))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.notes == ()
    assert image.pixels.dtype == np.uint8
    assert read_size(encode(pixels, form)) == pixels.shape[:2]


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(form):
    image = decode(encode(SMOOTH, form, quality=95))
    assert image.pixels.shape == SMOOTH.shape
    assert np.abs(image.pixels.astype(int) - SMOOTH).mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning", "ignore:Truncated File:UserWarning")
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {}),
        ("PPM", {}),
    ],
)
def test_every_cut_of_a_file_is_refused(form, options):
    data = encode(SMOOTH[:12, :16], form, **options)
    decode(data)
    for length in range(len(data)):
        with pytest.raises(BadImage):
            decode(data[:length])


def test_a_cut_is_refused_where_other_code_lets_pillow_pass_it(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for form in ("PNG", "JPEG", "WEBP"):
        data = encode(COLOUR, form)
        with pytest.raises(BadImage, match="truncated"):
            decode(data[: len(data) * 2 // 3])


def test_the_end_mark_of_an_exif_thumbnail_does_not_hide_a_cut(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    exif = Image.Exif()
    exif[0x9286] = encode(COLOUR[:8, :8], "JPEG")  # a whole JPEG inside a segment
    data = encode(COLOUR, "JPEG", exif=exif)
    assert data.count(b"\xff\xd9") == 2
    decode(data)
    with pytest.raises(BadImage, match="truncated JPEG"):
        decode(data[:-40])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"this is no picture\n", "not an image"),
        (b"<!DOCTYPE html><html></html>", "not an image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"BM", "BMP"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)
    with pytest.raises(BadImage):
        read_size(data)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
def test_a_tiff_that_claims_more_rows_than_it_has_is_refused(options):
    data = encode(COLOUR, "TIFF", **options)
    tag = struct.pack("<HHI", 257, 4, 1) + struct.pack("<I", 40)
    if tag not in data:
        tag = struct.pack("<HHI", 257, 3, 1) + struct.pack("<HH", 40, 0)
    assert data.count(tag) == 1
    for rows in (41, 4000):
        changed = data.replace(tag, tag[:8] + struct.pack("<I", rows))
        with pytest.raises(BadImage, match="TIFF"):
            decode(changed)


def test_a_jpeg_that_claims_far_more_than_it_can_hold_is_refused():
    data = encode(COLOUR, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    with pytest.raises(BadImage, match="truncated JPEG"):
        decode(data[:at] + struct.pack(">HH", 9_000, 12_000) + data[at + 4 :])
    flat = np.zeros((2000, 3000), np.uint8)  # nothing compresses better
    assert decode(encode(flat, "JPEG", optimize=True, quality=1)).pixels.shape == flat.shape
    assert decode(encode(flat, "JPEG", progressive=True, quality=1)).pixels.shape == flat.shape


def test_tiffs_of_any_number_of_strips_are_whole():
    frames = [encode(COLOUR, "TIFF", compression="tiff_lzw", strip_size=size) for size in (180, 1000, 10**6)]
    for data in frames:
        np.testing.assert_array_equal(decode(data).pixels, COLOUR)


@pytest.mark.parametrize(
    ("data", "ambiguity"),
    [
        (encode(np.dstack([COLOUR, COLOUR[..., 0]]), "PNG"), "an alpha channel"),
        (encode(Image.fromarray(COLOUR).convert("1"), "PNG"), "1 bit a pixel"),
        (encode(COLOUR, "JPEG") + b"more", "4 bytes after the end of the JPEG"),
        (encode(COLOUR, "PNG") + b"more", "4 bytes after the end of the PNG"),
        (encode(COLOUR, "TIFF", save_all=True, append_images=[Image.fromarray(COLOUR)]), "2 frames"),
    ],
)
def test_ambiguities(data, ambiguity):
    (found,) = decode(data).ambiguities
    assert found.startswith(ambiguity)
    with pytest.raises(BadImage, match=ambiguity):
        decode_depth(data)


def test_an_end_mark_inside_a_jpeg_segment_is_not_its_end():
    data = encode(COLOUR, "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", 6) + b"\xff\xd9\xff\xd9"
    image = decode(data[:scan] + comment + data[scan:])
    assert image.ambiguities == ()
    np.testing.assert_array_equal(image.pixels, decode(data).pixels)
    with pytest.raises(BadImage, match="truncated JPEG"):
        decode(data[:scan] + comment)


def test_a_changed_byte_in_a_png_is_refused():
    data = bytearray(encode(COLOUR, "PNG"))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(BadImage, match="checksum of 'IDAT'"):
        decode(bytes(data))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning", "ignore:Truncated File:UserWarning")
def test_random_bytes_after_a_signature_raise_nothing_but_bad_image():
    rng = np.random.default_rng(1)
    for magic in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"II*\0\x08\0\0\0", b"RIFF\x20\0\0\0WEBP", b"P6 "):
        for _ in range(30):
            with pytest.raises(BadImage):
                decode(magic + rng.bytes(60))


def test_the_pixel_limit_is_108_million_without_warnings():
    assert MAX_PIXELS == 108_000_000
    header = raw_png(12_000, 9_000, 8, 0, b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_size(header) == (9_000, 12_000)
    with pytest.raises(BadImage, match="12000x9001 is above 108 megapixels"):
        decode(raw_png(12_000, 9_001, 8, 0, b""))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_stretched_from_its_percentiles(form):
    image = decode(encode(THERMAL, form))
    low, high = np.percentile(THERMAL, [0.1, 99.9], method="nearest")
    expected = np.clip(np.rint((THERMAL.astype(float) - low) / (int(high) - int(low)) * 255), 0, 255)
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.notes == (f"16-bit, {low}..{high} stretched to 8 bits",)


def test_16_bit_grey_keeps_the_low_bits():
    ramp = np.arange(3000, 3200, dtype=np.uint16).reshape(10, 20)  # one value of the high byte, nearly
    assert len(np.unique(decode(encode(ramp, "PNG")).pixels)) > 190


def test_16_bit_grey_with_one_hot_pixel_and_a_constant_one():
    flat = np.full((64, 64), 3000, np.uint16)
    assert decode(encode(flat, "PNG")).pixels.max() == 0
    flat[3, 4] = 60000
    image = decode(encode(flat, "PNG"))
    assert image.pixels[3, 4] == 255
    assert image.pixels.sum() == 255


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_float_and_32_bit_tiff_are_stretched(dtype):
    image = decode(encode(THERMAL.astype(dtype), "TIFF"))
    np.testing.assert_array_equal(image.pixels, decode(encode(THERMAL, "PNG")).pixels)
    assert image.notes[0].startswith("float, " if dtype is np.float32 else "32-bit, ")


def test_a_float_tiff_with_nan_is_refused():
    values = THERMAL.astype(np.float32)
    values[0, 0] = np.nan
    with pytest.raises(BadImage, match="not a number"):
        decode(encode(values, "TIFF"))


@pytest.mark.parametrize(("form", "channels"), [(".png", 3), (".png", 4), (".tiff", 3)])
def test_16_bit_colour_is_divided_by_257_with_rounding(form, channels):
    values = np.random.default_rng(2).integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    _, buffer = cv2.imencode(form, values)
    image = decode(buffer.tobytes())
    np.testing.assert_array_equal(image.pixels, np.floor(values[..., 2::-1] / 257 + 0.5))
    assert image.notes[-1] == "16-bit colour divided by 257"
    assert ("alpha dropped" in image.notes) == (channels == 4)


def test_16_bit_grey_with_alpha_is_grey():
    values = np.zeros((5, 7, 2), ">u2")
    values[..., 0] = np.arange(35).reshape(5, 7) + 3000
    image = decode(raw_png(7, 5, 16, 4, b"".join(b"\0" + row.tobytes() for row in values)))
    assert image.pixels.shape == (5, 7)
    assert (image.pixels[0, 0], image.pixels[-1, -1]) == (0, 255)
    assert image.notes[0] == "alpha dropped"


@pytest.mark.parametrize(
    ("mode", "form", "note"),
    [
        ("CMYK", "JPEG", "CMYK to RGB"),
        ("P", "PNG", "palette to RGB"),
        ("RGBA", "PNG", "alpha dropped"),
        ("LA", "PNG", "alpha dropped"),
        ("1", "PNG", "1 bit to grey"),
    ],
)
def test_other_modes_are_converted_and_noted(mode, form, note):
    picture = Image.fromarray(SMOOTH).convert(mode)
    image = decode(encode(picture, form))
    expected = np.array(picture.convert("L" if mode in ("LA", "1") else "RGB"))
    assert image.notes == (note,)
    assert np.abs(image.pixels.astype(int) - expected).mean() < 3


def test_a_palette_with_transparency_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(encode(Image.fromarray(SMOOTH).convert("P"), "PNG", transparency=b"\x80" * 20))
    assert image.notes == ("palette to RGB", "alpha dropped")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(COLOUR, form, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    image = decode(data)
    np.testing.assert_array_equal(image.pixels, expected)
    assert read_size(data) == expected.shape[:2] == ((60, 40) if orientation >= 5 else (40, 60))
    assert image.notes == (("EXIF rotation applied",) if orientation > 1 else ())


def test_orientation_6_puts_the_first_row_at_the_right():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must turn 90 degrees clockwise
    image = decode(encode(COLOUR, "PNG", exif=exif))
    np.testing.assert_array_equal(image.pixels, np.rot90(COLOUR, -1))


def test_more_than_one_frame_is_noted():
    frames = [Image.fromarray(COLOUR[..., i]) for i in range(3)]
    image = decode(encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(image.pixels, COLOUR[..., 0])
    assert image.notes == ("first of 3 frames",)


def test_png_bytes_depend_on_pixels_and_text_alone():
    text = {"b": "é", "a": "夜\n2", "model": "x" * 2000}
    first = encode_png(COLOUR, text)
    assert first == encode_png(COLOUR.copy(), dict(reversed(text.items())))
    assert first != encode_png(COLOUR, {**text, "b": "e"})
    assert png_text(first) == text
    np.testing.assert_array_equal(decode(first).pixels, COLOUR)
    np.testing.assert_array_equal(decode(encode_png(COLOUR[::2, ::-1, 1])).pixels, COLOUR[::2, ::-1, 1])
    assert decode(encode_png(COLOUR)).notes == ()


@pytest.mark.parametrize("pixels", [COLOUR.astype(float), COLOUR[..., :2], COLOUR[0, 0], THERMAL])
def test_encode_png_refuses_other_arrays(pixels):
    with pytest.raises(ValueError, match="uint8"):
        encode_png(pixels)


@pytest.mark.parametrize("keyword", ["", "k" * 80, "中", "a\nb"])
def test_encode_png_refuses_bad_keywords(keyword):
    with pytest.raises(ValueError, match="keyword"):
        encode_png(COLOUR, {keyword: "x"})


def test_png_text_reads_what_pillow_writes_and_needs_no_pixels():
    data = encode_png(COLOUR, {"k": "v"})
    assert png_text(data[: len(data) // 2]) == {"k": "v"}
    assert png_text(encode(COLOUR, "JPEG")) == {}
    assert png_text(b"") == {}
    packed = png_chunk(b"zTXt", b"z\0\0" + zlib.compress(b"deep"))
    packed += png_chunk(b"iTXt", b"i\0\1\0en\0\0" + zlib.compress("夜".encode()))
    assert png_text(data[:33] + packed + data[33:]) == {"z": "deep", "i": "夜", "k": "v"}
    assert png_text(data[:33] + png_chunk(b"zTXt", b"z\0\0nonsense") + data[33:]) == {}


def test_depth_is_divided_by_its_largest_value():
    values = np.array([[0, 100], [300, 400]], np.uint16)
    depth = decode_depth(encode(values, "PNG"))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0, 0.25], [0.75, 1]])
    np.testing.assert_array_equal(decode_depth(encode(np.full((2, 2, 3), 7, np.uint8), "PNG")), np.ones((2, 2)))


@pytest.mark.parametrize("values", [COLOUR, np.zeros((3, 3), np.uint8), np.full((3, 3), -1, np.float32)])
def test_what_is_no_depth_map_is_refused(values):
    with pytest.raises(BadImage, match="depth map"):
        decode_depth(encode(values, "TIFF"))
