"""Train a recipe on pairs in this process, without Ray: for a notebook, or a machine that has PyTorch alone.

    python -m fusion.training.local blendnet --pairs DIR --pairs DIR --held-out DIR --out OUT

Writes OUT/checkpoint after every epoch, with its history in state.json; the same command goes on from there. Pairs are
clean: for degraded ones and for several machines see `duskfuse train`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fusion import checkpoint
from fusion.config import to_dict
from fusion.data.corpus import Sample
from fusion.data.pairs import BadPair, find_pairs, read_pair
from fusion.data.shards import make_sample
from fusion.errors import UserError
from fusion.seeds import make_rng
from fusion.training.crops import training_batches, validation_batches
from fusion.training.engine import Engine, Numbers
from fusion.training.recipes import Recipe, recipe

OLD = "checkpoint.old"


def read_samples(folders: Sequence[str], skip: Callable[[str], bool] = lambda key: False) -> list[Sample]:
    """Read all pairs of some folders as clean samples. Pairs whose key `skip` names, and bad ones, are left out."""
    samples = []
    for folder in folders:
        for ref in find_pairs(folder).refs:
            if skip(ref.key):
                continue
            try:
                pair = read_pair(ref)
            except BadPair as error:
                print(f"{ref.key}: {error}; left out", flush=True)
                continue
            own = replace(ref, key=f"{Path(folder).name}_{ref.key}", split="train")
            samples.append(make_sample(own, pair, "clean", seed=0))  # which draws nothing
    return samples


def train(
    chosen: Recipe, samples: Sequence[Sample], held_out: Mapping[str, Sequence[Sample]], out: Path, every: int = 5
) -> list[Numbers]:
    """Train to the recipe's last epoch and return the numbers of every epoch; goes on from `out`/checkpoint.

    Each set of `held_out` is validated after every `every`-th epoch. UserError: no samples, or fewer crops than a
    batch; the checkpoint is of another recipe.
    """
    per_epoch = len(samples) * chosen.crops.per_image // chosen.batch_size
    if not per_epoch:
        raise UserError(f"{len(samples)} pairs give no batch of {chosen.batch_size}. Give more pairs.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = Engine(chosen, per_epoch, device, cpu_bf16=True)
    history: list[Numbers] = []
    saved = out / "checkpoint"
    if not saved.exists() and (out / OLD).exists():  # killed between the two steps of `_save`
        os.rename(out / OLD, saved)
    if saved.exists():
        state = checkpoint.read_state(saved)
        if checkpoint.read_config(saved) != chosen.model:
            raise UserError(f"{saved} is of another network. Give another --out.")
        engine.resume(saved)
        history = state["history"]
    size = chosen.validation.size
    batches = {name: list(validation_batches(kept, engine.stage, size)) for name, kept in held_out.items()}
    while engine.epoch < chosen.epochs:
        epoch, start = engine.epoch, time.perf_counter()
        shuffled = (samples[i] for i in make_rng(chosen.seed, "order", epoch).permutation(len(samples)))
        losses = engine.train_epoch(
            training_batches(shuffled, engine.stage, chosen.crops, chosen.batch_size, chosen.seed, epoch)
        )
        numbers = {f"train/{name}": value for name, value in losses.items()} | {"epoch": engine.epoch}
        if engine.epoch % every == 0 or engine.epoch == chosen.epochs:
            for name, kept in batches.items():
                numbers |= {f"{name}/{metric}": value for metric, value in engine.validate(kept).items()}
        numbers["seconds"] = time.perf_counter() - start
        history.append(numbers)
        _save(engine, saved, history)
        print("  ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)
    return history


def _save(engine: Engine, folder: Path, history: list[Numbers]) -> None:
    """Write the new checkpoint beside the old one, then put it in its place."""
    fresh, old = folder.with_name("checkpoint.new"), folder.with_name(OLD)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    engine.save(fresh, {"history": history, "recipe": to_dict(engine.recipe)})
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Run the command at the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--pairs", action="append", required=True, help="a folder of pairs to train on; repeat it")
    parser.add_argument("--held-out", action="append", default=[], help="a folder of pairs to validate on; repeat it")
    parser.add_argument("--skip", default="", help="a file of keys, one a line, that are not trained on")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        _run(args)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _run(args: argparse.Namespace) -> None:
    chosen = recipe(args.recipe)
    if args.epochs is not None:
        chosen = replace(chosen, epochs=args.epochs)
    if args.skip and not Path(args.skip).is_file():
        raise UserError(f"--skip {args.skip}: there is no such file.")
    skipped = set(Path(args.skip).read_text().split()) if args.skip else set()
    samples = read_samples(args.pairs, skipped.__contains__)
    held_out = {Path(folder).name: read_samples([folder]) for folder in args.held_out}
    print(f"{len(samples)} pairs; held out: {', '.join(f'{name} {len(kept)}' for name, kept in held_out.items())}")
    args.out.mkdir(parents=True, exist_ok=True)
    train(chosen, samples, held_out, args.out)


if __name__ == "__main__":
    main()
