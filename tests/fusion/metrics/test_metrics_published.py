"""The metrics against plain numpy and scipy versions of the same formulae, and both against published values.

The published values are those of two benchmarks, with the images they were computed from: Tang et al. on TNO (ten
pairs, nine methods, full doubles) and VIFB (five digits). Where a benchmark follows another convention, the test
converts it, or the plain version takes the convention as an option: with it, it gives the published value, and
without it, ours.
"""

from __future__ import annotations

import csv
import math
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d

from fusion.metrics import METRICS, score
from fusion.metrics.dialects import DIALECTS
from tests.helpers.data import DATA, evidence
from tests.helpers.plain_qabf import plain_qabf

# Plain versions: one source, float64 arrays on 0..255, no shared code with fusion.metrics


def plain_entropy(values) -> float:
    counts = np.unique(values, return_counts=True)[1] / len(values)
    return -math.fsum(p * math.log2(p) for p in counts)


def plain_mi(source, fused, merge_top=False) -> float:
    """merge_top: levels 254 and 255 share a bin of the joint histogram, but not of the marginal ones (Tang)."""
    top = 254 if merge_top else 255
    joint = list(zip(np.minimum(source, top).ravel(), np.minimum(fused, top).ravel(), strict=True))
    values = np.array([int(a) * 256 + int(f) for a, f in joint])
    return plain_entropy(source.ravel()) + plain_entropy(fused.ravel()) - plain_entropy(values)


def plain_sd(fused, saturate=False) -> float:
    """saturate: differences and squares in unsigned 8-bit integers (Tang)."""
    difference = fused - fused.mean()
    if saturate:
        return math.sqrt(np.minimum(np.clip(np.round(difference), 0, 255) ** 2, 255).mean())
    return math.sqrt((difference**2).mean())


def gaussian(size, sigma):
    offset = np.arange(size) - (size - 1) / 2
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
    return window / window.sum()


def moments(a, f, window, top=math.inf):
    def mean(x):
        return convolve2d(x, window, mode="valid")

    aa, ff, af = (mean(np.minimum(x, top)) for x in (a * a, f * f, a * f))
    return mean(a), mean(f), aa - mean(a) ** 2, ff - mean(f) ** 2, af - mean(a) * mean(f)


def plain_vif(a, f, saturate=False) -> float:
    """saturate: the products of the first scale in unsigned 8-bit integers (Tang)."""
    kept = present = 0.0
    for scale in range(1, 5):
        size = 2 ** (5 - scale) + 1
        window = gaussian(size, size / 5)
        if scale > 1:
            a, f = (convolve2d(x, window, mode="valid")[::2, ::2] for x in (a, f))
        _, _, s1, s2, s12 = moments(a, f, window, 255 if saturate and scale == 1 else math.inf)
        s1, s2 = np.maximum(s1, 0), np.maximum(s2, 0)
        g = s12 / (s1 + 1e-10)
        sv = s2 - g * s12
        flat = s1 < 1e-10
        g[flat], sv[flat], s1[flat] = 0, s2[flat], 0
        flat = s2 < 1e-10
        g[flat], sv[flat] = 0, 0
        negative = g < 0
        sv[negative], g[negative] = s2[negative], 0
        sv = np.maximum(sv, 1e-10)
        kept += np.log10(1 + g**2 * s1 / (sv + 2)).sum()
        present += np.log10(1 + s1 / 2).sum()
    return kept / present


def plain_ssim(a, f) -> float:
    m, n, s, t, c = moments(a, f, gaussian(11, 1.5))
    c1, c2 = 6.5025, 58.5225
    return ((2 * m * n + c1) * (2 * c + c2) / ((m * m + n * n + c1) * (s + t + c2))).mean()


def plain_ag(f) -> float:
    gy, gx = np.gradient(f)
    return np.sqrt((gx**2 + gy**2) / 2).mean()


def plain_scd(a, b, f) -> float:
    return np.corrcoef((f - b).ravel(), a.ravel())[0, 1] + np.corrcoef((f - a).ravel(), b.ravel())[0, 1]


def plain_sf(f) -> float:
    return math.sqrt(((f[:, 1:] - f[:, :-1]) ** 2).mean() + ((f[1:] - f[:-1]) ** 2).mean())


PLAIN = {
    "en": lambda f, a, b: plain_entropy(f.ravel()),
    "sf": lambda f, a, b: plain_sf(f),
    "sd": lambda f, a, b: plain_sd(f),
    "mi": lambda f, a, b: plain_mi(a, f) + plain_mi(b, f),
    "vif": lambda f, a, b: plain_vif(a, f) + plain_vif(b, f),
    "ag": lambda f, a, b: plain_ag(f),
    "scd": lambda f, a, b: plain_scd(a, b, f),
    "qabf": lambda f, a, b: plain_qabf(a, b, f),
    "psnr": lambda f, a, b: 10 * math.log10(255**2 / (((a - f) ** 2).mean() / 2 + ((b - f) ** 2).mean() / 2)),
    "ssim": lambda f, a, b: (plain_ssim(a, f) + plain_ssim(b, f)) / 2,
}


# VIF divides by variances that are rounding noise in flat parts, so that two ways to sum a window differ more
TOLERANCE = dict.fromkeys(PLAIN, 1e-10) | {"vif": 1e-8}


def scores(fused, visible, infrared, names=None) -> dict[str, float]:
    images = [torch.from_numpy(x)[None, None] for x in (fused, visible, infrared)]
    return {name: float(found[0]) for name, found in score(*images, names).items()}


def generated(seed: int, height: int, width: int) -> list[np.ndarray]:
    """A fused image and its sources: waves, saturated flat parts, a black block, noise in one half."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    sources = []
    for _ in range(2):
        wave = 128 + 160 * np.sin(x / generator.uniform(4, 12) + 1) * np.cos(y / generator.uniform(4, 12))
        wave[:, : width // 2] += generator.normal(0, 6, (height, width // 2))
        wave[height // 3 : height // 2, width // 4 : width // 2] = 0
        sources.append(np.clip(np.round(wave), 0, 255))
    fused = np.round(np.clip(0.6 * sources[0] + 0.4 * sources[1] + generator.normal(0, 2, (height, width)), 0, 255))
    fused[: height // 4] = sources[0][: height // 4]  # equal edges: the equality rule of Q_abf counts
    return [fused, *sources]


@pytest.mark.parametrize(("height", "width"), [(41, 41), (64, 97), (120, 75)])
def test_every_metric_equals_its_plain_version(height, width):
    images = generated(height, height, width)
    ours = scores(*images)
    assert set(PLAIN) <= set(METRICS)
    for name, plain in PLAIN.items():
        assert ours[name] == pytest.approx(plain(*images), rel=TOLERANCE[name]), name


# Published values, each in its dialect


@cache
def published(folder: str) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    with open(DATA / folder / "published.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["image"], row["method"]), {})[row["metric"]] = float(row["value"])
    return found


@lru_cache(maxsize=4)
def read(path: Path) -> torch.Tensor:
    """1 x C x H x W, as the file has it."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    return torch.tensor(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)[None]


def dialect_scores(folder: str, extension: str, key: str, method: str, names: list[str], dialect: str) -> dict:
    parts = (f"fused/{method}", "visible", "infrared")
    images = [read(DATA / folder / part / f"{key}.{extension}") for part in parts]
    return {name: float(found[0]) for name, found in score(*images, names, dialect).items()}


TANG = {
    **{"EN": "en", "SF": "sf", "SD": "sd", "MI": "mi", "VIF": "vif", "AG": "ag", "SCD": "scd", "Qabf": "qabf"},
    **{"PSNR": "psnr", "MSE": "mse", "CC": "cc"},
}
SOME_TNO = [("08", "PIAFusion"), ("12", "DenseFuse"), ("01", "SDNet"), ("08", "PMGI"), ("33", "SeAFusion")]


def check_tno(key: str, method: str, metrics: dict[str, str]) -> None:
    ours = dialect_scores("tno_tang", "png", key, method, list(metrics.values()), "tang2022")
    for name, mine in metrics.items():
        wanted = published("tno_tang")[key, method][name]
        assert ours[mine] == pytest.approx(wanted, rel=1e-7 if name == "VIF" else 1e-9), (key, method, name)


@evidence("tno_tang")
@pytest.mark.parametrize(("key", "method"), SOME_TNO)
def test_tno_values_to_the_last_digits(key, method):
    """Flat areas in the last three make rounding decide Q_abf; full doubles are published."""
    check_tno(key, method, TANG)


@evidence("tno_tang")
@pytest.mark.slow
def test_all_tno_values_to_the_last_digits():
    assert len(published("tno_tang")) == 90
    for key, method in sorted(published("tno_tang")):
        check_tno(key, method, TANG)


@evidence("tno_tang")
def test_tno_values_that_standard_has_too():
    """EN, SCD, CC as they are; SF, MSE and PSNR by their scale; AG by its divisor: all ninety fused images."""
    for (key, method), wanted in sorted(published("tno_tang").items()):
        names = ["en", "sf", "ag", "scd", "cc", "mse", "psnr"]
        ours = dialect_scores("tno_tang", "png", key, method, names, "standard")
        height, width = read(DATA / "tno_tang" / "visible" / f"{key}.png").shape[-2:]
        converted = {
            "EN": ours["en"],
            "SF": ours["sf"] / 255,
            "AG": ours["ag"] * height * width / ((height - 1) * (width - 1)),
            "SCD": ours["scd"],
            "CC": ours["cc"],
            "MSE": ours["mse"] / 255**2,
            "PSNR": ours["psnr"] + 20 * math.log10(255),
        }
        for name, value in converted.items():
            assert value == pytest.approx(wanted[name], rel=1e-9), (key, method, name)


@evidence("tno_tang")
@pytest.mark.parametrize(("key", "method"), SOME_TNO[:2])
def test_tno_values_by_the_plain_versions(key, method):
    """SD, MI, VIF, Q_abf: the plain versions give the published values with Tang's arithmetic, and ours without."""
    parts = (f"fused/{method}", "visible", "infrared")
    files = [read(DATA / "tno_tang" / part / f"{key}.png") for part in parts]
    images = [DIALECTS["tang2022"].planes(image.double())[0, 0].numpy() for image in files]
    fused, visible, infrared = images
    wanted = published("tno_tang")[key, method]
    unit = [x / 255 for x in images]
    assert plain_sd(fused, saturate=True) == pytest.approx(wanted["SD"], rel=1e-9)
    assert plain_qabf(unit[1], unit[2], unit[0]) == pytest.approx(wanted["Qabf"], rel=1e-9)
    sources = (visible, infrared)
    assert sum(plain_mi(x, fused, merge_top=True) for x in sources) == pytest.approx(wanted["MI"], rel=1e-9)
    assert sum(plain_vif(x, fused, saturate=True) for x in sources) == pytest.approx(wanted["VIF"], rel=1e-7)
    ours = scores(*images)
    for name in ("sd", "qabf", "mi", "vif", "ssim"):
        assert ours[name] == pytest.approx(PLAIN[name](*images), rel=TOLERANCE[name]), name


VIFB = {
    **{"Entropy": "en", "Cross_entropy": "ce", "Mutinf": "mi", "Rmse": "rmse", "Psnr": "psnr", "Avg_gradient": "ag"},
    **{"Edge_intensity": "ei", "Qabf": "qabf", "Variance": "sd", "Spatial_frequency": "sf", "Ssim": "ssim"},
    **{"Qcb": "qcb", "Qcv": "qcv"},
}


def check_vifb(key: str, method: str) -> None:
    ours = dialect_scores("vifb", "jpg", key, method, list(VIFB.values()), "vifb")
    wanted = published("vifb")[key, method]
    assert {name: f"{ours[mine]:.5g}" for name, mine in VIFB.items()} == {name: f"{wanted[name]:.5g}" for name in VIFB}


@evidence("vifb")
@pytest.mark.parametrize(
    ("key", "method"), [("carLight", "GFF"), ("manWalking", "IFCNN"), ("snow", "Hybrid_MSD"), ("running", "ADF")]
)
def test_vifb_values_to_all_five_digits(key, method):
    """manWalking and running have an infrared image of one channel."""
    check_vifb(key, method)


@evidence("vifb")
@pytest.mark.slow
def test_all_vifb_values_to_all_five_digits():
    assert len(published("vifb")) == 276  # twelve pairs, 23 methods
    for key, method in sorted(published("vifb")):
        check_vifb(key, method)
