"""MoE-Fusion's pooled gates against gates on flattened features: weights, memory, time, side by side in one run.

    python benchmarks/moefusion_gate.py [--batch 4] [--height 480] [--width 640] [--turns 5] [--whole 1] [--threads 2]

"flattened": the same noisy top-K gate with a weight for every value of features shrunk to a quarter (MoLE, 32
channels) and an eighth (MoGE, 160 channels) of the size, as in the published files: 15,974,400 weights, and one image
size for good. "unshrunk", with --unshrunk: every value of the full-size features of one MoLE gate, 32 channels.

Times are CPU seconds of forward and backward, so that other work on the machine disturbs them little; the two ways
take turns, and the ratio is the median of the turns' ratios. Adam keeps a gradient and two moments per weight. A
whole pass is one of the network with these gates, --whole times each.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fusion.models.configs import MoEFusionConfig
from fusion.models.experts import ImageGate
from fusion.models.moefusion import MoEFusion

CONFIG = MoEFusionConfig()
SHRINK = {32: 4, 160: 8}  # of the published gates, by channels


def gate(channels: int, grid: tuple[int, int]) -> ImageGate:
    return ImageGate(channels, grid, CONFIG.experts, CONFIG.top_k)


def weights_of(*parts: nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def seconds(network: nn.Module, call: Callable[[], Tensor]) -> float:
    network.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    start = time.process_time()
    call().backward()
    return time.process_time() - start


def compare(label: str, ways: dict[str, tuple[nn.Module, Callable[[], Tensor]]], turns: int) -> None:
    for network, call in ways.values():
        if turns > 1:
            seconds(network, call)
    taken = [{name: seconds(*way) for name, way in ways.items()} for _ in range(turns)]
    first, *others = ways
    for name in ways:
        print(f"{label:28} {name:10} {statistics.median(turn[name] for turn in taken) * 1e3:10.1f} ms")
    for name in others:
        ratios = sorted(turn[name] / turn[first] for turn in taken)
        print(f"{label:28} {name} / {first}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"batch": 4, "height": 480, "width": 640, "turns": 5, "whole": 1, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--unshrunk", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = (args.height, args.width)
    ours = MoEFusion(CONFIG).train()
    flat = copy.deepcopy(ours)
    for part, channels in (("foreground", 32), ("background", 32), ("everything", 160)):
        getattr(flat, part).gate = gate(channels, tuple(n // SHRINK[channels] for n in size))

    def gates_of(model: MoEFusion) -> list[ImageGate]:
        return [model.foreground.gate, model.background.gate, model.global_experts.gate]

    print(f"batch {args.batch} of {args.width} x {args.height}, forward and backward, {args.threads} threads")
    unshrunk = gate(32, size) if args.unshrunk else None
    rows = {"pooled": gates_of(ours), "flattened": gates_of(flat)}
    if unshrunk is not None:
        rows["unshrunk"] = [unshrunk]
    for name, parts in rows.items():
        count = weights_of(*parts)
        print(f"{name:10} {count:11,} gate weights, {count * 16 / 1e6:8.1f} MB with gradients and Adam's moments")

    for channels, index in ((32, 0), (160, 2)):
        features = torch.rand(args.batch, channels, *size)
        ways = {name: parts[index] for name, parts in rows.items() if index < len(parts)}
        calls = {name: (one, lambda one=one, x=features: sum(t.sum() for t in one([x]))) for name, one in ways.items()}
        compare(f"one gate of {channels} channels", calls, args.turns)
        del features
    if args.whole:
        images = torch.rand(2, args.batch, 1, *size)
        models = {"pooled": ours, "flattened": flat}
        calls = {name: (m, lambda m=m: m(*images).image.mean()) for name, m in models.items()}
        compare("whole network", calls, args.whole)


if __name__ == "__main__":
    main()
