"""How far the metrics are from published values, image by image: a Markdown table for docs/metrics.md.

    python benchmarks/published.py tang2022 DIR    DIR holds visible/, infrared/, fused/METHOD/ and published.csv with
    python benchmarks/published.py vifb DIR        the columns image, method, metric, value

tang2022: the evaluation of nine methods on TNO by L. Tang (full doubles). vifb: the VIFB benchmark (five digits).
"""

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fusion.metrics import METRICS, score
from fusion.metrics.triplet import to_batch

NAMES = {
    "tang2022": {
        **{"EN": "en", "SF": "sf", "SD": "sd", "MI": "mi", "VIF": "vif", "AG": "ag", "SCD": "scd", "Qabf": "qabf"},
        **{"PSNR": "psnr", "MSE": "mse", "CC": "cc"},
    },
    "vifb": {
        **{"Entropy": "en", "Spatial_frequency": "sf", "Variance": "sd", "Mutinf": "mi", "Avg_gradient": "ag"},
        **{"Qabf": "qabf", "Psnr": "psnr", "Ssim": "ssim", "Cross_entropy": "ce", "Edge_intensity": "ei"},
        **{"Rmse": "rmse", "Qcb": "qcb", "Qcv": "qcv"},
    },
}


def read(folder: Path, key: str) -> torch.Tensor:
    """1 x C x H x W, decoded as the file has it."""
    (path,) = (p for p in folder.iterdir() if p.stem == key)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    return to_batch(pixels)


def ours(task: tuple[Path, str, str, str]) -> dict[str, float]:
    root, dialect, key, method = task
    torch.set_num_threads(1)
    images = (read(root / part, key) for part in (f"fused/{method}", "visible", "infrared"))
    found = score(*images, list(NAMES[dialect].values()), dialect)
    return {name: float(value[0]) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dialect", choices=list(NAMES))
    parser.add_argument("root", type=Path)
    args = parser.parse_args()
    published: dict[tuple[str, str], dict[str, float]] = {}
    with open(args.root / "published.csv", newline="") as file:
        for row in csv.DictReader(file):
            published.setdefault((row["image"], row["method"]), {})[row["metric"]] = float(row["value"])
    tasks = [(args.root, args.dialect, *what) for what in published]
    with ProcessPoolExecutor(2) as pool:
        scored = list(pool.map(ours, tasks, chunksize=4))
    print(f"{len(tasks)} fused images, `{args.dialect}`\n")
    print("| metric | published as | median relative error | largest | equal to five digits |\n|---|---|---|---|---|")
    for theirs, name in NAMES[args.dialect].items():
        pairs = [(found[name], published[key][theirs]) for key, found in zip(published, scored, strict=True)]
        errors = [abs(mine - value) / abs(value) for mine, value in pairs]
        equal = sum(f"{mine:.5g}" == f"{value:.5g}" for mine, value in pairs)
        label = METRICS[name].label
        print(f"| {label} | {theirs} | {np.median(errors):.1e} | {max(errors):.1e} | {equal} of {len(pairs)} |")


if __name__ == "__main__":
    main()
