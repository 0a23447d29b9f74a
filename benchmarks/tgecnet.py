"""TG-ECNet on a CPU: fusing a pair and a training step, each against the plain way, in turns within one run.

python benchmarks/tgecnet.py [--recipe tgecnet-fuse-tiny] [--sizes 640x480 1280x1024] [--threads 1 2] [--turns 5]

Plain: every block by PyTorch's own operations in float32. Fused blocks: in strips by oneDNN (`fusion.models.onednn`).
Steps: float32 against bfloat16, where the CPU computes that. Random weights; ratios by processor time, the least of all
turns, as a busy machine only ever adds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from unittest import mock

import torch

from fusion.models import onednn
from fusion.models.registry import MODELS
from fusion.training.crops import Batch
from fusion.training.engine import Engine, has_bfloat16
from fusion.training.recipes import Recipe, recipe


def least_seconds(ways: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the least processor time of each way, over `turns` turns of all of them after one to warm up."""
    least = dict.fromkeys(ways, float("inf"))
    for turn in range(turns + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn:
                least[name] = min(least[name], time.process_time() - start)
    return least


def print_ratios(title: str, least: Mapping[str, float]) -> None:
    """Print the time of each way, and how many times faster than the first it is."""
    first = next(iter(least.values()))
    parts = [f"{name} {seconds * 1000:.0f} ms ({first / seconds:.2f} x)" for name, seconds in least.items()]
    print(f"{title}: {', '.join(parts)}", flush=True)


def fuse(chosen: Recipe, size: str, turns: int) -> None:
    """Time a pair through both stages, and say how far both results are apart."""
    width, height = map(int, size.split("x"))
    model = MODELS[chosen.model_name].build(chosen.model).eval()
    pair = torch.rand(2, 1, 1, height, width).unbind()

    def fast() -> torch.Tensor:
        with torch.inference_mode():
            image: torch.Tensor = model(*pair).image
            return image

    def plain() -> torch.Tensor:
        with mock.patch.object(onednn, "can_run", lambda x: False):
            return fast()

    apart = (fast() - plain()).abs() * 255
    title = f"{size}, {torch.get_num_threads()} threads, apart {apart.mean():.1g} (at most {apart.max():.1g}) levels"
    print_ratios(title, least_seconds({"plain": plain, "fused blocks": fast}, turns))


def step(chosen: Recipe, turns: int) -> None:
    """Time a training step of the recipe's batch."""
    size = (chosen.batch_size, 1, *chosen.crops.shape)
    names = ("clean", "degraded", "visible", "infrared", "degraded_visible", "degraded_infrared", "mask")
    batch: Batch = {name: torch.rand(size) for name in names}
    engines = {"float32": Engine(chosen, 100)}
    if has_bfloat16(torch.device("cpu")):
        engines["bfloat16"] = Engine(chosen, 100, cpu_bf16=True)
    for engine in engines.values():
        engine.model.train()
    ways = {name: (lambda engine=engine: engine.step(batch)) for name, engine in engines.items()}
    print_ratios(f"{chosen.name}, a step, {torch.get_num_threads()} threads", least_seconds(ways, turns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tgecnet-fuse-tiny")
    parser.add_argument("--steps", nargs="*", default=["tgecnet-restore-tiny", "moefusion-tiny", "blendnet"])
    parser.add_argument("--sizes", nargs="*", default=["640x480", "1280x1024"])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    for threads in args.threads:
        torch.set_num_threads(threads)
        for size in args.sizes:
            fuse(recipe(args.recipe), size, args.turns)
        for name in args.steps:
            step(recipe(name), args.turns)


if __name__ == "__main__":
    main()
