"""Q_cb and Q_cv against plain numpy versions of the formulae, cases worked by hand, and VIFB's published values."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d

from fusion.metrics import qcb, qcv
from fusion.metrics.triplet import Triplet
from tests.helpers.data import DATA, evidence

EVERY = [qcb.compute, qcb.toolbox, qcv.compute, qcv.toolbox]
NAMES = ["qcb", "qcb toolbox", "qcv", "qcv toolbox"]
every = pytest.mark.parametrize("metric", EVERY, ids=NAMES)


def triplet(fused, visible, infrared) -> Triplet:
    """Of arrays, H x W each, or B x H x W each."""
    images = (np.asarray(image, dtype=np.float64) for image in (fused, visible, infrared))
    return Triplet(*(torch.tensor(image if image.ndim == 3 else image[None])[:, None] for image in images))


def value(metric, fused, visible, infrared) -> float:
    return float(metric(triplet(fused, visible, infrared)))


def textured(seed: int, height: int = 48, width: int = 60) -> np.ndarray:
    """Waves, saturated parts, a block, noise in one half; 8-bit levels, not the whole range."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    wave = 120 + 140 * np.sin(x / generator.uniform(3, 9) + 1) * np.cos(y / generator.uniform(3, 9))
    wave[:, : width // 2] += generator.normal(0, 6, (height, width // 2))
    wave[height // 3 : height // 2, width // 4 : width // 2] = generator.integers(40, 200)
    return np.clip(np.round(wave), 9, 240)


def generated(seed: int, height: int, width: int) -> list[np.ndarray]:
    """A fused image, fractional, and its sources."""
    visible, infrared = textured(seed, height, width), textured(seed + 1, height, width)
    return [
        0.6 * visible + 0.4 * infrared + np.random.default_rng(seed).normal(0, 2, (height, width)),
        visible,
        infrared,
    ]


# Plain versions: one grey plane, no shared code with fusion.metrics


def plain_stretch(image, whole_numbers):
    stretched = 255 * (image - image.min()) / (image.max() - image.min())
    return np.floor(stretched + 0.5) if whole_numbers else stretched


def plain_filter(image, side_in_degrees, response):
    """Frequencies as the toolbox writes them: -1..1 of half the sampling rate, the origin in the middle."""
    height, width = image.shape
    v = (np.arange(height) - height // 2) * 2 / height * height / (2 * side_in_degrees)
    u = (np.arange(width) - width // 2) * 2 / width * width / (2 * side_in_degrees)
    spectrum = np.fft.fftshift(np.fft.fft2(image)) * response(np.sqrt(u[None, :] ** 2 + v[:, None] ** 2))
    return np.fft.ifft2(np.fft.ifftshift(spectrum)).real


def plain_qcb_map(fused, visible, infrared, toolbox: bool) -> np.ndarray:
    def mean(image, sigma):
        y, x = np.mgrid[-15:16, -15:16]
        window = np.exp(-(x * x + y * y) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        total = convolve2d(image, window, mode="same")
        return total if toolbox else total / convolve2d(np.ones_like(image), window, mode="same")

    def masked_contrast(image):
        seen = plain_filter(
            plain_stretch(image, toolbox),
            15,
            lambda r: np.exp(-((r / 15.387) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2)),
        )
        contrast = np.abs(mean(seen, 2) / mean(seen, 4) - 1)
        return contrast**3 / (contrast**2 + 1e-4)

    a, b, f = masked_contrast(visible), masked_contrast(infrared), masked_contrast(fused)
    kept_a, kept_b = np.minimum(a, f) / np.maximum(a, f), np.minimum(b, f) / np.maximum(b, f)
    return (a**2 * kept_a + b**2 * kept_b) / (a**2 + b**2)


def plain_qcb(*images_and_dialect) -> float:
    return float(plain_qcb_map(*images_and_dialect).mean())


def plain_qcv(fused, visible, infrared, toolbox: bool) -> float:
    kernel = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    fused = plain_stretch(fused, toolbox)
    above = below = 0.0
    for source in (visible, infrared):
        source = plain_stretch(source, toolbox)
        padded = np.pad(source, 1, mode="constant" if toolbox else "edge")
        edge = np.hypot(convolve2d(padded, kernel, mode="valid"), convolve2d(padded, kernel.T, mode="valid"))
        seen = plain_filter(source - fused, 4, lambda r: 2.6 * (0.0192 + 0.144 * r) * np.exp(-((0.144 * r) ** 1.1)))
        for top in range(0, source.shape[0], 16):
            for left in range(0, source.shape[1], 16):
                region = np.s_[top : top + 16, left : left + 16]
                weight = (edge[region] ** 5).sum()
                distance = (seen[region] ** 2).sum() / (256 if toolbox else seen[region].size)
                above, below = above + weight * distance, below + weight
    return above / below


@pytest.mark.parametrize(("height", "width"), [(48, 64), (37, 61), (50, 33), (9, 40)])
def test_both_dialects_equal_their_plain_versions(height, width):
    images = generated(height, height, width)
    for module, plain in ((qcb, plain_qcb), (qcv, plain_qcv)):
        for metric, toolbox in ((module.compute, False), (module.toolbox, True)):
            assert value(metric, *images) == pytest.approx(plain(*images, toolbox), rel=1e-9), (metric, toolbox)


# By hand


@every
def test_a_fused_image_like_both_sources_loses_nothing(metric):
    same = textured(1)
    expected = 1 if metric in (qcb.compute, qcb.toolbox) else 0
    assert value(metric, same, same, same) == pytest.approx(expected, abs=1e-13)


def stripes() -> np.ndarray:
    """16 x 20, rows 255, 0, 255, ..: mean 127.5 and 127.5 at 8 cycles per side, nothing else."""
    return np.tile([[255.0], [0.0]], (8, 20))


def sensitivity(degrees: float) -> float:
    return 2.6 * (0.0192 + 0.144 * degrees) * np.exp(-((0.144 * degrees) ** 1.1))


def stripes_seen() -> float:
    """Mean square of the stripes after the filter: 8 cycles per side are 2 per degree."""
    return 127.5**2 * (sensitivity(0) ** 2 + sensitivity(2) ** 2)


def test_qcv_a_cut_region_counts_by_the_pixels_it_has():
    # rows y - 1 and y + 1 are equal: edges only in the first and the last row, where the border is repeated.
    # Every column weighs the same, and D is the same in both regions, of 16 and of 4 columns
    black = np.zeros((16, 20))
    assert value(qcv.compute, black, stripes(), black) == pytest.approx(stripes_seen(), rel=1e-12)


def test_qcv_toolbox_zeros_beyond_the_border_and_cut_regions_over_256():
    # last row (0 below 255, 0 beyond): 4 * 255, at the sides 3 * 255 down and 255 across; the side columns of the
    # other rows: 2 * 255 across (2 * 255 in rows of 255, 255 + 255 between them; the first row's 255 twice)
    black = np.zeros((16, 20))
    side = 15 * 510.0**5 + np.hypot(765, 255) ** 5
    whole, cut = side + 15 * 1020.0**5, side + 3 * 1020.0**5
    expected = stripes_seen() * (whole + cut * (4 * 16 / 256)) / (whole + cut)
    assert value(qcv.toolbox, black, stripes(), black) == pytest.approx(expected, rel=1e-12)


def test_qcv_weighs_the_sources_by_their_edges():
    visible, infrared, fused = textured(1), np.full((48, 60), 80.0), textured(2)
    assert value(qcv.compute, fused, visible, infrared) == pytest.approx(
        value(qcv.compute, fused, visible, visible), rel=1e-12
    )
    assert value(qcv.compute, visible, visible, infrared) == 0


def bump(row: int, column: int) -> np.ndarray:
    """Flat grey with a bright and a dark spot, 160 x 160."""
    y, x = np.mgrid[0:160, 0:160]
    return 100 + 4 * (x - column) * np.exp(-((x - column) ** 2 + (y - row) ** 2) / 18)


def test_qcb_the_rim_of_a_flat_picture_has_no_contrast():
    """The fused image shows nothing of the source: zeros beyond the border make both rims look alike."""
    images = bump(50, 50), bump(110, 110), bump(110, 110)
    assert value(qcb.compute, *images) < 0.02
    assert value(qcb.toolbox, *images) > 0.5


def test_qcb_leaves_out_what_has_no_contrast_in_either_source():
    """Pictures that are odd about column 32: there narrow and wide mean are equal but for rounding noise."""
    y, x = np.mgrid[0:48, 0:64]
    visible, infrared, fused = (
        (2 + np.cos(y / (3 + k))) * np.sin(2 * np.pi * x * k / 64) + np.sin(2 * np.pi * x * 5 / 64) for k in (2, 3, 7)
    )
    everywhere = plain_qcb_map(fused, visible, infrared, False)
    expected = np.delete(everywhere, 32, axis=1).mean()
    assert value(qcb.compute, fused, visible, infrared) == pytest.approx(expected, rel=1e-9)
    assert not abs(everywhere.mean() - expected) < 1e-6  # noise over noise, or 0 over 0


def test_qcb_of_contrast_that_is_all_lost():
    assert value(qcb.compute, np.full((48, 60), 80.0), textured(1), textured(2)) == 0


@pytest.mark.parametrize("module", [qcb, qcv])
def test_brightness_and_contrast_of_a_whole_image_do_not_matter(module):
    fused, visible, infrared = generated(5, 48, 60)
    expected = value(module.compute, fused, visible, infrared)
    assert value(module.compute, 0.3 * fused + 50, visible / 2, infrared + 7) == pytest.approx(expected, rel=1e-9)
    assert value(module.toolbox, fused, visible / 2, infrared + 7) == pytest.approx(
        value(module.toolbox, fused, visible, infrared), rel=1e-9
    )


def test_the_stretch_rounds_halves_up_for_the_toolbox_alone():
    t = triplet([[10, 13, 180]], [[0, 0, 0]], [[7, 7, 7]])
    assert qcb.rounded(t).fused.flatten().tolist() == [0, 5, 255]
    assert qcb.stretched(t).fused.flatten().tolist() == [0, 4.5, 255]
    assert qcb.rounded(t).visible.flatten().tolist() == [0, 0, 0] == qcb.stretched(t).visible.flatten().tolist()
    assert torch.isnan(qcb.rounded(t).infrared).all()
    assert qcb.stretched(t).infrared.flatten().tolist() == [7, 7, 7]


# What has no value, and what must not matter


@pytest.mark.parametrize("level", [0.0, 0.1, 77.0, 255.0])
@every
def test_two_constant_sources_have_nothing_to_keep(metric, level):
    flat = np.full((40, 50), level)
    for fused in (flat, textured(1, 40, 50)):
        assert np.isnan(value(metric, fused, flat, flat))
    assert np.isnan(value(metric, textured(1, 40, 50), flat, np.full_like(flat, 30.0)))


@pytest.mark.parametrize("module", [qcb, qcv])
def test_rounding_noise_on_a_constant_image_is_no_picture(module):
    noisy = 77 + np.random.default_rng(0).normal(0, 1e-12, (40, 50))
    assert np.isnan(value(module.compute, textured(1, 40, 50), noisy, noisy))
    visible, fused = textured(2, 40, 50), textured(1, 40, 50)
    assert value(module.compute, fused, visible, noisy) == pytest.approx(
        value(module.compute, fused, visible, np.full_like(noisy, 77)), rel=1e-9
    )


@every
def test_a_constant_source_costs_the_toolbox_its_value(metric):
    found = value(metric, textured(1), textured(2), np.full((48, 60), 30.0))
    assert np.isnan(found) == (metric in (qcb.toolbox, qcv.toolbox))


@every
def test_any_size_has_an_answer(metric):
    for height, width in ((1, 1), (1, 7), (7, 1), (2, 2), (3, 3), (15, 17), (31, 2)):
        images = [textured(seed, 64, 96)[:height, :width] for seed in (1, 2, 3)]
        found = metric(triplet(*images))
        assert found.shape == (1,) and found.dtype == torch.float64
        if height == width == 1:
            assert torch.isnan(found).all()
        if min(height, width) > 2 and metric in (qcb.compute, qcv.compute):
            assert torch.isfinite(found).all(), (height, width)
    assert metric(Triplet(*(torch.zeros(0, 1, 20, 30, dtype=torch.float64),) * 3)).shape == (0,)


@every
def test_a_value_depends_on_its_own_image_only(metric):
    fused, visible, infrared = (
        np.stack([textured(10 * part + number, 37, 60) for number in range(5)]) for part in (1, 2, 3)
    )
    fused[1], visible[3] = 128, 0
    together = metric(triplet(fused, visible, infrared))
    alone = torch.cat([metric(triplet(fused[i], visible[i], infrared[i])) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)
    assert torch.isfinite(alone[[0, 2, 4]]).all()


@every
def test_swapping_the_sources_changes_nothing(metric):
    fused, visible, infrared = generated(7, 37, 61)
    assert value(metric, fused, visible, infrared) == pytest.approx(value(metric, fused, infrared, visible), rel=1e-12)


@every
def test_the_images_stay_as_they_were_and_may_share_work(metric):
    images = generated(8, 37, 61)
    t = triplet(*images)
    before = [metric(triplet(*images)) for metric in EVERY]
    assert torch.equal(metric(t), before[EVERY.index(metric)])
    assert [float(metric(t)) for metric in EVERY] == [float(found) for found in before]
    for image, kept in zip((t.fused, t.visible, t.infrared), images, strict=True):
        np.testing.assert_array_equal(image[0, 0], kept)


@pytest.mark.parametrize("module", [qcb, qcv])
def test_the_mean_of_the_sources_is_better_than_noise(module):
    visible, infrared = textured(1), textured(2)
    noise = np.random.default_rng(0).integers(100, 150, visible.shape)
    good, bad = (value(module.compute, fused, visible, infrared) for fused in ((visible + infrared) / 2, noise))
    assert good > bad if module is qcb else good < bad


# VIFB


def planes(path: Path) -> torch.Tensor:
    """3 x 1 x H x W; a grey image stands for three equal channels."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    return torch.tensor(pixels).permute(2, 0, 1)[:, None]


@evidence("vifb")
@pytest.mark.parametrize(
    ("key", "method"), [("carWhite", "GFF"), ("manWalking", "LatLRR"), ("running", "U2Fusion"), ("snow", "HMSD_GF")]
)
def test_vifb_values_to_all_five_digits(key, method):
    """Four of 276 images, to keep the test short; all of them agree as these do. Means over the colour channels.

    The standard value must not give those digits, or the test could not tell the two apart.
    """
    with open(DATA / "vifb" / "published.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["image"], row["method"]) == (key, method)]
    wanted = {row["metric"]: f"{float(row['value']):.5g}" for row in rows}
    root = DATA / "vifb"
    t = Triplet(*(planes(root / part / f"{key}.jpg") for part in (f"fused/{method}", "visible", "infrared")))
    for name, module in (("Qcb", qcb), ("Qcv", qcv)):
        assert f"{float(module.toolbox(t).mean()):.5g}" == wanted[name], name
        assert f"{float(module.compute(t).mean()):.5g}" != wanted[name], name
