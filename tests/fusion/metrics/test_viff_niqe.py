"""VIFF and NIQE against plain numpy and scipy versions of the same formulae, and the parts of NIQE by hand."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage, special
from scipy.signal import convolve2d

from fusion.errors import UserError
from fusion.images.colour import to_grey
from fusion.images.decode import decode
from fusion.metrics import niqe, viff
from fusion.metrics.niqe_features import features, fit_aggd, halve, normalise
from fusion.metrics.triplet import Triplet
from tests.helpers.data import DATA, evidence


def plane(image) -> torch.Tensor:
    return torch.tensor(np.asarray(image, np.float64))[None, None]


def triplet(fused, visible=None, infrared=None) -> Triplet:
    visible, infrared = (fused if source is None else source for source in (visible, infrared))
    return Triplet(plane(fused), plane(visible), plane(infrared))


def picture(seed: int, height: int = 90, width: int = 101) -> np.ndarray:
    """8-bit clouds: the power of the spectrum falls with the square of the frequency, as in photographs."""
    generator = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    spectrum = np.fft.rfft2(generator.normal(size=(height, width))) / np.hypot(fy, fx).clip(1 / width)
    image = np.fft.irfft2(spectrum, s=(height, width))
    return np.clip(np.rint(127 + 45 * (image - image.mean()) / image.std()), 0, 255)


# VIFF


def plain_viff(fused, visible, infrared) -> float:
    value = 0.0
    for scale, weight in enumerate((1, 0, 0.15, 1), start=1):
        size = 2 ** (5 - scale) + 1
        offset = np.arange(size) - size // 2
        window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * (size / 5) ** 2))
        window /= window.sum()

        def smooth(image, window=window):
            return convolve2d(image, window, mode="valid")

        if scale > 1:
            fused, visible, infrared = (smooth(image)[::2, ::2] for image in (fused, visible, infrared))
        gains, kept, present = [], [], []
        for source in (visible, infrared):
            m, n = smooth(source), smooth(fused)
            s, f = smooth(source**2) - m**2, smooth(fused**2) - n**2
            covariance = smooth(source * fused) - m * n
            s, f = np.maximum(s, 0), np.maximum(f, 0)
            g = covariance / (s + 1e-10)
            v = f - g * covariance
            g[s < 1e-10], v[s < 1e-10] = 0, f[s < 1e-10]
            s[s < 1e-10] = 0
            g[f < 1e-10], v[f < 1e-10] = 0, 0
            v[g < 0] = f[g < 0]
            g[g < 0] = 0
            v[v <= 1e-10] = 1e-10
            gains.append(g)
            kept.append(np.log10(1 + g**2 * s / (v + 325.125)))
            present.append(np.log10(1 + s / 325.125))
        first = gains[0] < gains[1]
        top, bottom = (np.where(first, *maps) + 1e-7 for maps in (kept, present))
        value += weight * top.sum() / bottom.sum()
    return value / 2.15


@pytest.mark.parametrize("seed", range(3))
def test_viff_is_the_plain_formula(seed):
    visible, infrared = picture(seed), picture(seed + 10)
    mixed = np.rint((0.6 * visible + 0.3 * infrared + 12).clip(0, 255))
    for fused in (mixed, np.maximum(visible, infrared), 255 - visible, picture(seed + 20)):
        expected = plain_viff(fused, visible, infrared)
        assert float(viff.compute(triplet(fused, visible, infrared))) == pytest.approx(expected, rel=1e-5)


def test_viff_of_three_equal_images_is_1():
    assert float(viff.compute(triplet(picture(1)))) == pytest.approx(1, abs=1e-9)


def test_viff_of_raised_contrast_is_above_1():
    image = picture(2) / 2
    assert 2 < float(viff.compute(triplet(2 * image, image, image))) < 4  # log(1 + 4 s / N) to log(1 + s / N)


def test_viff_ties_go_to_the_infrared_image():
    a, b, c = (picture(seed) for seed in (3, 4, 5))
    flat = np.full_like(a, 80)  # both gains 0 everywhere
    value = viff.compute(triplet(flat, a, b))
    assert value == viff.compute(triplet(flat, c, b))
    b = 0.5 * b
    assert float(viff.compute(triplet(flat, a, b))) == pytest.approx(plain_viff(flat, a, b), rel=1e-9)
    assert float(viff.compute(triplet(flat, b, a))) < 0.7 * float(viff.compute(triplet(flat, a, b)))


def test_viff_leaves_out_the_second_scale_and_weighs_the_others():
    assert viff.WEIGHTS[1] == 0 and sum(viff.WEIGHTS) == pytest.approx(1, abs=1e-15)
    assert viff.WEIGHTS[2] == pytest.approx(0.15 * viff.WEIGHTS[0]) and viff.WEIGHTS[0] == viff.WEIGHTS[3]


def test_viff_is_nan_where_it_says_nothing():
    a, b = picture(9), picture(10)
    flat = np.full_like(a, 7)
    assert viff.compute(triplet(a, flat, b)).isnan() and viff.compute(triplet(a, b, flat)).isnan()
    small = a[:40, :90]
    assert viff.compute(triplet(small)).isnan() and viff.compute(triplet(a[:41, :90])).isfinite()


# NIQE: the parts


@pytest.mark.parametrize(("shape", "left", "right"), [(2.0, 1.0, 1.0), (0.8, 0.5, 1.5), (1.0, 3.0, 1.0), (4.0, 1, 2)])
def test_aggd_fit_finds_the_parameters_of_samples(shape, left, right):
    generator = np.random.default_rng(5)
    size = generator.gamma(1 / shape, size=400_000) ** (1 / shape)
    negative = generator.random(size.shape) < left / (left + right)
    found = fit_aggd(torch.tensor(np.where(negative, -left * size, right * size)))
    assert [float(value) for value in found] == pytest.approx([shape, left, right], rel=0.02)


def test_aggd_fit_scales_with_the_samples_and_mirrors():
    samples = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 4.0, 1.5], dtype=torch.float64)
    found, scaled, mirrored = fit_aggd(samples), fit_aggd(8 * samples), fit_aggd(-samples)
    assert scaled.shape == found.shape == mirrored.shape
    assert scaled.left == 8 * found.left
    assert (mirrored.left, mirrored.right) == (found.right, found.left)


@pytest.mark.parametrize("samples", [[0.0, 0, 0], [1.0, 2, 0], [-1.0, -2, 0]])
def test_aggd_fit_needs_samples_on_both_sides(samples):
    assert fit_aggd(torch.tensor(samples, dtype=torch.float64)).shape.isnan()


def test_halving_by_hand():
    # a step of one pixel; taps (-3 -9 29 111 111 29 -9 -3) / 256 over pixels 2 i - 3 .. 2 i + 4
    inner = halve(plane([[0, 0, 0, 0, 256, 0, 0, 0]] * 8))
    assert inner[0, 0].tolist() == [[-3, 29, 111, -9]] * 4
    # the edge pixel is seen twice: 111 + 29 by output 0 and -9 - 3 by output 1
    edge = halve(plane([[256, 0, 0, 0, 0, 0, 0, 0]] * 8))
    assert edge[0, 0].tolist() == [[140, -12, 0, 0]] * 4
    assert torch.equal(halve(edge.mT), halve(edge).mT)


def test_halving_keeps_constants_and_ramps():
    assert torch.equal(halve(plane(np.full((96, 192), 255))), plane(np.full((48, 96), 255)))
    ramp = halve(plane([np.arange(16)] * 6))
    assert ramp[0, 0, 0, 2:-2].tolist() == [4.5, 6.5, 8.5, 10.5]


def test_flat_areas_are_exactly_zero():
    image = np.full((96, 96), 201.0)
    image[:, 60:] = picture(1, 96, 36)
    normal, deviation = normalise(plane(image))
    assert (normal[..., :57] == 0).all() and (normal[..., 60:] != 0).double().mean() > 0.95
    assert (deviation[..., :57] < 1e-4).all()


def plain_aggd(x):
    left, right = np.sqrt(np.mean(x[x < 0] ** 2)), np.sqrt(np.mean(x[x > 0] ** 2))
    c = left / right
    ratio = np.abs(x).mean() ** 2 / (x**2).mean() * (c**3 + 1) * (c + 1) / (c**2 + 1) ** 2
    a = np.arange(200, 10001) / 1000
    gamma = special.gamma
    a = a[np.argmin((gamma(2 / a) ** 2 / (gamma(1 / a) * gamma(3 / a)) - ratio) ** 2)]
    scale = math.sqrt(gamma(1 / a) / gamma(3 / a))
    return a, left * scale, right * scale


def plain_features(image) -> np.ndarray:
    """Blocks x 36."""
    offset = np.arange(7) - 3
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    image = image[: image.shape[0] // 96 * 96, : image.shape[1] // 96 * 96]
    rows = []
    for size in (96, 48):
        mean = ndimage.convolve(image, window, mode="nearest")
        deviation = np.sqrt(np.abs(ndimage.convolve(image**2, window, mode="nearest") - mean**2))
        normal = (image - mean) / (deviation + 1)
        scale = []
        for y in range(0, image.shape[0], size):
            for x in range(0, image.shape[1], size):
                block = normal[y : y + size, x : x + size]
                a, left, right = plain_aggd(block)
                values = [a, (left + right) / 2]
                for down, along in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    a, left, right = plain_aggd(block * np.roll(np.roll(block, down, 0), along, 1))
                    values += [a, (right - left) * special.gamma(2 / a) / special.gamma(1 / a), left, right]
                scale.append(values)
        rows.append(scale)
        image = plain_halving(len(image)) @ image @ plain_halving(image.shape[1]).T
    return np.concatenate(rows, axis=1)


def plain_halving(length: int) -> np.ndarray:
    """The matrix of the resampling, from the bicubic kernel."""
    matrix = np.zeros((length // 2, length))
    for i in range(length // 2):
        for j in range(2 * i - 4, 2 * i + 6):
            d = abs(j - (2 * i + 0.5)) / 2
            near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            mirrored = -1 - j if j < 0 else 2 * length - 1 - j if j >= length else j
            matrix[i, mirrored] += (near if d <= 1 else far if d <= 2 else 0) / 2
    return matrix


def test_niqe_is_the_plain_formula():
    model = niqe.shipped()
    image = picture(11, 230, 330)
    image = np.clip(image, 9, 246) + np.random.default_rng(0).integers(-3, 4, image.shape)  # no flat areas
    sample = plain_features(image)
    assert features(plane(image))[0][0].numpy() == pytest.approx(sample, rel=1e-7, abs=1e-9)
    apart = sample.mean(axis=0) - model.mu_F.numpy()
    inverse = np.linalg.pinv((np.cov(sample, rowvar=False) + model.cov_FF.numpy()) / 2)
    assert float(niqe.compute(triplet(image))) == pytest.approx(math.sqrt(apart @ inverse @ apart), rel=1e-7)


# NIQE: models


@pytest.fixture(scope="module")
def clouds() -> niqe.Pristine:
    return niqe.fit_pristine([picture(seed, 200, 300) for seed in range(100, 125)], "clouds")


def test_noise_and_blur_score_worse(clouds):
    score = niqe.with_model(clouds)
    for seed in (1, 2):
        clean = picture(seed, 300, 400)
        noisy = np.clip(np.rint(clean + 20 * np.random.default_rng(seed).normal(size=clean.shape)), 0, 255)
        blurred = np.rint(ndimage.gaussian_filter(clean, 1.5))
        values = [float(score(triplet(image))) for image in (clean, noisy, blurred)]
        assert values[1] > values[0] + 1 and values[2] > values[0] + 1


@evidence("vifb")
@pytest.mark.parametrize("name", ["fight", "labMan", "snow"])
def test_noise_and_blur_of_photographs_score_worse_under_the_shipped_model(name):
    clean = to_grey(decode((DATA / "vifb" / "visible" / f"{name}.jpg").read_bytes()).pixels).astype(np.float64)
    noisy = np.clip(np.rint(clean + 15 * np.random.default_rng(0).normal(size=clean.shape)), 0, 255)
    values = [float(niqe.compute(triplet(image))) for image in (clean, noisy, cv2.GaussianBlur(clean, (0, 0), 2))]
    assert values[1] > 2 * values[0] and values[2] > 1.3 * values[0]


def test_sharp_blocks_alone_make_a_model(clouds):
    assert 37 <= clouds.blocks <= 25 * 6 and clouds.images == 25
    halves = []
    for seed in range(40):
        image = picture(seed, 96, 192)
        image[:, 96:] = np.rint(ndimage.gaussian_filter(image[:, 96:], 4))
        halves.append(image.astype(np.uint8))
    model = niqe.fit_pristine(iter(halves), "halves")
    assert model.blocks == 40
    left_NF = torch.stack([features(plane(half))[0][0, 0] for half in halves])
    assert model.mu_F.numpy() == pytest.approx(left_NF.numpy().mean(axis=0), rel=1e-12)
    assert model.cov_FF.numpy() == pytest.approx(np.cov(left_NF.numpy(), rowvar=False), rel=1e-9, abs=1e-15)


def test_a_model_survives_saving(clouds, tmp_path):
    path = tmp_path / "deep" / "clouds.json"
    niqe.save_pristine(path, clouds)
    again = niqe.load_pristine(path)
    assert torch.equal(again.mu_F, clouds.mu_F) and torch.equal(again.cov_FF, clouds.cov_FF)
    assert niqe.name_of_model(again) == str(clouds) == f"clouds (25 images, {clouds.blocks} blocks)"


@pytest.mark.parametrize("names", niqe.NAMES)
def test_a_model_from_npz(clouds, tmp_path, names):
    path = tmp_path / "other.npz"
    np.savez(path, **{names[0]: clouds.mu_F.numpy()[None], names[1]: clouds.cov_FF.numpy()}, gaussian_window=np.ones(3))
    model = niqe.load_pristine(path)
    assert torch.equal(model.mu_F, clouds.mu_F) and niqe.name_of_model(model) == "other.npz"
    t = triplet(picture(3, 200, 300))
    assert torch.equal(niqe.with_model(model)(t), niqe.with_model(clouds)(t))


def test_the_shipped_model_is_whole_and_names_itself():
    model = niqe.shipped()
    assert model.images > 100 and model.blocks > 10 * 36
    assert torch.linalg.eigvalsh(model.cov_FF).min() > 0
    assert niqe.name_of_model() == f"{model.name} ({model.images} images, {model.blocks} blocks)"
    t = triplet(picture(4, 200, 300))
    assert torch.equal(niqe.compute(t), pickle.loads(pickle.dumps(niqe.with_model(model)))(t))


def write_json(path: Path, **changes) -> None:
    content = {
        "format": niqe.FORMAT,
        "name": "x",
        "images": 1,
        "blocks": 40,
        "mu": [0.0] * 36,
        "cov": np.eye(36).tolist(),
    }
    path.write_text(json.dumps({key: value for key, value in (content | changes).items() if value != "gone"}))


BAD = {
    "absent": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "a MATLAB file": lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file\x00\x01\xff\xfe"),
    "JSON of something else": lambda path: path.write_text('{"mu": [1]}'),
    "a JSON list": lambda path: path.write_text("[1, 2]"),
    "another format": lambda path: write_json(path, format="duskfuse NIQE model 9"),
    "no name": lambda path: write_json(path, name="gone"),
    "short mean": lambda path: write_json(path, mu=[0.0] * 35),
    "ragged covariance": lambda path: write_json(path, cov=[[1.0], [1.0, 2.0]]),
    "words": lambda path: write_json(path, mu="mean"),
    "null": lambda path: write_json(path, mu=[None] * 36),
    "not a number": lambda path: write_json(path, mu=[math.nan] * 36),
    "zero covariance": lambda path: write_json(path, cov=np.zeros((36, 36)).tolist()),
    "not symmetric": lambda path: write_json(path, cov=np.triu(np.ones((36, 36))).tolist()),
    "npz of something else": lambda path: np.savez(path, weights=np.ones(3)),
    "npz of wrong shapes": lambda path: np.savez(path, mu_pris_param=np.ones(18), cov_pris_param=np.eye(18)),
    "npz with objects": lambda path: np.savez(
        path, mu_pris_param=np.array([{}] * 36, dtype=object), cov_pris_param=np.eye(36)
    ),
    "damaged npz": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_model_is_refused_in_one_line(kind, tmp_path):
    path = tmp_path / "model.npz"
    BAD[kind](path)
    with pytest.raises(UserError) as raised:
        niqe.load_pristine(path)
    message = str(raised.value)
    assert str(path) in message and "\n" not in message and "npz" in message.removeprefix(str(path))


def test_fitting_refuses_what_makes_no_model():
    with pytest.raises(UserError, match="image 2 is 95x200"):
        niqe.fit_pristine([picture(1, 96, 96), picture(2, 95, 200)], "x")
    with pytest.raises(UserError, match="only 1 sharp blocks in 1 images"):
        niqe.fit_pristine([picture(1, 96, 96)], "x")
    with pytest.raises(UserError, match="only 0 sharp"):
        niqe.fit_pristine([], "x")


def test_niqe_is_nan_where_blocks_are_few_or_empty():
    image = picture(5, 192, 192)
    for small in (image[:95], image[:, :95], image[:191, :191]):
        assert niqe.compute(triplet(small)).isnan()
    assert niqe.compute(triplet(image[:96])).isfinite() and niqe.compute(triplet(image[:, :96])).isfinite()
    assert niqe.compute(triplet(np.full((200, 300), 90))).isnan()
    one = np.full((192, 192), 30.0)
    one[4:90, 4:90] = image[4:90, 4:90]
    assert niqe.compute(triplet(one)).isnan()  # one block with contrast
    one[100:190, 100:190] = image[100:190, 100:190]
    assert niqe.compute(triplet(one)).isfinite()


def test_values_do_not_depend_on_the_batch():
    images = [picture(6, 200, 210), np.full((200, 210), 40.0), picture(7, 200, 210)]
    batch = Triplet(*(torch.cat([plane(images[(i + shift) % 3]) for i in range(3)]) for shift in range(3)))
    alone = [triplet(images[i], images[(i + 1) % 3], images[(i + 2) % 3]) for i in range(3)]
    for metric in (niqe.compute, viff.compute):
        together, each = metric(batch), torch.cat([metric(t) for t in alone])
        assert torch.allclose(together, each, rtol=1e-12, atol=0, equal_nan=True)
        assert together.dtype == torch.float64 and together.shape == (3,) and together.isfinite().any()


def test_features_are_computed_once_for_several_models(clouds, monkeypatch):
    calls = []
    monkeypatch.setattr(niqe, "features", lambda image, real=features: calls.append(1) or real(image))
    t = triplet(picture(8, 200, 200))
    assert niqe.compute(t) != niqe.with_model(clouds)(t)
    assert len(calls) == 1
