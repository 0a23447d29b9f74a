"""AE-Netv2 in real time: the same function made cheaper, on a CPU, on a GPU and as an ONNX file.

fold.py     everything folded that can be, exactly: `Folded`, plain tensor operations on any device
tiles.py    the folded network as matrix products over strips that stay in cache
workers.py  threads for them
cpu.py      `fold(model)`: the network for a CPU
cuda.py     `on_gpu(model)`: half precision and a CUDA graph
export.py   `export_onnx(model, where)`, for other fusing networks too
"""

from torch import nn

from fusion.models.aenet import AENet
from fusion.realtime.cpu import FastAENet, fold
from fusion.realtime.cuda import GraphAENet, on_gpu
from fusion.realtime.export import export_onnx
from fusion.realtime.fold import Folded

__all__ = ["FastAENet", "Folded", "GraphAENet", "export_onnx", "fastest", "fold", "on_gpu"]


def fastest(model: nn.Module, device: str, threads: int | None = None) -> nn.Module:
    """Return what computes a network fastest on "cpu" or "cuda": an AE-Netv2 in real time, others as they are.

    `threads`: of an AE-Netv2 on a CPU; by default as many as there are processors.
    """
    if not isinstance(model, AENet):
        return model.to(device)
    return fold(model, threads) if device == "cpu" else on_gpu(model)
