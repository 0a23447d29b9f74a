"""The shared filters on cases that can be worked out by hand, and against plain sums."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fusion.classical import adf, ifevip, lp, tif, vsm_wls
from fusion.classical.filters import (
    REPLICATE,
    SYMMETRIC,
    ZERO,
    Box,
    apply_in_strips,
    as_float64,
    gaussian,
    gaussian_taps,
    second_is_stronger,
    to_output,
    wide_gaussian,
)
from fusion.classical.saliency import perceptual_saliency
from tests.helpers import plain_methods as plain

RNG = np.random.default_rng(5)


def near(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_widen_makes_8_bit_levels_exact_and_copies():
    levels = np.arange(256).reshape(16, 16)
    (wide,) = as_float64((levels / 255).astype(np.float32))
    assert wide.dtype == np.float64
    near(wide, levels / 255, 1e-15)
    (copy,) = as_float64(wide)
    copy[:] = 0
    assert wide.max() == 1


def test_finish_clips_and_takes_the_precision():
    near(to_output(np.array([[-0.5, 0.25, 2.0]]), np.zeros((1, 3), np.float32)), [[0, 0.25, 1]])
    assert to_output(np.zeros((2, 2)), np.zeros((2, 2), np.float32)).dtype == np.float32


@pytest.mark.parametrize("shape", [(3, 5), (100, 200), (1, 8192), (3, 8193)])
def test_pointwise_is_the_function_of_the_whole(shape):
    first, second = RNG.random(shape), RNG.random(shape)
    near(apply_in_strips(lambda a, b: a - 2 * b, first, second), first - 2 * second, 0)
    near(apply_in_strips(lambda a, b: a - 2 * b, first.T, second.T), (first - 2 * second).T, 0)
    expected = first * second
    assert apply_in_strips(np.multiply, first, second, out=first) is first
    near(first, expected, 0)


def test_box_means_leave_out_what_is_outside():
    image = np.arange(20.0).reshape(4, 5)
    found = Box(image.shape, 1).mean(image)
    near(found[0, 0], (0 + 1 + 5 + 6) / 4)
    near(found[0, 2], (1 + 2 + 3 + 6 + 7 + 8) / 6)
    near(found[3, 4], (13 + 14 + 18 + 19) / 4)
    near(found[1, 1], image[:3, :3].mean())


@pytest.mark.parametrize("radius", [0, 1, 2, 7, 16, 45])
@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (1, 9)])
def test_box_means_against_slices(shape, radius):
    image = RNG.random(shape)
    expected = np.empty(shape)
    for i, j in np.ndindex(shape):
        expected[i, j] = image[max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1].mean()
    near(Box(shape, radius).mean(image), expected)


@pytest.mark.parametrize("radius", [1, 3, 30])
def test_guided_filter_against_plain_sums(radius):
    guide, image = RNG.random((20, 31)), RNG.random((20, 31))
    box = Box(guide.shape, 9).of(radius)
    for epsilon in (1e-3, 1.0):
        near(box.guided(guide, image, epsilon), plain.guided(guide, image, radius, epsilon), 1e-11)
        near(box.guided(guide, guide, epsilon), plain.guided(guide, guide, radius, epsilon), 1e-11)
        one, other = box.mutual(guide, image, epsilon)
        near(one, plain.guided(guide, image, radius, epsilon), 1e-11)
        near(other, plain.guided(image, guide, radius, epsilon), 1e-11)


def test_guided_filter_of_simple_images():
    constant, edge = np.full((12, 14), 0.7), np.zeros((12, 14))
    edge[:, 7:] = 1
    box = Box(edge.shape, 2)
    near(box.guided(edge, constant, 0.01), constant)
    near(box.guided(constant, edge, 0.01), box.mean(box.mean(edge)))  # a flat guide leaves two means
    near(box.guided(edge, edge, 1e-9), edge, 1e-6)  # epsilon small: the edge stays
    near(box.guided(edge, edge, 1e9), box.mean(box.mean(edge)), 1e-6)  # large: it goes


def test_guided_filter_of_a_line_of_guide():
    """Where p = 3 I + 0.2, a = 3 var / (var + epsilon): with epsilon 0 the image comes back."""
    guide = RNG.random((15, 18))
    near(Box(guide.shape, 3).guided(guide, 3 * guide + 0.2, 0.0), 3 * guide + 0.2, 1e-10)


def test_results_are_no_working_memory():
    guide, image = RNG.random((16, 16)), RNG.random((16, 16))
    box = Box(guide.shape, 2)
    first = box.guided(guide, image, 0.1)
    kept = first.copy()
    box.guided(image, guide, 0.1)
    box.mutual(image, guide, 0.1)
    near(first, kept, 0)
    out = np.empty_like(guide)
    assert box.guided(guide, image, 0.1, box.mean(image), out=out) is out
    near(out, kept)


def test_gaussian_taps():
    near(gaussian_taps(3, 1), np.array([np.exp(-0.5), 1, np.exp(-0.5)]) / (1 + 2 * np.exp(-0.5)))
    near(gaussian_taps(49, 8).sum(), 1)


@pytest.mark.parametrize(("border", "mode"), [(ZERO, "constant"), (REPLICATE, "nearest"), (SYMMETRIC, "reflect")])
def test_gaussian_borders(border, mode):
    image = RNG.random((16, 23))
    near(gaussian(image, 13, 2, border), plain.gaussian(image, 6, 2, mode))
    near(gaussian(image, 49, 8, border), plain.gaussian(image, 24, 8, mode))  # wider than the image


@pytest.mark.parametrize("shape", [(16, 23), (50, 401)])
def test_wide_gaussian_is_the_gaussian(shape):
    image = RNG.random(shape)
    near(wide_gaussian(image, 385, 64), plain.gaussian(image, 192, 64, "reflect"))


def test_stronger_counts_rounding_as_equal():
    first = np.array([[0.1, -0.3, 0.0, 1e-16, 0.2]])
    second = np.array([[-0.2, 0.1, 0.0, 0.0, -0.2]])
    near(second_is_stronger(first, second), [[1, 0, 1, 1, 1]])


def test_diffusion_of_one_bright_pixel():
    """One step by hand: each of the 4 near neighbours gets 0.15 d exp(-(d / kappa)^2), each diagonal half of that."""
    image = np.zeros((9, 9))
    image[4, 4] = d = 20 / 255
    moved = 0.15 * d * np.exp(-((20 / 30) ** 2))
    step = adf._step(np.pad(image / adf.KAPPA, 1)) * adf.KAPPA
    near(step[4, 5], moved)
    near(step[3, 3], moved / 2)
    near(step[4, 4], d - 6 * moved)
    near(step.sum(), image.sum())


def test_karhunen_loeve_weights():
    detail = RNG.normal(size=(30, 30))
    near(adf.principal_weights(detail, 3 * detail), (0.25, 0.75), 1e-9)
    near(adf.principal_weights(detail, detail), (0.5, 0.5), 1e-9)
    near(adf.principal_weights(detail, -detail), (0.5, 0.5), 1e-9)
    near(adf.principal_weights(detail, 0 * detail), (1, 0), 1e-9)


def test_least_squares_of_vsm_wls_against_a_dense_solve():
    first, second = RNG.normal(size=(8, 8)), RNG.normal(size=(8, 8))
    share = plain.gaussian((np.abs(first) < np.abs(second)).astype(float), 6, 2, "reflect")
    aim = (1 - share) * first + share * second
    mean = ndimage.uniform_filter(second, 7, mode="nearest")
    pull = 0.01 * np.diag(1 / (np.abs(mean.ravel()) + 1e-6))
    expected = np.linalg.solve(np.eye(64) + pull, aim.ravel() + pull @ first.ravel()).reshape(8, 8)
    found = np.full((8, 8), 0.5)
    vsm_wls.add_detail(found, first, second, [np.empty((8, 8)) for _ in range(2)])
    near(found - 0.5, expected, 1e-9)


def test_rolling_guidance_removes_dots_and_keeps_edges():
    image = np.full((64, 64), 0.2)
    image[:, 32:] = 0.8
    dots = image.copy()
    dots[8:-8:16, 8:-8:16] += 0.15
    smooth = vsm_wls.rolling_guidance(dots, 2, Box(dots.shape, 2))
    assert np.abs(smooth - image)[:, [5, 8, 24, 40, 56]].max() < 0.02
    assert smooth[30, 33] - smooth[30, 30] > 0.5


def test_saliency_by_hand():
    """Levels 0, 0, 0, 255: a 0 is 255 away from one pixel, the 255 is 765 away from three; scaled to 0 and 1."""
    near(vsm_wls.saliency(np.array([[0.0, 0.0], [0.0, 1.0]])), [[0, 0], [0, 1]])
    near(vsm_wls.saliency(np.full((4, 4), 0.5)), np.zeros((4, 4)))
    # 0, 100, 100, 200: distances 400, 200, 200, 400
    near(vsm_wls.saliency(np.array([[0.0, 100.0], [100.0, 200.0]]) / 255), [[1, 0], [0, 1]])


def test_median_sees_zeros_outside():
    near(tif.median(np.ones((4, 4)))[0, 0], 0)  # 4 ones, 5 zeros
    near(tif.median(np.ones((4, 4)))[0, 1], 1)  # 6 ones, 3 zeros
    image = RNG.integers(0, 256, (20, 21)) / 255
    near(tif.median(image), ndimage.median_filter(image, 3, mode="constant"), 1e-15)


def test_tif_base_wraps_around():
    image = np.zeros((16, 60))
    image[3, 0] = 35 * 35
    base, _ = tif.decompose(image)
    near(base[0], np.where((np.arange(60) <= 17) | (np.arange(60) >= 43), base[0, 0], 0), 1e-9)
    assert base[0, 0] >= 2  # 35 rows of an image of 16 count every row at least twice


@pytest.mark.parametrize("shape", [(16, 16), (17, 22), (9, 31)])
def test_pyramid_is_undone_and_blurs_evenly(shape):
    image = RNG.random(shape)
    small = lp.reduce(image)
    assert small.shape == tuple((length + 1) // 2 for length in shape)
    assert lp.expand(small, shape).shape == shape
    near(lp.expand(lp.reduce(np.full(shape, 0.3)), shape), np.full(shape, 0.3))
    blurred = ndimage.correlate1d(ndimage.correlate1d(image, lp.TAPS, axis=0, mode="mirror"), lp.TAPS, mode="mirror")
    near(small, blurred[::2, ::2])


def test_consistency_check_outvotes_a_lonely_pixel():
    first, second = np.full((9, 9), 0.1), np.full((9, 9), -0.2)
    near(lp.choose(first, second), second)
    near(lp.choose(second, first), second)
    second[:, 5:] = 0.01
    chosen = lp.choose(first, second)
    near(chosen[:, :5], second[:, :5])
    near(chosen[:, 7:], first[:, 7:])


@pytest.mark.parametrize(("before", "after"), [(40, 64), (64, 40), (100, 33), (16, 512)])
def test_bicubic_resize_inside_is_that_of_pillow(before, after):
    image = RNG.random((before, before + 4)).astype(np.float32)
    found = ifevip.resize(image.astype(np.float64), (after, after + 6))
    expected = np.asarray(Image.fromarray(image).resize((after + 6, after), Image.Resampling.BICUBIC))
    edge = int(np.ceil(3 * max(1, after / before))) + 1
    inside = np.s_[edge:-edge, edge:-edge]
    near(found[inside], expected[inside], 1e-5)
    near(ifevip.resize(np.full((20, 30), 0.4), (47, 11)), np.full((47, 11), 0.4))


def test_resize_keeps_8_bit_images_8_bit():
    image = RNG.integers(0, 256, (30, 20), dtype=np.uint8)
    found = ifevip.resize(image, (64, 64))
    assert found.dtype == np.uint8 and found.shape == (64, 64)


def test_quadtree_splits_where_the_range_is_wide():
    square = np.full((512, 512), 100, np.uint8)
    assert ifevip.quadtree(square) == [(512, 0, 0)]
    square[0, 0] = 151
    assert ifevip.quadtree(square) == [(512, 0, 0)]
    square[0, 0] = 152
    blocks = ifevip.quadtree(square)
    assert sorted(size for size, _, _ in blocks) == [32] * 4 + [64] * 3 + [128] * 3 + [256] * 3
    covered = np.zeros((512, 512), int)
    for size, top, left in blocks:
        covered[top : top + size, left : left + size] += 1
    assert (covered == 1).all()


def test_the_background_of_a_flat_image_is_flat_but_for_the_zeros_outside():
    found = ifevip.background(np.full((60, 70), 90, np.uint8))
    near(found[4:-4, 4:-4], np.full((52, 62), 90))
    assert found[0, 0] < 40


def test_a_bezier_surface_goes_through_the_corners_of_its_block():
    square = RNG.integers(100, 140, (512, 512)).astype(np.uint8)
    low = cv2.erode(square, np.ones((32, 32), np.uint8), anchor=(15, 15))
    near(ifevip.bezier_surface(square)[0, 0], low[0, 0])
    assert low[0, 0] == square[:17, :17].min()


def test_entropy_in_bits():
    assert ifevip.entropy(np.array([[0, 255], [255, 0]], np.uint8)) == 1
    assert ifevip.entropy(np.arange(256, dtype=np.uint8)) == 8
    assert ifevip.entropy(np.zeros((3, 3), np.uint8)) == 0


@pytest.mark.parametrize("shape", [(16, 16), (42, 42), (43, 100), (90, 41), (82, 122)])
def test_perceptual_saliency_against_plain_blocks(shape):
    image = RNG.random(shape) * 255
    assert perceptual_saliency(image) == pytest.approx(plain.plain_perception(image), rel=1e-12)
    assert perceptual_saliency(3 * image) == pytest.approx(3 * perceptual_saliency(image))
    assert perceptual_saliency(np.full(shape, 0.3)) == 0
