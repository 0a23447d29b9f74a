"""Every convention of the metrics on cases small enough to work by hand, and what holds for all of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.errors import UserError
from fusion.metrics import METRICS, USUAL, choose, e2, niqe, score
from fusion.metrics.dialects import DIALECTS
from fusion.metrics.triplet import Triplet

NAN = math.nan
ALL = [
    name for name in METRICS if name not in ("niqe", "e2")
]  # those want larger pictures: tested below and in test_viff_niqe
HEIGHT, WIDTH = 163, 170  # just enough for every metric


def image(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def value(name: str, fused, visible=None, infrared=None) -> float:
    fused = image(fused)
    visible = torch.zeros_like(fused) if visible is None else image(visible)
    infrared = torch.zeros_like(fused) if infrared is None else image(infrared)
    return float(score(fused, visible, infrared, [name])[name][0])


def textured(seed: int, batch: int = 1, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Smooth 8-bit pictures with some noise: edges, flat parts, every level."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / generator.uniform(3, 9) + y / generator.uniform(3, 9)) for _ in range(batch)]
    pictures = [127 + 110 * np.clip(wave, -0.8, 0.9) + generator.normal(0, 4, wave.shape) for wave in waves]
    return torch.tensor(np.stack(pictures)[:, None]).round().clamp(0, 255)


def test_en_is_in_bits():
    assert value("en", [[0, 85], [170, 255]]) == pytest.approx(2, abs=1e-15)
    assert value("en", [[7, 7], [7, 9]]) == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2, abs=1e-15)


def test_en_bins_are_the_8_bit_levels():
    assert value("en", [[0.6, 1.4], [254.6, 300]]) == pytest.approx(1, abs=1e-15)  # levels 1, 1, 255, 255


def test_sf_means_over_existing_differences():
    # rows: 3, 0, 0, 4 -> 25 / 4; columns: 0, -3, 1 -> 10 / 3
    assert value("sf", [[0, 3, 3], [0, 0, 4]]) == pytest.approx(math.sqrt(25 / 4 + 10 / 3), abs=1e-14)


def test_sd_is_the_population_form():
    assert value("sd", [[1, 2], [3, 4]]) == pytest.approx(math.sqrt(1.25), abs=1e-15)


def test_sd_of_a_wide_range_does_not_saturate():
    assert value("sd", [[0, 255]]) == 127.5


def test_mi_is_the_sum_over_sources_in_bits():
    fused, same, independent = [[0, 0], [9, 9]], [[30, 30], [5, 5]], [[1, 2], [1, 2]]
    assert value("mi", fused, same, independent) == pytest.approx(1, abs=1e-15)
    assert value("mi", fused, same, fused) == pytest.approx(2, abs=1e-15)


def test_mi_keeps_levels_254_and_255_apart():
    assert value("mi", [[254, 255]], [[254, 255]], [[0, 0]]) == pytest.approx(1, abs=1e-15)


def test_ag_central_differences_one_sided_edges_and_divisor():
    # gx = 1, 2, 3 in each row (edge, centre, edge), gy = 0: mean 2, over sqrt 2; all six pixels count
    assert value("ag", [[0, 1, 4], [0, 1, 4]]) == pytest.approx(2 / math.sqrt(2), abs=1e-15)
    # gx = 3, gy = 4 in all four pixels
    assert value("ag", [[0, 3], [4, 7]]) == pytest.approx(math.sqrt((9 + 16) / 2), abs=1e-14)


def test_scd_correlates_each_difference_with_the_other_source():
    visible, infrared = np.array([[0, 1, 2], [7, 4, 1]]), np.array([[5, 1, 0], [2, 9, 3]])
    assert value("scd", visible + infrared, visible, infrared) == pytest.approx(2, abs=1e-14)
    assert value("scd", infrared - visible, visible, infrared) == pytest.approx(
        -1 + np.corrcoef((infrared - 2 * visible).ravel(), infrared.ravel())[0, 1], abs=1e-14
    )


def sigmoid_strength(ratio: float) -> float:
    return 0.9994 / (1 + math.exp(-15 * (ratio - 0.5)))


def sigmoid_orientation(agreement: float) -> float:
    return 0.9879 / (1 + math.exp(-22 * (agreement - 0.8)))


def test_qabf_zero_border_and_equality_rule():
    # in a row (a, b) between zeros Sobel gives 2 b and -2 a, no vertical part: g = (2 b, 2 a), all angles 0
    # A: g 4, 2; B: g 2, 6; F: g 4, 4. A's first pixel has g_A = g_F = 4: G = 4, not 1
    aligned = sigmoid_orientation(1)
    kept = (
        4 * sigmoid_strength(4)
        + 2 * sigmoid_strength(2 / 4)
        + 2 * sigmoid_strength(2 / 4)
        + 6 * sigmoid_strength(4 / 6)
    )
    assert value("qabf", [[2, 2]], [[1, 2]], [[3, 1]]) == pytest.approx(kept * aligned / 14, abs=1e-14)
    assert abs(sigmoid_strength(4) - sigmoid_strength(1)) > 1e-4  # the case can tell the two rules apart


def test_qabf_orientation_at_vertical_edges():
    # A = (0 0 / 1 0): (Sx, Sy) = (0, -2), (-1, -1), (0, 0), (-2, 0): g = 2, r2, 0, 2; angle pi/2, pi/4, -, 0
    # F = (0 1 / 1 0): (Sx, Sy) = (2, -2), (-1, -1), (1, 1), (-2, 2): g = 2 r2, r2, r2, 2 r2;
    # angle -pi/4, pi/4, pi/4, -pi/4
    root = math.sqrt(2)
    kept = 2 * sigmoid_strength(1 / root) * sigmoid_orientation(1 - 1.5)  # from pi/2 to -pi/4: no wrap-around
    kept += root * sigmoid_strength(root) * sigmoid_orientation(1)  # equal strengths: G = g_F = r2
    kept += 2 * sigmoid_strength(1 / root) * sigmoid_orientation(1 - 0.5)
    assert value("qabf", [[0, 1], [1, 0]], [[0, 0], [1, 0]]) == pytest.approx(kept / (4 + root), abs=1e-14)


def test_nabf_counts_edges_stronger_than_in_both_sources():
    # as above: A g 4, 2; B g 2, 6; F = (3, 2) has g 4, 6: stronger than both nowhere (A's first is equal)
    assert value("nabf", [[3, 2]], [[1, 2]], [[3, 1]]) == 0
    # F = (2, 3) has g 6, 4: its first pixel is stronger than 4 and 2
    aligned = sigmoid_orientation(1)
    lost = 4 * (1 - sigmoid_strength(4 / 6) * aligned) + 2 * (1 - sigmoid_strength(2 / 6) * aligned)
    assert value("nabf", [[2, 3]], [[1, 2]], [[3, 1]]) == pytest.approx(lost / 14, abs=1e-14)


def test_cc_is_the_mean_of_two_correlations():
    fused, visible, infrared = np.array([[0, 1, 2], [7, 4, 1]]), np.array([[5, 1, 0], [2, 9, 3]]), np.eye(2, 3)
    wanted = [np.corrcoef(fused.ravel(), source.ravel())[0, 1] for source in (visible, infrared)]
    assert value("cc", fused, visible, infrared) == pytest.approx(sum(wanted) / 2, abs=1e-14)


def test_mse_is_the_mean_error_and_rmse_the_mean_of_two_roots():
    assert value("mse", [[10, 10]], [[13, 7]], [[6, 14]]) == (9 + 16) / 2
    assert value("rmse", [[10, 10]], [[13, 7]], [[6, 14]]) == pytest.approx(3.5, abs=1e-15)


def test_ce_is_the_divergence_over_shared_levels_in_bits():
    # A has 1 1 2 3, B is F, F has 1 2 2 9: shared levels 1 and 2; 1/2 log2(2) + 1/4 log2(1/2), halved with B's 0
    assert value("ce", [[1, 2], [2, 9]], [[1, 1], [2, 3]], [[1, 2], [2, 9]]) == pytest.approx(
        (0.5 - 0.25) / 2, abs=1e-15
    )


def test_nmi_is_twice_the_share_of_each_entropy():
    fused, same, independent = [[0, 0], [9, 9]], [[30, 30], [5, 5]], [[1, 2], [1, 2]]
    assert value("nmi", fused, same, independent) == pytest.approx(2 * (1 / 2 + 0 / 2), abs=1e-15)


def test_ei_repeats_the_border():
    # a step of 4 between columns: the two pixels beside it have Sx = 16, Sy = 0; the outer ones 0
    assert value("ei", [[1, 1, 5, 5]] * 3) == pytest.approx(16 * 2 / 4, abs=1e-14)
    assert value("ei", [[1, 5]]) == pytest.approx(16, abs=1e-14)


def test_brenner_is_a_sum_along_rows():
    assert value("brenner", [[1, 5, 4, 5], [9, 0, 9, 2]]) == 3**2 + 0 + 0 + 2**2


def test_msssim_is_the_product_of_five_scales():
    sources = [textured(seed, 1, 163, 190)[0, 0].numpy() for seed in (2, 3)]
    images = [np.round(0.7 * sources[0] + 0.3 * sources[1]), *sources]
    offset = np.arange(11) - 5
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(x):
        return np.einsum("yxij,ij->yx", np.lib.stride_tricks.sliding_window_view(x, (11, 11)), window)

    def halve(x):
        x = np.pad(x, ((0, x.shape[0] % 2), (0, x.shape[1] % 2)), mode="edge")
        return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4

    total = 0.0
    for source in images[1:]:
        f, a, product = images[0], source, 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            m, n = mean(a), mean(f)
            s, t, c = mean(a * a) - m * m, mean(f * f) - n * n, mean(a * f) - m * n
            term = (2 * c + 58.5225) / (s + t + 58.5225)
            if scale == 4:
                term = term * (2 * m * n + 6.5025) / (m * m + n * n + 6.5025)
            product *= max(term.mean(), 0) ** weight
            f, a = halve(f), halve(a)
        total += product / 2
    found = score(*(torch.tensor(x)[None, None] for x in images), ["msssim"])["msssim"]
    assert float(found[0]) == pytest.approx(total, rel=1e-10) and total > 0.1


def test_psnr_is_of_the_mean_error_and_peak_255():
    expected = 10 * math.log10(255**2 / ((9 + 16) / 2))
    assert value("psnr", [[10, 10]], [[13, 7]], [[6, 14]]) == pytest.approx(expected, abs=1e-13)


def test_ssim_one_window_by_hand():
    fused, visible, infrared = (textured(seed, height=11, width=11) for seed in (1, 2, 3))
    offset = np.arange(11) - 5
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    f = fused[0, 0].numpy()
    for source in (visible[0, 0].numpy(), infrared[0, 0].numpy()):
        m, n = (window * source).sum(), (window * f).sum()
        s, t, c = (
            (window * (source - m) ** 2).sum(),
            (window * (f - n) ** 2).sum(),
            (window * (source - m) * (f - n)).sum(),
        )
        values.append((2 * m * n + 6.5025) * (2 * c + 58.5225) / ((m**2 + n**2 + 6.5025) * (s + t + 58.5225)))
    assert float(score(fused, visible, infrared, ["ssim"])["ssim"][0]) == pytest.approx(sum(values) / 2, abs=1e-12)


def test_vif_is_a_gain_against_noise_of_variance_2():
    source, other = textured(4), torch.full((1, 1, HEIGHT, WIDTH), 90.0)
    vif = {
        name: float(score(fused, source, source, ["vif"])["vif"][0]) / 2
        for name, fused in {"half": source / 2, "shift": source + 9, "negative": 255 - source, "flat": other}.items()
    }
    assert vif["shift"] == pytest.approx(1, abs=1e-8)
    assert 1 / 4 < vif["half"] < 1  # log(1 + s / 8) / log(1 + s / 2) at any variance s
    assert vif["negative"] == vif["flat"] == 0


def test_identical_images():
    same = textured(5)
    values = {name: float(found[0]) for name, found in score(same, same, same, ALL).items()}
    assert values["ssim"] == pytest.approx(1, abs=1e-12)
    assert values["vif"] == pytest.approx(2, abs=1e-8)
    assert values["mi"] == pytest.approx(2 * values["en"], abs=1e-12)
    assert values["qabf"] == pytest.approx(0.9994 * sigmoid_orientation(1), abs=1e-3)
    assert values["psnr"] == math.inf
    assert math.isnan(values["scd"])
    assert values["mse"] == values["rmse"] == values["nabf"] == values["ce"] == 0
    assert values["cc"] == pytest.approx(1, abs=1e-12)
    assert values["msssim"] == pytest.approx(1, abs=1e-12)
    assert values["nmi"] == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("level", [0, 77, 255, 0.1])
def test_constant_images(level):
    flat = torch.full((1, 1, HEIGHT, WIDTH), float(level), dtype=torch.float64)
    expected = {"en": 0, "sf": 0, "sd": 0, "mi": 0, "ag": 0, "ssim": 1, "psnr": math.inf, "vif": NAN, "scd": NAN}
    expected |= {"cc": NAN, "mse": 0, "rmse": 0, "msssim": 1, "brenner": 0, "ce": 0, "ei": 0, "nmi": NAN}
    values = score(flat, flat, flat, ALL)
    for name, wanted in expected.items():
        assert float(values[name][0]) == pytest.approx(wanted, abs=1e-12, nan_ok=True), name
    assert torch.isnan(values["qabf"][0]) if level == 0 else 0 < values["qabf"][0] < 1  # the rim is an edge


def test_constant_fused_image_keeps_nothing():
    values = score(torch.full((1, 1, HEIGHT, WIDTH), 100.0), textured(1), textured(2))
    assert float(values["mi"][0]) == pytest.approx(0, abs=1e-12)
    assert float(values["vif"][0]) == 0
    assert float(values["scd"][0]) == pytest.approx(
        -2 * np.corrcoef(textured(1).ravel(), textured(2).ravel())[0, 1], abs=1e-12
    )


def test_one_constant_source_leaves_its_information_and_correlation_open():
    values = score(textured(1), textured(2), torch.full((1, 1, HEIGHT, WIDTH), 33.3), ALL)
    assert {name for name in ALL if torch.isnan(values[name][0])} == {
        *("vif", "vif_infrared", "vif_smaller", "viff", "scd", "cc")
    }


def test_scd_ignores_rounding_noise_in_a_constant_difference():
    visible = textured(6) / 3
    assert torch.isnan(score(visible + 0.1, visible, textured(7), ["scd"])["scd"][0])


@pytest.mark.parametrize(
    ("height", "width", "missing"),
    [
        (1, 1, {"sf", "vif", "viff", "ag", "scd", "ssim", "msssim", "cc", "brenner", "nmi", "qcb", "qcv"}),
        (1, 50, {"sf", "vif", "viff", "ag", "ssim", "msssim"}),
        (10, 50, {"vif", "viff", "ssim", "msssim"}),
        (11, 11, {"vif", "viff", "msssim"}),
        (40, 170, {"vif", "viff", "msssim"}),
        (41, 160, {"msssim"}),
        (161, 161, set()),
    ],
)
def test_images_too_small_for_a_filter_score_nan(height, width, missing):
    images = [textured(seed, 2)[..., :height, :width] for seed in (1, 2, 3)]
    images[0][..., 0, 0] = 140.0  # a lone pixel is an edge of nothing: its Sobel sums are 0
    values = score(*images, ALL)
    missing = missing | ({"qabf", "nabf"} if height == width == 1 else set())
    missing |= {f"{name}_{of}" for name in missing & {"qabf", "vif"} for of in ("visible", "infrared", "smaller")}
    assert {name for name in ALL if torch.isnan(values[name]).any()} == missing


def test_a_value_depends_on_its_own_image_only():
    images = [textured(seed, batch=8) for seed in (10, 20, 30)]
    images[0][3], images[1][5] = 128.0, 0.0  # constant neighbours too
    for name in ALL:
        alone = torch.cat([score(*(batch[i : i + 1] for batch in images), [name])[name] for i in range(8)])
        # `score` may split a batch: ask the metric itself as well
        for together in (score(*images, [name])[name], METRICS[name].dialects["standard"](Triplet(*images))):
            np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12, err_msg=name)


def test_threads_change_no_value():
    for batch in (1, 3):  # large enough that torch would share out a single sum
        images = [textured(seed, batch, 260, 280) for seed in (10, 20, 30)]
        alone = score(*images, list(METRICS))
        torch.set_num_threads(3)
        try:
            shared = score(*images, list(METRICS))
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(1)
        assert all(torch.equal(alone[name], shared[name]) for name in METRICS)


def test_a_function_can_stand_in_for_a_metric():
    images = [textured(seed, batch=2) for seed in (10, 20, 30)]
    found = score(*images, ["sd", "en"], instead={"en": lambda t: t.fused.amax(dim=(1, 2, 3))})
    assert list(found) == ["sd", "en"] and torch.equal(found["en"], images[0].amax(dim=(1, 2, 3)))
    assert torch.equal(found["sd"], score(*images, ["sd"])["sd"])


def test_a_broken_pixel_costs_its_own_image_only():
    images = [textured(seed, batch=3) for seed in (10, 20, 30)]
    clean = score(*images, ALL)
    images[0][0, 0, 5, 5], images[2][2, 0, 0, 0] = NAN, math.inf
    for name, broken in score(*images, ALL).items():
        assert torch.isnan(broken[[0, 2]]).all(), name
        assert torch.allclose(broken[1], clean[name][1], rtol=1e-12, atol=1e-12), name


def test_integers_and_floats_score_alike_and_stay_as_they_were():
    images = [textured(seed, batch=2) for seed in (1, 2, 3)]
    before = [batch.clone() for batch in images]
    expected = score(*images, ALL)
    for dtype in (torch.uint8, torch.float32):
        found = score(*(batch.to(dtype) for batch in images), ALL)
        for name in ALL:
            assert found[name].dtype == torch.float64 and found[name].shape == (2,)
            assert torch.equal(found[name], expected[name]), name
    assert all(torch.equal(old, new) for old, new in zip(before, images, strict=True))


def test_swapping_the_sources_changes_nothing():
    fused, visible, infrared = (textured(seed, 2) for seed in (1, 2, 3))
    one, other = score(fused, visible, infrared, ALL), score(fused, infrared, visible, ALL)
    sides = {"visible": "infrared", "infrared": "visible"}
    for name in sorted(set(ALL) - {"viff"}):  # where both sources are kept alike well, VIFF takes the second
        metric, _, side = name.partition("_")
        swapped = f"{metric}_{sides[side]}" if side in sides else name
        assert torch.allclose(one[name], other[swapped], rtol=1e-12, atol=1e-12), name


def test_what_is_kept_of_each_source_and_of_both():
    visible, infrared = (textured(seed, 2, 64, 80) for seed in (2, 3))
    names = [f"{metric}_{side}" for metric in ("qabf", "vif") for side in ("visible", "infrared", "smaller")]
    ways = {"copy": visible, "average": (visible + infrared) / 2}
    scores = {way: score(image, visible, infrared, ["qabf", "vif", *names]) for way, image in ways.items()}
    for found in scores.values():
        for metric in ("qabf", "vif"):
            parts = torch.stack([found[f"{metric}_visible"], found[f"{metric}_infrared"]])
            assert torch.equal(found[f"{metric}_smaller"], parts.amin(0))
            assert (parts.amin(0) < found[metric]).all()
        assert torch.allclose(found["vif_visible"] + found["vif_infrared"], found["vif"], rtol=1e-12)
    # a copy of a source has the higher sums, and keeps little of the other source
    for metric in ("qabf", "vif"):
        assert (scores["copy"][f"{metric}_visible"] > 0.97).all()
        assert (scores["copy"][f"{metric}_smaller"] < scores["average"][f"{metric}_smaller"]).all()


@pytest.mark.parametrize(
    "name", sorted(set(ALL) - {"en", "sf", "sd", "ag", "ei", "brenner", "ce"})
)  # those score any noise high, and CE skips what the fused image lacks
def test_more_of_the_sources_scores_better(name):
    """The mean of the sources against noise around a grey: the direction in the table is the true one."""
    visible, infrared = textured(1), textured(2)
    noise = torch.tensor(np.random.default_rng(0).integers(100, 150, visible.shape)).double()
    good, bad = (score(fused, visible, infrared, [name])[name][0] for fused in ((visible + infrared) / 2, noise))
    assert bool(good > bad) == METRICS[name].higher_is_better


def test_the_table():
    for name, metric in METRICS.items():
        assert metric.name == name and metric.label and metric.range and metric.source
        assert metric.needs in (("fused",), ("fused", "visible", "infrared"))
        assert set(metric.dialects) <= set(DIALECTS) and "standard" in metric.dialects
    assert set(USUAL) <= set(METRICS)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.needs == ("fused",)])
def test_metrics_of_the_fused_image_do_not_look_at_the_sources(name):
    images = [textured(seed, 1, 200, 220) for seed in (1, 2, 3, 4, 5)]
    for dialect in METRICS[name].dialects:
        one, other = score(*images[:3], [name], dialect), score(images[0], *images[3:], [name], dialect)
        assert torch.equal(one[name], other[name]) and not torch.isnan(one[name]).any()


def test_names_select_and_order():
    images = [textured(seed) for seed in (1, 2, 3)]
    assert list(score(*images, names=["ssim", "en"])) == ["ssim", "en"]
    assert list(score(*images)) == list(USUAL)
    assert choose(None, "tang2022") == ["en", "sf", "sd", "mi", "vif", "ag", "scd", "qabf", "psnr"]


def test_an_unknown_name_is_answered_with_the_known_ones():
    images = [textured(seed) for seed in (1, 2, 3)]
    with pytest.raises(UserError, match=r"xabf.*en, sf, .*ssim"):
        score(*images, names=["en", "xabf"])
    with pytest.raises(UserError, match=r"unknown dialect 'tang': choose from standard, vifb"):
        score(*images, dialect="tang")
    with pytest.raises(UserError, match=r"vifb dialect has no vif, scd: it has en, "):
        score(*images, names=["en", "vif", "scd"], dialect="vifb")


def test_shapes_are_checked():
    good = textured(1)
    with pytest.raises(ValueError, match="one batch and size"):
        score(good, good, good[..., :-1])
    with pytest.raises(ValueError, match="B x 1 or 3 x H x W"):
        score(good[0], good[0], good[0])
    two = good.expand(-1, 2, -1, -1)
    with pytest.raises(ValueError, match="B x 1 or 3 x H x W"):
        score(two, two, two)


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_an_empty_batch_scores_nothing(dialect):
    empty = torch.zeros(0, 1, HEIGHT, WIDTH)
    names = [name for name in METRICS if dialect in METRICS[name].dialects]
    assert all(found.shape == (0,) for found in score(empty, empty, empty, names, dialect).values())


def test_e2_is_the_mean_of_five_scaled_terms():
    visible, infrared = textured(2, 1, 200, 230), textured(3, 1, 200, 230)
    images = [(visible + infrared) / 2, visible, infrared]
    found = {n: float(v[0]) for n, v in score(*images, ["niqe", "psnr", "ssim", "brenner", "viff", "e2"]).items()}
    terms = (3 / found["niqe"], found["psnr"] / 30, found["ssim"], found["brenner"] / (200 * 230 * 100), found["viff"])
    assert found["e2"] == pytest.approx(sum(terms) / 5, rel=1e-12)
    assert math.isnan(score(*(image[..., :90, :90] for image in images), ["e2"])["e2"][0])
    own = replace(niqe.shipped(), mu_F=niqe.shipped().mu_F + 0.1, name="another")
    other = {"niqe": niqe.with_model(own), "e2": e2.with_model(own)}
    changed = {n: float(v[0]) for n, v in score(*images, ["niqe", "e2"], instead=other).items()}
    gap = (3 / changed["niqe"] - 3 / found["niqe"]) / 5
    assert changed["e2"] - found["e2"] == pytest.approx(gap, rel=1e-9) and abs(gap) > 1e-6


def test_the_docs_know_every_metric_and_dialect():
    text = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text()
    for name, metric in METRICS.items():
        others = ", ".join(dialect for dialect in DIALECTS if dialect in metric.dialects and dialect != "standard")
        better = "higher" if metric.higher_is_better else "lower"
        assert f"| {metric.label} | `{name}` | {better} | {metric.range} |" in text, name
        assert f"| {others or '-'} | {metric.source} |" in text, name
    assert all(f"| `{dialect}` |" in text for dialect in DIALECTS)
