"""What every method of the table keeps, and each method against its plain version."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fusion import inference
from fusion.classical import CLASSICAL, fuse_colour, lp
from tests.helpers.plain_methods import PLAIN

EACH = pytest.mark.parametrize("name", CLASSICAL)
KEEPS_EQUAL = [name for name in CLASSICAL if name not in ("ifevip", "hmsd_gf")]  # these two brighten


def pair(height: int = 96, width: int = 128, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Structure at several scales and a little noise, 8-bit levels as float32."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(2):
        image = sum(
            amplitude * cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), sigma) * sigma
            for sigma, amplitude in ((0.6, 6), (3, 40), (12, 120))
        )
        images.append(np.clip(np.rint(image + 120), 0, 255).astype(np.float32) / 255)
    return images[0], images[1]


@EACH
@pytest.mark.parametrize("shape", [(16, 16), (16, 61), (37, 16), (33, 47), (97, 130)])
def test_any_size_gives_the_same_size_in_range_and_is_repeatable(name, shape):
    visible, infrared = pair(*shape)
    kept = visible.copy(), infrared.copy()
    fused = CLASSICAL[name].fuse(visible, infrared)
    assert fused.shape == shape and fused.dtype == np.float32
    assert np.isfinite(fused).all() and fused.min() >= 0 and fused.max() <= 1
    assert fused.std() > 0.01
    np.testing.assert_array_equal(CLASSICAL[name].fuse(visible, infrared), fused)
    np.testing.assert_array_equal(kept, (visible, infrared))


@EACH
def test_threads_memory_layout_and_precision_change_nothing(name):
    visible, infrared = pair(150, 170)
    fused = CLASSICAL[name].fuse(visible, infrared)
    cv2.setNumThreads(4)
    try:
        np.testing.assert_array_equal(CLASSICAL[name].fuse(visible, infrared), fused)
    finally:
        cv2.setNumThreads(1)
    strided = [np.repeat(image, 2, axis=1)[:, ::2] for image in (visible, infrared)]
    np.testing.assert_array_equal(CLASSICAL[name].fuse(*strided), fused)
    levels = [np.rint(image * 255).astype(np.float64) / 255 for image in (visible, infrared)]
    wide = CLASSICAL[name].fuse(*levels)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, fused, rtol=0, atol=1e-6)


@EACH
@pytest.mark.parametrize("levels", [(0, 0), (0, 255), (255, 0), (255, 255), (90, 30), (30, 90)])
def test_flat_images_give_numbers(name, levels):
    visible, infrared = (np.full((40, 50), level / 255, np.float32) for level in levels)
    fused = CLASSICAL[name].fuse(visible, infrared)
    assert np.isfinite(fused).all() and fused.min() >= 0 and fused.max() <= 1


@EACH
@pytest.mark.parametrize("flat", [0, 1])
def test_one_flat_image_leaves_the_other_visible(name, flat):
    images = list(pair(64, 80))
    images[flat] = np.full_like(images[flat], 0.4)
    fused = CLASSICAL[name].fuse(*images)
    assert np.isfinite(fused).all()
    if name != "ifevip" or flat == 1:  # IFEVIP adds what is brighter in infrared; nothing else of it comes through
        assert np.corrcoef(fused[8:-8, 8:-8].ravel(), images[1 - flat][8:-8, 8:-8].ravel())[0, 1] > 0.6


@pytest.mark.parametrize("name", KEEPS_EQUAL)
def test_two_equal_images_give_that_image(name):
    image, _ = pair()
    np.testing.assert_allclose(CLASSICAL[name].fuse(image, image), image, rtol=0, atol=1e-6)


def test_hmsd_gf_of_equal_images_is_the_image_brightened():
    image = pair()[0] * np.float32(0.8)
    np.testing.assert_allclose(CLASSICAL["hmsd_gf"].fuse(image, image), image * (275 / 255), rtol=0, atol=1e-6)


def test_ifevip_never_darkens_the_visible_image():
    visible, infrared = pair()
    assert (CLASSICAL["ifevip"].fuse(visible, infrared) >= visible - 1e-6).all()
    np.testing.assert_allclose(CLASSICAL["ifevip"].fuse(visible, infrared * 0), visible, rtol=0, atol=1e-6)


@EACH
def test_a_hot_target_that_the_visible_image_misses_is_kept(name):
    visible, infrared = (0.3 * image + np.float32(0.1) for image in pair())
    before = CLASSICAL[name].fuse(visible, infrared)
    infrared[40:56, 60:72] += 0.7
    after = CLASSICAL[name].fuse(visible, infrared)
    gain = (after - before)[42:54, 62:70].mean()
    assert gain > 0.25, f"{gain:.2f} of 0.7"
    assert gain > 5 * np.abs(after - before)[:20, :20].mean()


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("seed", range(3))
def test_equals_its_plain_version(name, seed):
    visible, infrared = (image.astype(np.float64) for image in pair(96, 144, seed))
    visible, infrared = np.rint(visible * 255), np.rint(infrared * 255)
    expected = np.clip(PLAIN[name](visible, infrared), 0, 255)
    fused = CLASSICAL[name].fuse(visible / 255, infrared / 255) * 255
    if name in ("lp", "mertens"):  # the plain version lacks the far border of the expansion
        expected, fused = expected[:-40, :-40], fused[:-40, :-40]
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-7)


def test_sml_takes_each_half_from_the_image_that_is_sharp_there():
    sharp, _ = pair(120, 160)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 2.5)
    left = np.arange(160) < 80
    first, second = np.where(left, sharp, blurred), np.where(left, blurred, sharp)
    errors = {
        name: float(np.abs(CLASSICAL[name].fuse(first, second) - sharp).mean()) for name in ("sml", "average", "gff")
    }
    assert errors["sml"] < 0.1 * errors["average"] and errors["sml"] < errors["gff"]


def test_mertens_takes_each_half_from_the_image_that_is_well_exposed_there():
    picture = 0.35 + 0.3 * pair(128, 160)[0]
    left = np.arange(160) < 80
    dark, bright = np.where(left, 0.08 * picture, picture), np.where(left, picture, 1 - 0.05 * picture)
    fused = CLASSICAL["mertens"].fuse(*(image.astype(np.float32) for image in (dark, bright)))
    inner = np.abs(np.arange(160) - 79.5) > 24
    assert np.abs(fused - picture)[:, inner].mean() < 0.06
    assert np.abs(CLASSICAL["average"].fuse(dark, bright) - picture)[:, inner].mean() > 0.2


def test_every_method_of_the_table_is_there_once_and_says_where_it_is_from():
    assert set(PLAIN) | {"average", "maximum", "ifevip"} == set(CLASSICAL)
    labels = [algorithm.label for algorithm in CLASSICAL.values()]
    assert len(set(labels)) == len(labels)
    assert all(algorithm.source for algorithm in CLASSICAL.values())


def test_lp_uses_fewer_levels_in_small_images(monkeypatch):
    calls = []
    monkeypatch.setattr(lp, "choose", lambda first, second: calls.append(first.shape) or first)
    for side, levels in ((16, 2), (17, 2), (32, 3), (64, 4), (500, 4)):
        calls.clear()
        image = np.zeros((side, side + 9), np.float32)
        lp.fuse(image, image)
        assert len(calls) == levels, side


@EACH
def test_inference_takes_every_method_and_keeps_the_colour(name):
    rng = np.random.default_rng(0)
    visible = rng.integers(60, 160, (64, 80, 3), dtype=np.uint8)
    infrared = rng.integers(60, 160, visible.shape[:2], dtype=np.uint8)
    fused = inference.fuse(CLASSICAL[name].fuse, visible, infrared)
    assert fused.shape == visible.shape and fused.dtype == np.uint8
    free = ((fused > 0) & (fused < 255)).all(axis=-1)
    change = fused[free].astype(int) - visible[free]
    assert np.ptp(change, axis=-1).max() <= 1  # the same for R, G and B up to rounding


@EACH
def test_fuse_colour_of_grey_images_is_the_grey_result(name):
    visible, infrared = (np.rint(image * 255).astype(np.uint8) for image in pair(48, 56))
    colour = fuse_colour(CLASSICAL[name], np.repeat(visible[..., None], 3, axis=2), infrared)
    assert colour.dtype == np.uint8 and colour.shape == (48, 56, 3)
    grey = np.rint(CLASSICAL[name].fuse(visible / 255, infrared / 255) * 255)
    # IFEVIP takes the brightest 0.1 % of three times as many values, rounded to a whole number
    np.testing.assert_allclose(colour, np.repeat(grey[..., None], 3, axis=2), rtol=0, atol=name == "ifevip")


def test_fuse_colour_fuses_channel_by_channel():
    rng = np.random.default_rng(1)
    visible, infrared = (rng.integers(0, 256, (32, 40, 3), dtype=np.uint8) for _ in range(2))
    fused = fuse_colour(CLASSICAL["mgff"], visible, infrared)
    for c in range(3):
        alone = CLASSICAL["mgff"].fuse(visible[..., c] / 255, infrared[..., c] / 255)
        np.testing.assert_array_equal(fused[..., c], np.rint(alone * 255))


@pytest.mark.parametrize(
    ("visible", "infrared"),
    [((32, 32, 3), (32, 33)), ((32, 32), (32, 32)), ((32, 32, 4), (32, 32)), ((32, 32, 3), (32, 32, 1))],
)
def test_fuse_colour_refuses_other_shapes(visible, infrared):
    with pytest.raises(ValueError, match="visible"):
        fuse_colour(CLASSICAL["average"], np.zeros(visible, np.uint8), np.zeros(infrared, np.uint8))


def test_fuse_colour_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        fuse_colour(CLASSICAL["average"], np.zeros((32, 32, 3)), np.zeros((32, 32)))
