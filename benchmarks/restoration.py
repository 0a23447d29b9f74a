"""What stage 1 gains: PSNR of the degraded and of the restored images against the clean ones, by degradation.

    python benchmarks/restoration.py RUN CORPUS [--split test] [--rows 120]

Whole images, 8-bit luma, the degraded modality of each row; rows are chosen evenly from the split.
"""

import argparse
from collections import defaultdict

import numpy as np

from fusion import checkpoint, inference
from fusion.data.corpus import open_corpus, read_group
from fusion.images.colour import to_grey


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    error = np.square(to_grey(image).astype(float) - to_grey(clean)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("corpus")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=int, default=120)
    args = parser.parse_args()
    model = checkpoint.load(checkpoint.fetch(args.run)).model
    samples = [
        sample for path, group in open_corpus(args.corpus).groups(args.split) for sample in read_group(path, group)
    ]
    count = min(args.rows, len(samples))
    gains: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for i in range(count):
        sample = samples[i * len(samples) // count]
        restored = dict(
            zip(
                ("visible", "infrared"),
                inference.restore(model, sample.degraded_visible, sample.degraded_infrared),
                strict=True,
            )
        )
        for name in sample.degraded_modalities:
            clean = getattr(sample, name)
            pair = psnr(getattr(sample, f"degraded_{name}"), clean), psnr(restored[name], clean)
            gains[sample.degradation, sample.level].append(pair)
    print(f"{'degradation':24} {'level':6} {'images':>6} {'degraded':>9} {'restored':>9} {'gain':>6} {'better':>7}")
    for (degradation, level), pairs in sorted(gains.items()):
        before, after = np.mean(pairs, axis=0)
        better = sum(b > a for a, b in pairs)
        print(f"{degradation:24} {level:6} {len(pairs):6} {before:9.2f} {after:9.2f} {after - before:6.2f} {better:7}")


if __name__ == "__main__":
    main()
