"""Time of the classical fusion methods, and beside each a plain version of the same formulas, in one run.

    python benchmarks/library.py [--rounds 5]

Grey images of 640 x 480 and 400 x 400, one thread (OMP_NUM_THREADS=1 for numpy's own). The plain versions are those
the tests compare with: numpy and scipy, one line per formula. The results are compared before anything is timed; each
time is processor time, the best of alternating runs, as a busy machine only ever adds.
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fusion.classical import CLASSICAL
from fusion.images.colour import to_grey
from fusion.scenes import render
from tests.helpers.plain_methods import PLAIN

SIZES = ((480, 640), (400, 400))


def pair(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    drawn = render(7, 3, *size)
    return to_grey(drawn.visible), drawn.infrared


def timed(function, *arguments) -> float:
    start = time.process_time()
    function(*arguments)
    return (time.process_time() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    print("| method | size | ms | plain ms | plain / ours | mean difference, grey levels |")
    print("|---|---|---|---|---|---|")
    for name, algorithm in CLASSICAL.items():
        for size in SIZES:
            levels = [image.astype(np.float64) for image in pair(size)]
            images = [(image / 255).astype(np.float32) for image in levels]
            ours, plain, difference = [], [], "-"
            if name in PLAIN:
                expected = np.clip(PLAIN[name](*levels), 0, 255)
                difference = f"{np.nanmean(np.abs(algorithm.fuse(*images) * 255.0 - expected)):.0e}"
            for _ in range(args.rounds):
                ours.append(timed(algorithm.fuse, *images))
                if name in PLAIN:
                    plain.append(timed(PLAIN[name], *levels))
            mine = min(ours)
            beside = f"{min(plain):.0f} | {min(plain) / mine:.1f}" if plain else "- | -"
            print(f"| {algorithm.label} | {size[1]} x {size[0]} | {mine:.1f} | {beside} | {difference} |", flush=True)


if __name__ == "__main__":
    main()
