"""`on_gpu(model)`: the folded network in half precision, channels last, its kernels launched at once by a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion.fast.fold import Folded
from fusion.models.aenet import AENet, Fused

GRAPHS = 4  # kept: one for each shape of input, the oldest goes


def on_gpu(model: AENet, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> GraphAENet:
    """The network on a device: by default CUDA with float16 (bfloat16 where weights are beyond it), else the CPU's float32."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folded = Folded(model)
    if dtype is None:
        largest = max(float(weight.abs().max()) for weight in folded.parameters())
        half = torch.float16 if largest < 1e3 else torch.bfloat16
        dtype = half if device.type == "cuda" else torch.float32
    return GraphAENet(folded, dtype, device)


class GraphAENet(nn.Module):
    """`forward(first, second)`: (B, 1, H, W) on its device, any type; the image in float32. No gradients.

    A graph is captured for each shape of input. Half precision: the image is within about 1e-3 of float32.
    """

    def __init__(self, folded: Folded, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.folded = folded.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        self.config, self.dtype, self.device = folded.config, dtype, device
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_graphs": {}}

    def forward(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Fused:
        with torch.inference_mode():
            if self.device.type != "cuda":
                return Fused(self._eager(first_B1HW, second_B1HW))
            shape = tuple(first_B1HW.shape)
            if shape not in self._graphs:
                while len(self._graphs) >= GRAPHS:
                    self._graphs.pop(next(iter(self._graphs)))
                self._graphs[shape] = Graph(self._eager, shape, self.device, self.dtype)
            return Fused(self._graphs[shape](first_B1HW, second_B1HW))

    def _eager(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Tensor:
        return self.folded(first_B1HW.to(self.dtype), second_B1HW.to(self.dtype)).image.float()
