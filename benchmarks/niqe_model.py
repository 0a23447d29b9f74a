"""Fit the NIQE model of clean images that ships with the package, and see whether it tells clean from degraded.

    python benchmarks/niqe_model.py PAIRS_DIR [--name "RoadScene visible"] [--out fusion/metrics/niqe_pristine.json]

PAIRS_DIR: any layout that `duskfuse corpus` reads; the visible images count, as 8-bit BT.601 luma. The shipped file
was made from RoadScene (Xu et al., AAAI 2020). Prints the mean NIQE of images as they are, with noise, and blurred.
"""

import argparse
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from tqdm import tqdm

from fusion.data.finding import PairRef
from fusion.data.pairs import find_pairs, read_pair
from fusion.images.colour import to_grey
from fusion.metrics import niqe
from fusion.metrics.triplet import Triplet

CHANGES = {
    "as they are": lambda image, noise: image,
    "noise, sigma 15": lambda image, noise: image + 15 * noise,
    "blur, sigma 1.5": lambda image, noise: cv2.GaussianBlur(image, (0, 0), 1.5),
}


def images(refs: list[PairRef]) -> Iterator[np.ndarray]:
    for ref in tqdm(refs, unit="image", dynamic_ncols=True):
        yield to_grey(read_pair(ref).visible)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs")
    parser.add_argument("--name", default="RoadScene visible")
    parser.add_argument("--out", default="fusion/metrics/niqe_pristine.json")
    parser.add_argument("--check", type=int, default=20, help="images to score, evenly chosen")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that sums, and with them the file, are the same on every machine
    refs = list(find_pairs(args.pairs).refs)
    pristine = niqe.fit_pristine(images(refs), args.name)
    niqe.save_pristine(args.out, pristine)
    print(f"{args.out}: {niqe.name_of_model(pristine)}")
    score = niqe.with_model(niqe.load_pristine(args.out))
    values: dict[str, list[float]] = {name: [] for name in CHANGES}
    count = min(args.check, len(refs))
    for index, image in enumerate(images([refs[i * len(refs) // count] for i in range(count)])):
        noise = np.random.default_rng(index).normal(size=image.shape)
        for name, change in CHANGES.items():
            changed = np.clip(np.rint(change(image.astype(np.float64), noise)), 0, 255)
            plane = torch.from_numpy(changed)[None, None]
            values[name].append(float(score(Triplet(plane, plane, plane))))
    for name, row in values.items():
        print(f"{name:16} {np.nanmean(row):6.2f}  ({np.isfinite(row).sum()} of {count} images)")


if __name__ == "__main__":
    main()
