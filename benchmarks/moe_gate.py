"""Do MoE-Fusion's gates choose by image in evaluation, and at what price? Ways of the gate, over seeds, side by side.

    python benchmarks/moe_gate.py PAIRS [--gates pooled standardised ...] [--seeds 3] [--first-seed 0] [--epochs 6]
        [--crop 96] [--test-size 256] [--threads 1]

PAIRS has train and test folders, with boxes. Each way trains `moefusion-tiny` on crops of the train pairs, without Ray,
and fuses centre crops of the test pairs, without noise. Of every gate: how many different sets of K experts the images
chose, how many images the most chosen set has, and the entropy of the choice in bits, which, as the choice follows from
the image, is the mutual information of image and choice. Then Q_abf, VIF and SSIM of the fused test images.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from fusion import metrics
from fusion.data.corpus import Sample
from fusion.data.pairs import find_pairs, read_pair
from fusion.report.experts import choice_table
from fusion.training.crops import training_batches, validation_batches
from fusion.training.engine import Engine
from fusion.training.recipes import Recipe, moefusion_tiny

GATES = {  # fields of the model
    "pooled": {"gate_inputs": "pooled", "gate_bias_rate": 0.0},
    "layer_norm": {"gate_inputs": "layer_norm", "gate_bias_rate": 0.0},
    "standardised": {"gate_inputs": "standardised", "gate_bias_rate": 0.0},
    "standardised 2x2": {"gate_inputs": "standardised", "gate_bias_rate": 0.0, "grid": (2, 2)},
    "standardised 1x1": {"gate_inputs": "standardised", "gate_bias_rate": 0.0, "grid": (1, 1)},
    "pooled, bias": {"gate_inputs": "pooled", "gate_bias_rate": 0.01},
    "standardised, bias": {"gate_inputs": "standardised", "gate_bias_rate": 0.01},
}
QUALITY = ("qabf", "vif", "ssim")


def read(pairs: str, split: str) -> list[Sample]:
    read_pairs = (read_pair(ref) for ref in find_pairs(pairs).refs if ref.split == split)
    return [
        Sample(p.key, split, "", "clean", "0", "", *(p.visible, p.infrared) * 2, p.boxes, p.classes) for p in read_pairs
    ]


def train(recipe: Recipe, samples: list[Sample]) -> Engine:
    engine = Engine(recipe, len(samples) * recipe.crops.per_image // recipe.batch_size)
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(samples))
        batches = training_batches(
            [samples[i] for i in order], engine.stage, recipe.crops, recipe.batch_size, recipe.seed, epoch
        )
        engine.train_epoch(batches)
    return engine


@torch.inference_mode()
def evaluate(engine: Engine, samples: list[Sample], size: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the weights as `fusion.report.experts` takes them, and the means of the metrics."""
    rows, scores = [], []
    model = engine.model.eval()
    for number, batch in enumerate(validation_batches(samples, engine.stage, size)):
        pair = batch["visible"], batch["infrared"]
        output = model(*pair)
        for gate, weights in output.gates.items():
            rows += [(number, gate, place, weight) for place, weight in enumerate(weights[0].tolist(), 1)]
        eight_bit = [(image.clamp(0, 1) * 255).round() for image in (output.image, *pair)]
        scores.append([float(value) for value in metrics.score(*eight_bit, QUALITY).values()])
    table = pd.DataFrame(rows, columns=["image", "gate", "expert", "weight"])
    return table, dict(zip(QUALITY, np.mean(scores, axis=0), strict=True))


def trials(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    sets = {split: read(args.pairs, split) for split in ("train", "test")}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name in args.gates:
            base = replace(moefusion_tiny(), epochs=args.epochs, seed=seed)
            crops = replace(base.crops, size=args.crop)
            recipe = replace(base, model=replace(base.model, **GATES[name]), crops=crops)
            start = time.process_time()
            engine = train(recipe, sets["train"])
            gates, quality = evaluate(engine, sets["test"], args.test_size)
            row: dict[str, object] = {"gate": name, "seed": seed, "cpu_s": round(time.process_time() - start)}
            for gate, choice in choice_table(gates).set_index("gate").iterrows():
                row |= {f"{gate} {key}": choice[key] for key in ("sets", "most_chosen", "entropy")}
            row |= quality
            print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs")
    parser.add_argument("--gates", nargs="+", choices=GATES, default=list(GATES), metavar="GATE")
    for name, value in {"seeds": 3, "first-seed": 0, "epochs": 6, "crop": 96, "test-size": 256, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = pd.DataFrame(trials(args)).drop(columns=["seed", "cpu_s"])
    means = table.groupby("gate", sort=False).agg(["mean", "std"])
    print("\nmeans over seeds (standard deviation)")
    for gate, row in means.iterrows():
        print(f"{gate:20}", "  ".join(f"{name} {row[name, 'mean']:.3f} ({row[name, 'std']:.3f})" for name in QUALITY))
        for part in ("foreground", "background", "global"):
            words = (f"{key} {row[f'{part} {key}', 'mean']:.2f}" for key in ("sets", "most_chosen", "entropy"))
            print(f"{'':20} {part:10}", "  ".join(words))


if __name__ == "__main__":
    main()
