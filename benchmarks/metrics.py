"""Time of the eight metrics of a 640 x 480 image, against numpy and scipy written the usual way, in one run.

python benchmarks/metrics.py [--threads 2] [--batch 8] [--rounds 3] [--device cpu]

EN, SF, SD, MI, VIF, AG, SCD, Q_abf.

"usual": 2-D windows through scipy's convolve2d, histogram2d, both sources one after the other, as evaluators are
commonly written. "separable": the same with 1-D windows and bincount, what a careful numpy version reaches. Both use
one core, as numpy does. The results are compared before anything is timed.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import correlate1d
from scipy.signal import convolve2d

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fusion import scenes
from fusion.images.colour import to_grey
from fusion.metrics import score
from tests.helpers.plain_qabf import plain_qabf

NAMES = ["en", "sf", "sd", "mi", "vif", "ag", "scd", "qabf"]


def window(size: int, sigma: float) -> np.ndarray:
    x = np.arange(size) - (size - 1) / 2
    taps = np.exp(-(x**2) / (2 * sigma**2))
    return taps / taps.sum()


def mean_2d(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    return convolve2d(image, np.outer(taps, taps), mode="valid")


def mean_1d(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    edge = len(taps) // 2
    for axis in (0, 1):
        image = correlate1d(image, taps, axis=axis)
    return image[edge:-edge, edge:-edge]


def joint_slow(a: np.ndarray, f: np.ndarray) -> np.ndarray:
    return np.histogram2d(a.ravel(), f.ravel(), bins=256, range=((0, 256), (0, 256)))[0]


def joint_fast(a: np.ndarray, f: np.ndarray) -> np.ndarray:
    return np.bincount(a.astype(np.int64).ravel() * 256 + f.astype(np.int64).ravel(), minlength=65536)


def entropy(count: np.ndarray) -> float:
    share = count[count > 0] / count.sum()
    return -(share * np.log2(share)).sum()


def mi(a, f, joint) -> float:
    marginal = [np.bincount(x.astype(np.uint8).ravel(), minlength=256) for x in (a, f)]
    return entropy(marginal[0]) + entropy(marginal[1]) - entropy(joint(a, f))


def vif(a, f, mean) -> float:
    kept = present = 0.0
    for scale in range(1, 5):
        size = 2 ** (5 - scale) + 1
        taps = window(size, size / 5)
        if scale > 1:
            a, f = mean(a, taps)[::2, ::2], mean(f, taps)[::2, ::2]
        m, n = mean(a, taps), mean(f, taps)
        s = np.maximum(mean(a * a, taps) - m * m, 0)
        t = np.maximum(mean(f * f, taps) - n * n, 0)
        c = mean(a * f, taps) - m * n
        g = c / (s + 1e-10)
        noise = t - g * c
        g[(s < 1e-10) | (t < 1e-10) | (g < 0)] = 0
        s[s < 1e-10] = 0
        kept += np.log10(1 + g * g * s / (np.maximum(noise, 1e-10) + 2)).sum()
        present += np.log10(1 + s / 2).sum()
    return kept / present


def ag(f) -> float:
    gy, gx = np.gradient(f)
    return np.sqrt((gx**2 + gy**2) / 2).mean()


def scd(a, b, f) -> float:
    return np.corrcoef((f - b).ravel(), a.ravel())[0, 1] + np.corrcoef((f - a).ravel(), b.ravel())[0, 1]


def edges(x):
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)
    sx = convolve2d(x, across[::-1, ::-1], mode="same")
    sy = convolve2d(x, across.T, mode="same")  # above minus below: the sign matters where sx is 0
    with np.errstate(all="ignore"):
        return np.sqrt(sx**2 + sy**2), np.where(sx == 0, np.pi / 2, np.arctan(sy / sx))


def eight(f, a, b, mean, joint) -> list[float]:
    return [
        entropy(np.bincount(f.astype(np.uint8).ravel(), minlength=256)),
        np.sqrt(np.mean(np.diff(f, axis=0) ** 2) + np.mean(np.diff(f, axis=1) ** 2)),
        f.std(),
        mi(a, f, joint) + mi(b, f, joint),
        vif(a, f, mean) + vif(b, f, mean),
        ag(f),
        scd(a, b, f),
        plain_qabf(a, b, f, edges),
    ]


def best(work, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    made = [scenes.render(0, i, 480, 640) for i in range(args.batch)]
    visible, infrared = np.stack([to_grey(s.visible) for s in made]), np.stack([s.infrared for s in made])
    fused = np.rint((visible.astype(float) + infrared) / 2)
    ours = [torch.tensor(x)[:, None].to(args.device) for x in (fused, visible, infrared)]
    plain = [[x.astype(float) for x in triple] for triple in zip(fused, visible, infrared, strict=True)]

    def run() -> None:
        score(*ours, NAMES)
        if args.device != "cpu":
            torch.cuda.synchronize()

    found = score(*ours, NAMES)
    for mean, joint in ((mean_2d, joint_slow), (mean_1d, joint_fast)):
        for name, value in zip(NAMES, eight(*plain[0], mean, joint), strict=True):
            assert abs(float(found[name][0]) - value) <= 1e-8 * abs(value), (name, float(found[name][0]), value)
    run()
    mine = best(run, args.rounds) / args.batch
    usual = best(lambda: eight(*plain[0], mean_2d, joint_slow), args.rounds)
    separable = best(lambda: eight(*plain[0], mean_1d, joint_fast), args.rounds)
    again = best(run, args.rounds) / args.batch  # at both ends of the run, as the machine may be shared
    mine = min(mine, again)
    where = f"{args.threads} threads" if args.device == "cpu" else args.device
    print(f"eight metrics of a 640 x 480 image, ms: usual {usual * 1e3:.0f}, separable {separable * 1e3:.0f}, ", end="")
    print(f"duskfuse {mine * 1e3:.1f} (batch {args.batch}, {where})")
    print(f"ratios: {usual / mine:.1f} and {separable / mine:.1f} times")


if __name__ == "__main__":
    main()
