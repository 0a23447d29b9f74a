"""AE-Netv2 in real time: ours against eager PyTorch, ONNX Runtime and a Laplacian pyramid, side by side in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/aenet.py [--threads 2] [--turns 30] [--sizes 400x400 640x480]

The ways take turns within every turn, so that what else the machine does meets all alike; times are medians over the
turns, ratios are medians of the turns' ratios: of wall time and of "CPU", the process's processor time. Where CPU over
wall is well under the number of threads, other work held the frame up, and the ratio of CPU times says more.
Differences are from eager PyTorch over the whole image, borders included, for a network whose norms are not at their
start.

The limit is arithmetic alone: multiply-adds of the collapsed network (2 x 9 x 64 + 64 x 25 a pixel; of the folded one
for other blocks) over the rate of 1024 x 1024 matrix products on every thread at once, taken between the turns.

ONNX Runtime's threads do not spin when idle (they would take time from the ways after it); --spin lets them. With
CUDA, `fusion.realtime.cuda` is timed too, against the time its 64-channel map takes to be written and read once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from torch import nn

from fusion.errors import UserError
from fusion.models.aenet import BLOCKS, AENet
from fusion.models.configs import AENetConfig
from fusion.realtime import fold
from fusion.realtime.cuda import on_gpu
from fusion.realtime.export import export_onnx
from fusion.realtime.fold import Folded
from fusion.realtime.workers import Workers

Way = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (H, W) twice -> (H, W)


def trained(block: str) -> AENet:
    """A network whose every part matters: random norms, an output that spreads around 0.5."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = AENet(AENetConfig(block)).train()
    images = torch.rand(2, 4, 1, 64, 64, generator=generator)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = None  # the average of what it sees
        for _ in range(2):
            model(*images)
        for norm in (m for m in model.stem.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.2, generator=generator)
    return model.eval().requires_grad_(False)


def pyramid(first: np.ndarray, second: np.ndarray, levels: int = 4) -> np.ndarray:
    """OpenCV's pyrDown and pyrUp: in every band the larger coefficient, the mean of the bases."""
    bands = []
    for _ in range(levels):
        small = [cv2.pyrDown(image) for image in (first, second)]
        size = first.shape[::-1]
        one, other = (i - cv2.pyrUp(s, dstsize=size) for i, s in zip((first, second), small, strict=True))
        bands.append(np.where(np.abs(one) > np.abs(other), one, other))
        first, second = small
    fused = (first + second) / 2
    for band in reversed(bands):
        fused = cv2.pyrUp(fused, dstsize=band.shape[::-1]) + band
    return fused


def of_network(network: nn.Module) -> Way:
    def way(*images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(*(torch.from_numpy(image)[None, None] for image in images)).image[0, 0].numpy()

    return way


def of_onnx(file: Path, threads: int, spin: bool) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda *images: session.run(None, dict(zip(names, (i[None, None] for i in images), strict=True)))[0][0, 0]


def ways_of(model: AENet, threads: int, spin: bool, folder: Path) -> dict[str, Way]:
    ways = {
        "eager PyTorch": of_network(model),
        "eager, folded": of_network(Folded(model)),
        "ours": of_network(fold(model, threads)),
    }
    try:
        for name, fuse in {"ONNX Runtime": False, "ONNX Runtime, folded": True}.items():
            export_onnx(model, str(folder / f"{fuse}.onnx"), folded=fuse)
            ways[name] = of_onnx(folder / f"{fuse}.onnx", threads, spin)
    except (ImportError, UserError):
        print('without ONNX Runtime: pip install "duskfuse[onnx]"')
    return ways | {"Laplacian pyramid": pyramid}


def multiply_adds(model: AENet) -> float:
    """A pixel, of the folded network; the pool block's are counted as if at full size."""
    layers = (layer for layer in Folded(model).modules() if isinstance(layer, nn.Conv2d))
    return sum(layer.weight.numel() for layer in layers)


class Peak:
    """Multiply-adds of 1024 x 1024 products, one on each thread at once, in G/s of wall time and of processor time."""

    def __init__(self, threads: int) -> None:
        self.workers, self.wall, self.cpu = Workers(threads), [], []
        self.matrices = [[torch.rand(1024, 1024) for _ in range(3)] for _ in range(threads)]

    def measure(self) -> None:
        amount = len(self.matrices) * 1024**3 / 1e9
        start, used = time.perf_counter(), time.process_time()
        self.workers.run([lambda m=m: torch.mm(m[0], m[1], out=m[2]) for m in self.matrices])
        self.wall.append(amount / (time.perf_counter() - start))
        self.cpu.append(amount / (time.process_time() - used))


def ratio(base: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(base, ours, strict=True))


def compare(model: AENet, width: int, height: int, args: argparse.Namespace, ways: dict[str, Way]) -> None:
    images = np.random.default_rng(0).random((2, height, width), dtype=np.float32)
    peak = Peak(args.threads)
    truth = ways["eager PyTorch"](*images)
    errors = {name: float(np.abs(way(*images) - truth).max()) for name, way in ways.items()}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(args.turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start, used = time.perf_counter(), time.process_time()
            ways[name](*images)
            wall[name].append((time.perf_counter() - start) * 1e3)
            cpu[name].append((time.process_time() - used) * 1e3)
        peak.measure()
    print(f"\n{model.config.block}, {width} x {height}, {args.threads} threads, {args.turns} turns")
    bases = [name for name in ("eager PyTorch", "ONNX Runtime") if name in ways]
    print(f"{'':21}{'ms':>9}{'best':>9}{'CPU ms':>9}{'frames/s':>10}", end="")
    print("".join(f"{f'{base}: wall':>20}{'CPU':>7}" for base in bases) + "  |difference|")
    for name in ways:
        ms = statistics.median(wall[name])
        print(f"{name:21}{ms:9.2f}{min(wall[name]):9.2f}{statistics.median(cpu[name]):9.2f}{1e3 / ms:10.1f}", end="")
        for base in bases:
            print(f"{ratio(wall[base], wall[name]):19.1f}x{ratio(cpu[base], cpu[name]):6.1f}x", end="")
        print("" if name == "Laplacian pyramid" else f"  {errors[name]:.1e}")
    amount = multiply_adds(model) * width * height / 1e6
    for label, rates, took in (("wall", peak.wall, wall["ours"]), ("CPU", peak.cpu, cpu["ours"])):
        rate = statistics.median(rates)  # million a millisecond
        print(f"limit, {label}: {amount:.0f} M multiply-adds at {rate:.1f} G/s, {amount / rate:.2f} ms", end="; ")
        print(f"ours takes {statistics.median(took) * rate / amount:.2f} times that")


def on_cuda(model: AENet, size: int = 400, frames: int = 200) -> None:
    """Batches of 1 and 32, inputs on the device, in waves of so many frames between two events."""

    def milliseconds(call: Callable[[], object], count: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count

    network, plain = on_gpu(model), model.cuda()
    there = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    here = torch.empty_like(there)
    rate = 2 * there.numel() / milliseconds(lambda: there.copy_(here), 50)  # bytes a millisecond, read and written
    for batch in (1, 32):
        images = torch.rand(2, batch, 1, size, size, device="cuda")
        with torch.inference_mode():
            eager = milliseconds(lambda images=images: plain(*images), 20)
            ours = milliseconds(lambda images=images: network(*images), max(frames // batch, 10))
            error = float((network(*images).image - plain(*images).image).abs().max())
        bound = 2 * 2 * model.config.width * batch * size**2 / rate
        print(
            f"\n{torch.cuda.get_device_name()}, {size} x {size}, batch {batch}, {network.dtype}: ours {ours:.3f} ms",
            end="",
        )
        print(f" ({1e3 * batch / ours:.0f} frames/s), eager float32 {eager:.3f} ms, |difference| {error:.1e}; ", end="")
        print(f"the map out and back {bound:.3f} ms at {rate / 1e9:.2f} TB/s: {ours / bound:.2f} times that")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--block", choices=BLOCKS, default="gcb")
    parser.add_argument("--sizes", nargs="+", default=["400x400", "640x480"])
    parser.add_argument("--spin", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    model = trained(args.block)
    print(f"load of the machine at the start {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    with TemporaryDirectory() as folder:
        ways = ways_of(model, args.threads, args.spin, Path(folder))
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            compare(model, width, height, args, ways)
    print(f"\nload of the machine at the end {os.getloadavg()[0]:.1f}")
    if torch.cuda.is_available():
        on_cuda(model)


if __name__ == "__main__":
    main()
