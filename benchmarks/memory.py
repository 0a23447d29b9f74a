"""Peak memory and time of fusing one large pair with the full-size TG-ECNet (random weights).

python benchmarks/memory.py [--height 1024] [--width 1280] [--threads 2]
"""

import argparse
import resource
import time

import torch

from fusion import inference, scenes
from fusion.models.registry import MODELS
from fusion.training.recipes import recipe


def peak() -> float:
    """Greatest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scene = scenes.render(0, 0, args.height, args.width)
    model = MODELS["tgecnet"].build(recipe("tgecnet-fuse").model).eval()
    before = peak()
    start = time.perf_counter()
    fused = inference.fuse(model, scene.visible, scene.infrared)
    seconds = time.perf_counter() - start
    assert fused.shape == scene.visible.shape
    print(f"{args.width}x{args.height}: peak {peak():.2f} GB ({before:.2f} GB before), {seconds:.0f} s")


if __name__ == "__main__":
    main()
