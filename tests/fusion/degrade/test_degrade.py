from __future__ import annotations

import hashlib
import json
import math
from itertools import combinations, pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.degrade import (
    FAMILIES,
    PRESETS,
    Degradation,
    defocus,
    degrade,
    expand_preset,
    haze,
    noise,
    parse_degradation,
    stripes,
)
from fusion.errors import UserError
from fusion.seeds import make_rng
from tests.helpers.data import DATA, evidence

GOLDEN = [817344496, 176588473, 2148551039]
SINGLES = [Degradation(((name, level),)) for name, family in FAMILIES.items() for level in family.levels]
SIZES = [(1, 1), (1, 2), (2, 1), (3, 5), (17, 640), (640, 17), (61, 83)]


def scene(height: int = 180, width: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A street of boxes under a bright sky, with texture; and its infrared image."""
    rng = np.random.default_rng(seed)
    y = np.linspace(0, 1, height)[:, None]
    grey = np.where(y < 0.4, 0.75, 0.35) + 0.1 * np.sin(40 * y + np.linspace(0, 9, width)[None])
    for _ in range(8):
        top, left = rng.integers(0, max(1, height - 8)), rng.integers(0, max(1, width - 8))
        grey[top : top + height // 4, left : left + width // 6] = rng.uniform(0.1, 0.6)
    colour = grey[..., None] * rng.uniform(0.8, 1.1, 3) + rng.normal(0, 0.02, (height, width, 3))
    infrared = 1 - grey + rng.normal(0, 0.01, (height, width))
    return tuple(np.clip(image * 255, 0, 255).astype(np.uint8) for image in (colour, infrared))


def grey_pair(height: int, width: int, level: int = 128) -> tuple[np.ndarray, np.ndarray]:
    return np.full((height, width, 3), level, np.uint8), np.full((height, width), level, np.uint8)


def changed(pair: tuple[np.ndarray, np.ndarray], degradation: Degradation, **options) -> np.ndarray:
    """The degraded image of the one modality that a single family degrades."""
    return getattr(degrade(*pair, degradation, **options), FAMILIES[degradation.name].modality)


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    return -10 * math.log10(np.mean((image / 255.0 - clean / 255.0) ** 2))


def as_bytes(pair: tuple[np.ndarray, np.ndarray], text: str, **options) -> bytes:
    result = degrade(*pair, parse_degradation(text), **options)
    return result.visible.tobytes() + result.infrared.tobytes()


# --- names, presets ---------------------------------------------------------------------------------------------------


def test_table_is_in_imaging_chain_order_and_has_the_stated_levels():
    assert list(FAMILIES) == ["haze", "defocus", "noise", "stripes"]
    assert [f.modality for f in FAMILIES.values()] == ["visible", "visible", "visible", "infrared"]
    assert {name: list(f.levels.items()) for name, f in FAMILIES.items()} == {
        "haze": [(1, 0.6), (2, 1.2), (3, 2.0)],
        "defocus": [(1, 2.0), (2, 4.0), (3, 6.0)],
        "noise": [(1, 15.0), (2, 25.0), (3, 50.0)],
        "stripes": [(1, 0.02), (2, 0.05), (3, 0.10)],
    }
    assert all(name == family.name for name, family in FAMILIES.items())


def test_names_of_a_mixture_are_canonical():
    mixture = parse_degradation(" noise3 + haze2")
    assert mixture.parts == (("haze", 2), ("noise", 3))
    assert (mixture.name, mixture.level, str(mixture)) == ("haze+noise", "2+3", "haze2+noise3")
    assert mixture == Degradation((("noise", 3), ("haze", 2)))
    clean = parse_degradation("clean")
    assert (clean.parts, clean.name, clean.level, str(clean)) == ((), "clean", "0", "clean")


parts_strategy = st.lists(
    st.sampled_from([(name, level) for name, family in FAMILIES.items() for level in family.levels]),
    unique_by=lambda part: part[0],
).map(tuple)


@given(parts_strategy, st.randoms())
def test_parse_is_the_inverse_of_str(parts, random):
    degradation = Degradation(parts)
    assert parse_degradation(str(degradation)) == degradation
    assert set(degradation.parts) == set(parts)
    items = str(degradation).split("+")
    random.shuffle(items)
    assert parse_degradation("+".join(items)) == degradation


@pytest.mark.parametrize("text", ["fog2", "noise4", "noise0", "noise", "noise2+noise3", "clean+noise1", "", "+", "2"])
def test_parse_says_what_is_known(text):
    with pytest.raises(UserError) as caught:
        parse_degradation(text)
    message = str(caught.value)
    assert "\n" not in message
    if text == "noise4":
        assert "noise1, noise2, noise3" in message
    elif text == "noise2+noise3":
        assert "twice" in message
    else:
        assert all(name in message for name in FAMILIES) and "clean" in message


def test_presets_are_those_of_the_paper():
    assert [str(d) for d in PRESETS["demmi-rf"]] == ["noise1", "noise2", "noise3", "haze2", "defocus2", "stripes2"]
    grid = [f"{name}{level}" for name in ("haze", "defocus", "noise", "stripes") for level in (1, 2, 3)]
    assert [str(d) for d in PRESETS["grid"]] == ["clean", *grid]
    assert [str(d) for d in PRESETS["combinations"]] == [
        "haze2+noise1",
        "haze2+noise2",
        "haze2+noise3",
        "defocus2+noise1",
        "defocus2+noise2",
        "defocus2+noise3",
        "noise1+stripes2",
        "noise2+stripes2",
        "noise3+stripes2",
        "haze2+defocus2",
        "haze2+stripes2",
        "defocus2+stripes2",
        "haze2+defocus2+stripes2",
        "haze2+noise3+stripes2",
        "haze2+defocus2+noise3",
        "defocus2+noise3+stripes2",
        "haze2+defocus2+noise3+stripes2",
    ]


def test_expand_takes_presets_and_lists_once_each_in_order():
    assert expand_preset("demmi-rf") == PRESETS["demmi-rf"]
    assert [str(d) for d in expand_preset("noise1, noise3+haze2,noise1")] == ["noise1", "haze2+noise3"]
    assert expand_preset("DeMMI-RF,clean") == (*PRESETS["demmi-rf"], Degradation())
    assert len(expand_preset("demmi-rf,grid,combinations")) == 13 + 17
    for text in ("", "noise1,", "everything", "noise9"):
        with pytest.raises(UserError, match="demmi-rf, demmi-rf-counts, grid, combinations"):
            expand_preset(text)


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degradation", SINGLES, ids=str)
def test_same_seed_and_key_same_bytes(degradation):
    pair = scene()
    first = degrade(*pair, degradation, seed=7, key="a")
    second = degrade(*pair, degradation, seed=7, key="a")
    assert first.visible.tobytes() == second.visible.tobytes()
    assert first.infrared.tobytes() == second.infrared.tobytes()
    assert first.parameters == second.parameters
    if degradation.name != "defocus":  # nothing about defocus is random
        image = changed(pair, degradation, seed=7, key="a")
        assert not np.array_equal(image, changed(pair, degradation, seed=8, key="a"))
        assert not np.array_equal(image, changed(pair, degradation, seed=7, key="b"))


def test_a_seed_and_key_give_these_numbers_for_ever():
    # sha256 of "7|a|noise" in PCG64; another value here means that every corpus changes
    assert make_rng(7, "a", "noise").integers(0, 2**32, 3).tolist() == GOLDEN
    assert make_rng(7, "a", "haze").integers(0, 2**32, 3).tolist() != GOLDEN


@pytest.mark.parametrize(("single", "mixture"), [("noise2", "haze2+noise2"), ("stripes1", "noise3+stripes1")])
def test_a_family_draws_the_same_alone_and_in_a_mixture(single, mixture):
    pair = grey_pair(40, 60)
    alone = degrade(*pair, parse_degradation(single), seed=1, key="k")
    both = degrade(*pair, parse_degradation(mixture), seed=1, key="k")
    name = parse_degradation(single).name
    assert alone.parameters[name] == both.parameters[name]
    if name == "stripes":
        assert np.array_equal(alone.infrared, both.infrared)
    else:
        hazy = degrade(*pair, parse_degradation("haze2"), seed=1, key="k").visible.astype(int)
        added = alone.visible.astype(int) - pair[0]
        inside = (both.visible > 0) & (both.visible < 255) & (alone.visible > 0) & (alone.visible < 255)
        assert np.abs((both.visible - hazy - added)[inside]).max() <= 1 and inside.mean() > 0.9


@pytest.mark.parametrize("size", [(61, 83), (480, 640)])
def test_bytes_do_not_depend_on_the_number_of_threads(size):
    pair, before, found = scene(*size), cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            found.append(
                [as_bytes(pair, t, seed=1, key="k") for t in ("haze2", "defocus1", "defocus3+noise1+stripes3")]
            )
    finally:
        cv2.setNumThreads(before)
    assert found[0] == found[1] == found[2]


# --- all families -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("text", ["clean", *map(str, SINGLES), "haze3+defocus3+noise3+stripes3"])
def test_every_size_gives_uint8_of_that_size(size, text):
    visible, infrared = scene(*size)
    kept = visible.copy(), infrared.copy()
    result = degrade(visible, infrared, parse_degradation(text), seed=3, key="k")
    assert result.visible.shape == (*size, 3) and result.infrared.shape == size
    assert result.visible.dtype == result.infrared.dtype == np.uint8
    assert np.array_equal(visible, kept[0]) and np.array_equal(infrared, kept[1])
    assert list(result.parameters) == [name for name, _ in parse_degradation(text).parts]
    assert json.loads(json.dumps(result.parameters)) == result.parameters
    for value in (v for used in result.parameters.values() for v in used.values()):
        assert isinstance(value, str) or math.isfinite(value)


@pytest.mark.parametrize("text", ["clean", *map(str, SINGLES)])
def test_the_other_modality_comes_back_as_it_was(text):
    visible, infrared = scene()
    result = degrade(visible, infrared, parse_degradation(text), seed=3, key="k")
    touched = {FAMILIES[name].modality for name, _ in parse_degradation(text).parts}
    assert ("visible" in touched) != np.array_equal(result.visible, visible)
    assert ("infrared" in touched) != np.array_equal(result.infrared, infrared)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_psnr_falls_with_the_level(name, seed):
    pair = scene(seed=seed)
    assert_psnr_falls(pair, name, key=str(seed))


@evidence("roadscene")
@pytest.mark.parametrize("key", ["FLIR_00211", "FLIR_00018", "FLIR_00550", "FLIR_video_03374"])
@pytest.mark.parametrize("name", FAMILIES)
def test_psnr_falls_with_the_level_on_photographs(name, key):
    folder = DATA / "roadscene"
    visible = cv2.cvtColor(cv2.imread(str(folder / "visible" / f"{key}.jpg")), cv2.COLOR_BGR2RGB)
    assert_psnr_falls((visible, cv2.imread(str(folder / "infrared" / f"{key}.jpg"), cv2.IMREAD_GRAYSCALE)), name, key)


def assert_psnr_falls(pair: tuple[np.ndarray, np.ndarray], name: str, key: str) -> None:
    clean = pair[0] if FAMILIES[name].modality == "visible" else pair[1]
    levels = [psnr(changed(pair, Degradation(((name, n),)), seed=5, key=key), clean) for n in (1, 2, 3)]
    assert levels[0] > levels[1] + 0.5 and levels[1] > levels[2] + 0.5
    assert 8 < levels[2] and levels[0] < 50


def test_a_view_in_memory_gives_the_bytes_of_its_copy():
    visible, infrared = scene()
    views = visible[::-1, :, ::-1], np.asfortranarray(infrared)
    copies = tuple(np.ascontiguousarray(view) for view in views)
    text = "haze2+defocus2+noise2+stripes2"
    assert as_bytes(views, text, seed=1, key="k") == as_bytes(copies, text, seed=1, key="k")


def test_images_of_another_kind_are_refused_by_name():
    visible, infrared = scene(8, 9)
    for bad in ((visible / 255.0, infrared), (visible, visible), (infrared, infrared), (visible[:0], infrared)):
        with pytest.raises(UserError, match=r"street-1.: the (visible|infrared) image is"):
            degrade(*bad, parse_degradation("noise1"), seed=0, key="street-1")
    for depth in (np.zeros((8, 8)), np.full((8, 9), 1.5), np.full((8, 9), np.nan)):
        with pytest.raises(UserError, match="pair 'street-1': the depth map"):
            degrade(visible, infrared, parse_degradation("haze1"), seed=0, key="street-1", depth=depth)


# --- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "sigma"), [(1, 15), (2, 25), (3, 50)])
def test_noise_has_the_moments_of_its_level(level, sigma):
    pair = grey_pair(200, 250, 128)
    result = degrade(*pair, Degradation((("noise", level),)), seed=2, key="k")
    added = result.visible.astype(np.float64) - 128
    count = added[..., 0].size
    # clipped at 127 / sigma standard deviations: 2.5 at level 3, which takes 1 % off the variance
    expected = math.sqrt(np.mean(np.clip(np.random.default_rng(0).standard_normal(10**6) * sigma, -128, 127) ** 2))
    for c in range(3):
        assert abs(added[..., c].mean()) < 5 * sigma / math.sqrt(count) + 0.05 * (level == 3)
        assert abs(added[..., c].std() / expected - 1) < 5 / math.sqrt(2 * count) + 0.002
    assert result.parameters["noise"] == {"sigma": sigma / 255}


def test_noise_is_independent_over_channels_and_pixels():
    unit = noise.draw(make_rng(1, "k", "noise"), 200, 250, 3).astype(np.float64)
    bound = 5 / math.sqrt(unit[..., 0].size)
    for a, b in combinations(range(3), 2):
        assert abs(np.mean(unit[..., a] * unit[..., b])) < bound
    assert abs(np.mean(unit[1:] * unit[:-1])) < bound
    assert abs(np.mean(unit[:, 1:] * unit[:, :-1])) < bound
    kurtosis = np.mean(unit**4) / np.mean(unit**2) ** 2
    assert abs(kurtosis - 3) < 5 * math.sqrt(24 / unit.size)


def test_levels_scale_one_noise():
    pair = scene()
    low = changed(pair, parse_degradation("noise1"), seed=1, key="k").astype(float)
    high = changed(pair, parse_degradation("noise3"), seed=1, key="k").astype(float)
    inside = (low > 0) & (low < 255) & (high > 0) & (high < 255)
    error = (high - pair[0]) - (low - pair[0]) * 50 / 15
    assert inside.mean() > 0.8
    assert np.abs(error[inside]).max() <= 0.5 + 0.5 * 50 / 15 + 1e-3  # both were rounded


VISIBLE = [text for text in map(str, SINGLES) if FAMILIES[parse_degradation(text).name].modality == "visible"]


@pytest.mark.parametrize("size", [(61, 83), (120, 160)])  # the small one sums discs by Fourier transform
@pytest.mark.parametrize("text", [*VISIBLE, "haze2+defocus2+noise3"])
def test_a_grey_image_stays_grey(text, size):
    visible, infrared = scene(*size)
    grey = np.repeat(visible[..., :1], 3, axis=2)
    result = degrade(grey, infrared, parse_degradation(text), seed=7, key="a")
    assert result.visible.shape == (*size, 3) and result.visible.flags.c_contiguous
    assert (result.visible == result.visible[..., :1]).all()
    assert not np.array_equal(result.visible, grey) or text == "defocus1"  # a disc inside one pixel, if small


@pytest.mark.parametrize(("level", "sigma"), [(1, 15), (2, 25), (3, 50)])
def test_the_luma_of_grey_noise_has_all_of_sigma_and_that_of_colour_two_thirds(level, sigma):
    """In a colour image sigma is per channel: three independent draws, of which luma takes the weighted mean."""
    grey = np.full((200, 250, 3), 128, np.uint8)
    colour = grey.copy()
    colour[0, 0, 0] = 127
    for image, factor in ((grey, 1.0), (colour, math.sqrt(0.299**2 + 0.587**2 + 0.114**2))):
        noisy = degrade(image, image[..., 1], Degradation((("noise", level),)), seed=7, key="a").visible
        luma = noisy @ np.array([0.299, 0.587, 0.114])
        assert luma.std() == pytest.approx(factor * sigma, rel=0.025)  # clipping takes 1 % at level 3


def test_haze_over_a_grey_image_is_that_of_its_airlight():
    visible, infrared = scene()
    grey = np.repeat(visible[..., :1], 3, axis=2)
    used = degrade(grey, infrared, parse_degradation("haze2"), seed=7, key="a").parameters["haze"]
    tinted = degrade(visible, infrared, parse_degradation("haze2"), seed=7, key="a").parameters["haze"]
    assert used["airlight_r"] == used["airlight_g"] == used["airlight_b"] != tinted["airlight_r"]
    assert abs(used["airlight_r"] - tinted["airlight_r"]) <= haze.TINT and used["horizon"] == tinted["horizon"]


# sha256 of what the revision before grey images were told apart made of this colour pair
COLOUR = {"noise1": "2a587f1e859e3d4d", "noise3": "6fb4b4ebfde10ef5"}


@pytest.mark.parametrize("text", COLOUR)
def test_colour_images_keep_their_bytes(text):
    rng = np.random.default_rng(0)
    visible = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)
    infrared = rng.integers(0, 256, (61, 83), dtype=np.uint8)
    assert hashlib.sha256(as_bytes((visible, infrared), text, seed=7, key="a")).hexdigest()[:16] == COLOUR[text]


# --- haze -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3])
def test_haze_is_the_scattering_model_over_a_depth_map(level):
    visible, infrared = scene()
    depth = np.random.default_rng(1).random(visible.shape[:2])
    result = degrade(visible, infrared, Degradation((("haze", level),)), seed=1, key="k", depth=depth)
    used = result.parameters["haze"]
    assert used["depth"] == "map" and used["beta"] == FAMILIES["haze"].levels[level]
    air = np.array([used["airlight_r"], used["airlight_g"], used["airlight_b"]])
    t = np.exp(-used["beta"] * depth)[..., None]
    exact = 255 * (visible / 255 * t + air * (1 - t))
    assert np.abs(result.visible - exact).max() < 0.5 + 1e-3


def test_haze_leaves_depth_zero_alone():
    visible, infrared = scene()
    result = degrade(visible, infrared, parse_degradation("haze3"), seed=1, key="k", depth=np.zeros(visible.shape[:2]))
    assert np.array_equal(result.visible, visible)


def test_airlight_is_nearly_grey_in_its_range_and_shared_by_the_levels():
    pair, greys = grey_pair(4, 6), []
    for i in range(200):
        used = degrade(*pair, parse_degradation("haze1"), seed=0, key=str(i)).parameters["haze"]
        air = [used["airlight_r"], used["airlight_g"], used["airlight_b"]]
        assert 0.7 <= min(air) and max(air) <= 0.95 and max(air) - min(air) <= 2 * haze.TINT
        greys.append(np.mean(air))
    assert min(greys) < 0.74 and max(greys) > 0.91 and abs(np.mean(greys) - 0.825) < 0.02
    low, high = (degrade(*pair, parse_degradation(t), seed=0, key="x").parameters["haze"] for t in ("haze1", "haze3"))
    assert {**low, "beta": 0} == {**high, "beta": 0} and low["depth"] == "proxy"


@pytest.mark.parametrize("seed", range(4))
def test_depth_proxy_is_far_at_the_top_and_near_at_the_bottom(seed):
    visible, _ = scene(120, 160, seed=seed)
    depth = haze.depth_proxy(visible / np.float32(255), horizon=0.4)
    assert depth.shape == (120, 160) and depth.min() >= 0 and depth.max() <= 1
    rows = [band.mean() for band in np.array_split(depth, 6)]
    assert all(a > b for a, b in pairwise(rows))
    assert rows[0] > 0.85 and rows[-1] < 0.12


def test_depth_proxy_follows_an_edge_and_not_the_texture():
    """A dark post before a bright sky: the proxy has its edge; fine noise of the image is not in it."""
    rng = np.random.default_rng(0)
    image = np.full((120, 160, 3), 0.8, np.float32)
    image[40:, 70:90] = 0.1
    image += rng.normal(0, 0.01, image.shape).astype(np.float32)
    depth = haze.depth_proxy(image, horizon=0.35)
    plain = haze.depth_proxy(np.full_like(image, 0.5), horizon=0.35)
    # around the top of the post it is taken to be nearer than the sky beside it
    assert depth[42:46, 78:82].mean() < depth[42:46, 100:110].mean() - 0.05
    assert np.abs(np.diff(depth[:, 110:], axis=1)).max() < 0.02
    assert np.abs(np.diff(plain, axis=1)).max() < 1e-9


def test_guided_filter_agrees_with_windows_summed_by_hand():
    rng = np.random.default_rng(0)
    guide, target, radius, eps = rng.random((14, 17)), rng.random((14, 17)), 2, 0.01
    padded = [np.pad(image, 2 * radius, mode="symmetric") for image in (guide, target)]
    windows = [np.lib.stride_tricks.sliding_window_view(p, (5, 5)) for p in padded]
    g, t = (w.reshape(*w.shape[:2], -1) for w in windows)
    slope = ((g * t).mean(-1) - g.mean(-1) * t.mean(-1)) / (g.var(-1) + eps)
    offset = t.mean(-1) - slope * g.mean(-1)
    means = [np.lib.stride_tricks.sliding_window_view(c, (5, 5)).mean((-1, -2)) for c in (slope, offset)]
    a, b = haze.guided_coefficients(guide, target, radius, eps)
    inner = np.s_[2 * radius : -2 * radius, 2 * radius : -2 * radius]  # at the border a and b are reflected
    np.testing.assert_allclose(a[inner], means[0][inner], atol=1e-10)
    np.testing.assert_allclose(b[inner], means[1][inner], atol=1e-10)


# --- defocus ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.3, 0.5, 0.51, 1.0, 1.45, 2.0, 4.0, 6.0, 7.3, 66.0])
def test_disc_is_exact(radius):
    psf = defocus.disc(radius).astype(np.float64)
    side = psf.shape[0]
    assert psf.shape == (side, side) and side % 2 == 1 and side // 2 == max(0, math.ceil(radius - 0.5))
    assert abs(psf.sum() - 1) < 1e-6 and psf.min() >= 0
    for other in (psf.T, psf[::-1], psf[:, ::-1]):
        np.testing.assert_allclose(psf, other, atol=1e-9)
    # by 64 x 64 points in each pixel
    if radius < 10:
        points = (np.arange(side * 64) + 0.5) / 64 - side / 2
        inside = points[:, None] ** 2 + points[None] ** 2 <= radius**2
        covered = inside.reshape(side, 64, side, 64).mean((1, 3)) / (math.pi * radius**2)
        assert np.abs(psf - covered).max() < 2e-3 / radius**2
    if radius >= 2:  # a disc has r^2 / 4 along an axis, and a pixel 1 / 12
        offsets = np.arange(side) - side // 2
        second = (psf.sum(0) * offsets**2).sum()
        assert abs(second - (radius**2 / 4 + 1 / 12)) < 0.01 * radius**2
        assert abs(psf[side // 2, side // 2] * math.pi * radius**2 - 1) < 1e-6


@pytest.mark.parametrize(("level", "radius"), [(1, 2.0), (2, 4.0), (3, 6.0)])
def test_radius_goes_with_the_diagonal(level, radius):
    degradation = Degradation((("defocus", level),))
    for scale in (0.25, 1, 2):
        pair = grey_pair(round(480 * scale), round(640 * scale))
        used = degrade(*pair, degradation, seed=0, key="k").parameters["defocus"]
        assert used == {"radius": pytest.approx(radius * scale)}


@pytest.mark.parametrize("strength", [4.0, 6.0, 40.0])
def test_a_point_becomes_the_disc(strength):
    """Below and above the kernel size where the filter changes from sums to a Fourier transform."""
    image = np.zeros((201, 268, 3), np.float32)
    image[100, 134] = 1, 0.5, 0.25
    blurred, used = defocus.apply(image, None, strength)
    psf = defocus.disc(used["radius"])
    half = psf.shape[0] // 2
    window = blurred[100 - half : 101 + half, 134 - half : 135 + half]
    np.testing.assert_allclose(window, psf[..., None] * np.array([1, 0.5, 0.25]), atol=1e-6)
    assert abs(blurred.sum() - 1.75) < 1e-4


@pytest.mark.parametrize("size", [(3, 400), (400, 3), (5, 7), (60, 80)])
def test_defocus_keeps_the_mean_even_where_the_disc_is_larger_than_the_image(size):
    image = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    blurred, used = defocus.apply(image, None, 20.0)
    if min(size) == 3:
        assert used["radius"] > 3
    np.testing.assert_allclose(blurred.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    psf = defocus.disc(used["radius"]).astype(np.float64)
    half = psf.shape[0] // 2
    padded = np.pad(image.astype(np.float64), ((half, half), (half, half), (0, 0)), mode="symmetric")
    y, x = size[0] - 1, size[1] // 2
    by_hand = np.einsum("yx,yxc->c", psf, padded[y : y + 2 * half + 1, x : x + 2 * half + 1])
    np.testing.assert_allclose(blurred[y, x], by_hand, atol=1e-5)


# --- stripes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 3, 17, 640])
@pytest.mark.parametrize(("level", "std"), [(1, 0.02), (2, 0.05), (3, 0.10)])
def test_stripes_have_the_stated_deviation_at_mid_grey_before_clipping(width, level, std):
    draws = stripes.draw(make_rng(1, "k", "stripes"), 5, width, 1)
    image = np.full((5, width), 0.5, np.float32)
    added = stripes.apply(image, draws, FAMILIES["stripes"].levels[level])[0].astype(np.float64) - 0.5
    assert np.ptp(added, axis=0).max() == 0  # constant along every column
    assert abs(added[0].mean()) < 1e-6
    assert abs(added[0].std() / std - 1) < 1e-5


def test_stripes_are_an_offset_and_a_gain_of_every_column():
    _, infrared = scene(64, 90)
    draws = stripes.draw(make_rng(4, "k", "stripes"), 64, 90, 1)
    image = infrared / np.float32(255)
    striped = stripes.apply(image, draws, 0.05)[0].astype(np.float64)
    for x in range(0, 90, 7):
        gain, offset = np.polyfit(image[:, x].astype(np.float64), striped[:, x], 1)
        assert gain == pytest.approx(1 + 0.05 * draws.gain[x], abs=1e-4)
        assert offset == pytest.approx(0.05 * (draws.pattern[x] - 0.5 * draws.gain[x]), abs=1e-4)
    assert 0.3 < draws.gain.std() < 0.7


def test_stripes_on_a_uniform_scene_are_the_same_in_all_rows_and_drift():
    uniform = grey_pair(40, 640)
    image = degrade(*uniform, parse_degradation("stripes3"), seed=0, key="k").infrared.astype(float)
    assert np.ptp(image, axis=0).max() == 0
    assert abs(image[0].std() / 255 - 0.10) < 0.002
    # the slow part: power in the first three waves over the columns, against white columns (3 of 320 waves)
    shares = []
    for i in range(20):
        pattern = stripes.draw(make_rng(0, str(i), "stripes"), 1, 640, 1).pattern.astype(np.float64)
        power = np.abs(np.fft.rfft(pattern)) ** 2
        shares.append(power[1:4].sum() / power[1:].sum())
    assert np.mean(shares) == pytest.approx(stripes.DRIFT**2 / (1 + stripes.DRIFT**2), abs=0.04)


def test_levels_scale_one_pattern():
    pair = grey_pair(3, 300)
    low, high = (
        changed(pair, parse_degradation(t), seed=1, key="k").astype(float) - 128 for t in ("stripes1", "stripes3")
    )
    assert np.abs(high - 5 * low).max() <= 0.5 + 5 * 0.5 + 0.2


# --- mixtures ---------------------------------------------------------------------------------------------------------


def test_a_mixture_runs_scene_lens_sensor_in_float_and_rounds_once():
    visible, infrared = scene()
    height, width = infrared.shape
    depth = np.tile(np.linspace(1, 0, height)[:, None], (1, width))
    result = degrade(visible, infrared, parse_degradation("noise2+defocus3+haze2"), seed=9, key="k", depth=depth)

    used = result.parameters
    air = np.array([used["haze"][f"airlight_{c}"] for c in "rgb"])
    t = np.exp(-1.2 * depth)[..., None]
    hazy = visible / 255 * t + air * (1 - t)
    psf = defocus.disc(used["defocus"]["radius"]).astype(np.float64)
    blurred = cv2.filter2D(hazy, -1, psf, borderType=cv2.BORDER_REFLECT)
    noisy = blurred + 25 / 255 * make_rng(9, "k", "noise").standard_normal((height, width, 3), dtype=np.float32)
    assert np.abs(result.visible - np.clip(255 * noisy, 0, 255)).max() < 0.5 + 1e-3
    assert list(used) == ["haze", "defocus", "noise"]
    assert np.array_equal(result.infrared, infrared)

    # and not in another order: noise first would be blurred away
    other = cv2.filter2D(hazy + (noisy - blurred), -1, psf, borderType=cv2.BORDER_REFLECT)
    assert np.abs(result.visible - 255 * other).mean() > 5


@pytest.mark.parametrize("other", ["haze2", "defocus2", "noise2"])
def test_stripes_do_not_meet_the_visible_chain(other):
    pair = scene()
    both = degrade(*pair, parse_degradation(f"{other}+stripes2"), seed=1, key="k")
    assert np.array_equal(both.visible, degrade(*pair, parse_degradation(other), seed=1, key="k").visible)
    assert np.array_equal(both.infrared, degrade(*pair, parse_degradation("stripes2"), seed=1, key="k").infrared)


def test_a_cache_changes_no_byte():
    """All degradations of one pair share draws and floats; each is as if it were alone."""
    rng = np.random.default_rng(0)
    visible = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    infrared = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    cache: dict = {}
    for what in (*PRESETS["grid"], *PRESETS["combinations"], *PRESETS["grid"]):
        alone = degrade(visible, infrared, what, seed=3, key="k")
        shared = degrade(visible, infrared, what, seed=3, key="k", cache=cache)
        assert np.array_equal(alone.visible, shared.visible), what
        assert np.array_equal(alone.infrared, shared.infrared), what
        assert alone.parameters == shared.parameters
    assert set(cache) == {"visible", "infrared", *FAMILIES}
