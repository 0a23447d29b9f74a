"""What each dialect changes, on cases small enough to work by hand, and which channels it scores."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from fusion.images.colour import to_grey
from fusion.metrics import METRICS, score
from fusion.metrics.dialects import DIALECTS
from fusion.metrics.qabf import rounded_root

COLOUR = np.random.default_rng(3).integers(0, 256, (60, 70, 3), dtype=np.uint8)


def tensor(image) -> torch.Tensor:
    """H W or H W 3 -> 1 C H W."""
    image = np.asarray(image, dtype=np.float64)
    return torch.tensor(image)[None, None] if image.ndim == 2 else torch.tensor(image).permute(2, 0, 1)[None]


def value(name: str, dialect: str, fused, visible=None, infrared=None) -> float:
    fused = tensor(fused)
    visible = torch.zeros_like(fused) if visible is None else tensor(visible)
    infrared = torch.zeros_like(fused) if infrared is None else tensor(infrared)
    return float(score(fused, visible, infrared, [name], dialect)[name][0])


def planes(dialect: str, image) -> np.ndarray:
    return DIALECTS[dialect].planes(tensor(image))[0].numpy()


def test_standard_scores_the_luma_that_the_project_stores():
    assert np.array_equal(planes("standard", COLOUR)[0], to_grey(COLOUR))


def test_luma_is_exact_and_halves_go_up():
    # 299 R + 587 G + 114 B = 500 and 1500: luma 0.5 and 1.5; float32 sums can land on either side
    half = [[[0, 0, 0], [1, 1, 1]]]
    red, green, blue = np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij")
    image = np.stack([red, green, blue], axis=-1).reshape(-1, 52, 3).astype(np.uint8)
    thousandths = image.astype(np.int64) @ np.array([299, 587, 114])
    assert (thousandths % 1000 == 500).any()
    wanted = (thousandths + 500) // 1000
    assert np.array_equal(planes("standard", image)[0], wanted)
    assert np.array_equal(to_grey(image), wanted)
    assert planes("standard", half)[0].tolist() == [[0, 1]]


def test_cddfuse_luma_is_opencv_on_float32():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    wanted = np.round(cv2.cvtColor(image[..., ::-1].astype(np.float32), cv2.COLOR_BGR2GRAY))
    assert np.mean(planes("cddfuse", image)[0] != wanted) < 1e-4  # none where OpenCV fuses multiply and add
    assert (planes("cddfuse", image)[0] != planes("standard", image)[0]).any()  # halves differ


def test_tang_luma_has_matlab_weights():
    weights = (0.298936021293775, 0.587043074451121, 0.114020904255103)
    assert np.array_equal(planes("tang2022", COLOUR)[0], np.floor(COLOUR @ np.array(weights) + 0.5))


def test_vifb_is_the_mean_over_the_channels():
    fused, visible = COLOUR, COLOUR[::-1].copy()
    infrared = COLOUR[..., 1].T[:60, :60]
    infrared = np.pad(infrared, ((0, 0), (0, 10)))  # one channel stands for three
    alone = [
        value("mi", "vifb", fused[..., k], visible[..., k], infrared) for k in range(3)
    ]  # a grey image has three equal channels
    assert value("mi", "vifb", fused, visible, infrared) == pytest.approx(sum(alone) / 3, rel=1e-13)
    assert abs(value("mi", "vifb", fused, visible, infrared) - value("mi", "cddfuse", fused, visible, infrared)) > 1e-3


@pytest.mark.parametrize("dialect", ["standard", "cddfuse", "tang2022"])
def test_luma_dialects_take_colour_as_its_luma(dialect):
    luma = planes(dialect, COLOUR)[0]
    for name in ("en", "sd", "ag"):
        assert value(name, dialect, COLOUR) == value(name, dialect, luma)


@pytest.mark.parametrize("dialect", ["vifb", "cddfuse"])
def test_mi_in_nats(dialect):
    assert value("mi", dialect, [[0, 9]], [[3, 5]], [[7, 8]]) == pytest.approx(2 * math.log(2), abs=1e-14)


def test_mi_of_tang_merges_254_and_255_in_the_joint_histogram_only():
    # H(A) = H(F) = 1 bit; the joint histogram has one bin: 0 bit. 1 + 1 - 0 for one source, 0 + 1 - 0 for the other
    assert value("mi", "tang2022", [[254, 255]], [[254, 255]], [[0, 0]]) == pytest.approx(2 + 1, abs=1e-14)


def test_sd_of_tang_saturates_twice():
    # mean 100: d = -100, -90, 190 -> 0, 0, 190 -> 190^2 cut to 255
    assert value("sd", "tang2022", [[0, 10, 290 - 0]]) == pytest.approx(math.sqrt(255 / 3), abs=1e-14)
    # mean 10.5: d = -0.5, 0.5 -> halves go away from zero: 0 (below zero), 1
    assert value("sd", "tang2022", [[10, 11]]) == pytest.approx(math.sqrt(1 / 2), abs=1e-15)


def test_sf_by_dialect():
    image = [[0, 3, 3], [0, 0, 4]]
    standard = math.sqrt(25 / 4 + 10 / 3)
    assert value("sf", "tang2022", image) == pytest.approx(standard / 255, abs=1e-16)
    assert value("sf", "cddfuse", image) == pytest.approx(standard, abs=1e-14)


def test_sf_of_vifb_lays_the_channels_side_by_side():
    red, green, blue = [[1, 2]], [[5, 5]], [[0, 7]]
    # one row 1 2 5 5 0 7: steps 1 3 0 -5 7; six pixels; no step from row to row
    image = np.stack([red, green, blue], axis=-1)
    assert value("sf", "vifb", image) == pytest.approx(math.sqrt((1 + 9 + 0 + 25 + 49) / 6), abs=1e-14)


@pytest.mark.parametrize("dialect", ["vifb", "tang2022"])
def test_ag_over_fewer_pixels(dialect):
    assert value("ag", dialect, [[0, 3], [4, 7]]) == pytest.approx(4 * math.sqrt((9 + 16) / 2), abs=1e-13)


def test_psnr_by_dialect():
    images = [[10, 10, 20]], [[13, 7, 20]], [[6, 14, 20]]
    mean = (18 / 3 + 32 / 3) / 2
    assert value("psnr", "tang2022", *images) == pytest.approx(10 * math.log10(255**4 / mean), abs=1e-12)
    assert value("psnr", "cddfuse", *images) == pytest.approx(10 * math.log10(20**2 / mean), abs=1e-12)
    norm = (math.sqrt(18) + math.sqrt(32)) / 2 / 3
    assert value("rmse", "vifb", *images) == pytest.approx(norm, abs=1e-14)
    assert value("psnr", "vifb", *images) == pytest.approx(10 * math.log10(255**2 / norm), abs=1e-12)
    assert value("mse", "tang2022", *images) == pytest.approx(mean / 255**2, abs=1e-16)


def smooth(seed: int, height: int = 48, width: int = 60) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width))
    return np.round(cv2.GaussianBlur(noise, (0, 0), 2) * 3 - 255).clip(0, 255)


def test_ssim_by_dialect():
    f, a, b = smooth(1), smooth(2), smooth(3)
    f = np.round((a + b) / 2)
    assert value("ssim", "vifb", f, a, b) == pytest.approx(2 * value("ssim", "standard", f, a, b), rel=1e-14)

    def uniform(x, y):  # scikit-image's defaults: 7 x 7, ddof 1, and a data range of 2 for floats
        windows = [np.lib.stride_tricks.sliding_window_view(z, (7, 7)).reshape(-1, 49) for z in (x, y)]
        m, n = (w.mean(axis=1) for w in windows)
        s, t = (w.var(axis=1, ddof=1) for w in windows)
        c = ((windows[0] - m[:, None]) * (windows[1] - n[:, None])).sum(axis=1) / 48
        c1, c2 = 0.02**2, 0.06**2
        return ((2 * m * n + c1) * (2 * c + c2) / ((m * m + n * n + c1) * (s + t + c2))).mean()

    assert value("ssim", "cddfuse", f, a, b) == pytest.approx(uniform(a, f) + uniform(b, f), rel=1e-9)


def test_vif_of_tang_saturates_at_the_first_scale_only():
    # dark pictures: no product reaches 255, nothing saturates; bright ones: the first scale loses its variance
    a, b = smooth(2) / 255 * 15, smooth(3) / 255 * 15
    f = (a + b) / 2
    assert value("vif", "tang2022", f, a, b) == pytest.approx(value("vif", "standard", f, a, b), rel=1e-12)
    a, b = smooth(2) + 20, smooth(3) + 20
    f = (a + b) / 2
    assert abs(value("vif", "tang2022", f, a, b) - value("vif", "standard", f, a, b)) > 1e-2


def test_qabf_by_dialect_differs_only_by_rounding_and_the_equality_rule():
    f, a, b = smooth(1), smooth(2), smooth(3)
    standard = value("qabf", "standard", f, a, b)
    assert value("qabf", "cddfuse", f, a, b) == standard
    for dialect in ("vifb", "tang2022"):
        assert value("qabf", dialect, f, a, b) == pytest.approx(standard, rel=2e-3)
    # in (a, b) between zeros g = (2 b, 2 a): A has 4, 2, F has 4, 4 where A is first equal. B and A are the same
    fused, source = [[2, 2]], [[1, 2]]
    aligned = 0.9879 / (1 + math.exp(-22 * 0.2))

    def kept(equal: float) -> float:
        strength = [0.9994 / (1 + math.exp(-15 * (ratio - 0.5))) for ratio in (equal, 1 / 2)]
        return (4 * strength[0] + 2 * strength[1]) * aligned / 6

    assert value("qabf", "standard", fused, source, source) == pytest.approx(kept(4), abs=1e-14)
    assert value("qabf", "vifb", fused, source, source) == pytest.approx(kept(4 * 255), abs=1e-14)
    assert value("qabf", "tang2022", fused, source, source) == pytest.approx(kept(4 / 255), abs=1e-14)


def test_a_root_that_is_rounded_right():
    values = np.concatenate([np.random.default_rng(0).uniform(0, 3, 200_000), [0, 1e-30, 2, 4, 1e12]])
    assert np.array_equal(rounded_root(torch.tensor(values)).numpy(), np.sqrt(values))


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_a_value_depends_on_its_own_image_only_in_every_dialect(dialect):
    batch = [torch.stack([tensor(COLOUR[::step, ::step].repeat(step, 0)[:20, :20])[0] for step in order])
             for order in ((1, 2, 3), (3, 1, 2), (2, 3, 1))]  # fmt: skip
    names = [name for name in ("en", "sf", "sd", "mi", "ag", "qabf", "psnr") if dialect in METRICS[name].dialects]
    together = score(*batch, names, dialect)
    for i in range(3):
        alone = score(*(images[i : i + 1] for images in batch), names, dialect)
        for name in names:
            assert float(together[name][i]) == pytest.approx(float(alone[name][0]), rel=1e-13), name
