"""Luma, and the fused luma under the visible image's colour."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fusion.images.colour import attach_colour, is_grey, luma, quantise, to_grey

COLOUR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = COLOUR[..., 0].copy()


def ycc(image: np.ndarray) -> np.ndarray:
    """Y, Cb, Cr of BT.601 in float64, by its definition: Cb = (B - Y) / 1.772, Cr = (R - Y) / 1.402."""
    r, g, b = np.moveaxis(image.astype(np.float64) / 255, -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([y, (b - y) / 1.772, (r - y) / 1.402])


def test_luma_of_colours():
    for colour, expected in (((255, 0, 0), 0.299), ((0, 255, 0), 0.587), ((0, 0, 255), 0.114), ((255,) * 3, 1.0)):
        assert luma(np.array([[colour]], np.uint8)).item() == pytest.approx(expected)
    out = luma(COLOUR)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, ycc(COLOUR)[0], atol=1e-6)
    assert np.array_equal(luma(GREY), GREY.astype(np.float32) / 255)


def test_grey_agrees_with_opencv():
    assert np.abs(to_grey(COLOUR).astype(int) - cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY)).max() <= 1
    assert to_grey(COLOUR).dtype == np.uint8
    assert to_grey(GREY) is GREY
    levels = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(to_grey(np.repeat(levels[..., None], 3, axis=2)), levels)


def test_quantise_rounds_and_clips_and_undoes_luma():
    assert quantise(np.array([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0])).tolist() == [0, 0, 0, 1, 255, 255]
    assert np.array_equal(quantise(luma(GREY)), GREY)


def test_is_grey():
    assert is_grey(GREY)
    assert is_grey(np.repeat(GREY[..., None], 3, axis=2))
    assert not is_grey(COLOUR)
    for channel in range(3):
        nearly = np.repeat(GREY[..., None], 3, axis=2)
        nearly[3, 4, channel] ^= 1
        assert not is_grey(nearly)


def test_colour_is_kept_and_luma_is_the_fused_one():
    visible = (COLOUR // 2 + 64).astype(np.uint8)
    fused = np.clip(luma(visible) + np.random.default_rng(1).uniform(-0.2, 0.2, GREY.shape), 0.01, 0.99)
    out = attach_colour(fused, visible)
    assert out.dtype == np.uint8
    assert out.shape == visible.shape
    inside = ((out > 0) & (out < 255)).all(axis=-1)
    assert inside.mean() > 0.9
    y, cb, cr = ycc(out)
    _, expected_cb, expected_cr = ycc(visible)
    assert np.abs(y - fused)[inside].max() < 0.51 / 255
    assert np.abs(cb - expected_cb)[inside].max() < 0.6 / 255
    assert np.abs(cr - expected_cr)[inside].max() < 0.75 / 255


def test_the_visible_luma_gives_the_visible_image_back():
    assert np.array_equal(attach_colour(luma(COLOUR), COLOUR), COLOUR)


def test_a_grey_visible_image_gives_a_grey_result():
    fused = np.random.default_rng(2).random(GREY.shape)
    for visible in (GREY, np.repeat(GREY[..., None], 3, axis=2)):
        out = attach_colour(fused, visible)
        assert np.array_equal(out, quantise(fused))


def test_what_leaves_the_range_is_clipped():
    white, black = attach_colour(np.full(GREY.shape, 5.0), COLOUR), attach_colour(np.full(GREY.shape, -5.0), COLOUR)
    assert (white == 255).all()
    assert (black == 0).all()
