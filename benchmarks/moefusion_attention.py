"""Are objects high or low in the attention of MoE-Fusion's detectors? No loss says so: trained from several seeds.

    python benchmarks/moefusion_attention.py PAIRS [--exchanges shared per_level] [--seeds 3] [--first-seed 0]
        [--epochs 8] [--crop 96] [--threads 1]

PAIRS has train and test folders, with boxes, or is a `scenes:` string, whose first tenth is then held out. Trains
`moefusion-detectors-tiny`, without Ray. For each map, and for their maximum, which fusion takes: the chance in per cent
that a pixel inside a box of a held-out pair has a higher value than one outside of the same pair (50: the map says
nothing, 100: objects are high, 0: objects are low), the mean over the pairs with boxes.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import rankdata

from detection.moefusion.attention import MODALITIES
from detection.moefusion.joint import JointEngine, attention_maps
from detection.moefusion.recipes import EXCHANGES, moefusion_detectors_tiny
from fusion.data.corpus import Sample
from fusion.data.pairs import find_pairs, read_pair
from fusion.training.crops import box_mask, training_batches


def read(pairs: str) -> tuple[list[Sample], list[Sample]]:
    """Return the samples that train, and those that are held out."""
    sets: dict[str, list[Sample]] = {"train": [], "test": []}
    refs = find_pairs(pairs).refs
    for number, ref in enumerate(refs):
        split = ref.split or ("test" if number < len(refs) // 10 else "train")
        if split in sets:
            p = read_pair(ref)
            images = (p.visible, p.infrared) * 2
            sets[split].append(Sample(p.key, split, "", "clean", "0", "", *images, p.boxes, p.classes))
    return sets["train"], sets["test"]


def chance_of_higher(values_HW: np.ndarray, inside_HW: np.ndarray) -> float:
    """Return the chance that a value inside is higher than one outside; equal ones count half."""
    inside = int(inside_HW.sum())
    ranks = rankdata(values_HW)[inside_HW.ravel()].sum() - inside * (inside + 1) / 2
    return float(ranks / (inside * (inside_HW.size - inside)))


def chances(engine: JointEngine, samples: list[Sample]) -> dict[str, float]:
    """Return the mean chance, in per cent, of each map and of their maximum."""
    detectors = engine.detectors.eval()
    rows = []
    for sample in samples:
        mask_HW = box_mask([torch.from_numpy(sample.boxes)], sample.infrared.shape)[0, 0].numpy() > 0
        if not 0 < mask_HW.mean() < 1:
            continue
        maps_2HW = attention_maps(detectors, sample.visible, sample.infrared)[0].numpy()
        rows.append([chance_of_higher(map_HW, mask_HW) for map_HW in (*maps_2HW, maps_2HW.max(0))])
    return dict(zip((*MODALITIES, "maximum"), 100 * np.mean(rows, axis=0), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs")
    parser.add_argument("--exchanges", nargs="+", choices=EXCHANGES, default=list(EXCHANGES))
    for name, value in {"seeds": 3, "first-seed": 0, "epochs": 8, "crop": 96, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, held_out = read(args.pairs)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for exchange in args.exchanges:
            base = moefusion_detectors_tiny()
            detectors = replace(base.detectors, exchange=exchange)
            crops = replace(base.crops, size=args.crop)
            recipe = replace(base, detectors=detectors, crops=crops, seed=seed, epochs=args.epochs)
            engine = JointEngine(recipe, len(train) * crops.per_image // recipe.batch_size)
            start = time.process_time()
            for epoch in range(recipe.epochs):
                order = np.random.default_rng([seed, epoch]).permutation(len(train))
                data = training_batches(
                    [train[i] for i in order], engine.stage, recipe.crops, recipe.batch_size, seed, epoch
                )
                loss = engine.train_epoch(data)["detectors"]
            found = "  ".join(f"{name} {value:.0f}" for name, value in chances(engine, held_out).items())
            seconds = time.process_time() - start
            print(f"{exchange:10} seed {seed}  {found}  loss {loss:.3f}  {seconds:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
