"""`on_gpu(model)`: the folded network in half precision, channels last, all its kernels launched at once by a graph.

network = realtime.on_gpu(checkpoint.load("runs/aenet/checkpoint").model)
image = inference.fuse(network, visible, infrared)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fusion.models.aenet import AENet, Fused
from fusion.realtime.fold import Folded

MAX_GRAPHS = 4  # kept, one for each shape of input; the oldest goes
MAX_FLOAT16_WEIGHT = 1e3  # sums of 64 channels must stay under 65,504


def on_gpu(model: AENet, dtype: torch.dtype | None = None, device: str | torch.device = "cuda") -> GraphAENet:
    """Return the real-time network of a trained one on a device; its weights are copied.

    `dtype`: float16 by default, or bfloat16 for weights out of its range. On a "cpu" it works too, without a graph.
    """
    folded = Folded(model)
    if dtype is None:
        largest = max(float(weight.abs().max()) for weight in folded.parameters())
        dtype = torch.float16 if largest < MAX_FLOAT16_WEIGHT else torch.bfloat16
    return GraphAENet(folded, dtype, torch.device(device))


class GraphAENet(nn.Module):
    """`forward(first, second)`: (B, 1, H, W) on the network's device, of any size; the image is float32. No gradients.

    A graph is captured at the first input of a shape. What half precision costs is of the order of 1e-3 of an image.
    """

    def __init__(self, folded: Folded, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.folded = folded.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)
        self.config, self.dtype, self.device = folded.config, dtype, device
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_graphs": {}}

    def forward(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Fused:
        """(B, 1, H, W) twice -> (B, 1, H, W). ValueError for unlike shapes."""
        shape = tuple(first_B1HW.shape)
        if shape != tuple(second_B1HW.shape):
            raise ValueError(f"the images must be of one shape, not {shape} and {tuple(second_B1HW.shape)}")
        with torch.inference_mode():
            if self.device.type != "cuda":
                return Fused(self._plain(first_B1HW, second_B1HW))
            if shape not in self._graphs:
                if len(self._graphs) == MAX_GRAPHS:
                    del self._graphs[next(iter(self._graphs))]
                self._graphs[shape] = Graph(self._plain, shape, self.device)
            return Fused(self._graphs[shape](first_B1HW, second_B1HW))

    def _plain(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Tensor:
        fused: Fused = self.folded(first_B1HW.to(self.dtype), second_B1HW.to(self.dtype))
        return fused.image.float()


class Graph:
    """The kernels of `call` for two inputs of a shape, recorded once and replayed."""

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], device: torch.device) -> None:
        self.inputs = [torch.zeros(shape, device=device) for _ in range(2)]
        before = torch.cuda.current_stream(device)
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # of torch
        beside.wait_stream(before)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True), torch.cuda.device(device):
            with torch.cuda.stream(beside):  # what is chosen and allocated at a first call must not be recorded
                for _ in range(3):
                    call(*self.inputs)
            before.wait_stream(beside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.image = call(*self.inputs)

    def __call__(self, *images: Tensor) -> Tensor:
        """Return a copy of what `call` gives for these images, of the shape that was captured."""
        for buffer, image in zip(self.inputs, images, strict=True):
            buffer.copy_(image)
        self.graph.replay()
        return self.image.clone()
