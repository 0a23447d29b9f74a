"""`fold(model)`: an AENet for a CPU in real time, with the same results to rounding, borders included.

    from fusion import checkpoint, fast, inference
    network = fast.fold(checkpoint.load("runs/aenet/checkpoint").model, threads=2)
    image = inference.fuse(network, visible, infrared)

gcb and separable collapse into two matrix products over strips (`fusion.fast.tiles`). The other blocks run, folded, in
strips with a margin of as many rows as they reach; `pool` reaches everywhere and runs whole.

The strips are shared out to threads of this network's own, each of which works alone: a pool is made at the first call
and torch's own thread count stays as it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.fast.fold import Folded
from fusion.fast.tiles import Products, Workspace, strip_rows
from fusion.models.aenet import AENet, Fused

REACH = {"cnn": 3, "squeeze": 3, "squeeze_gcb": 3, "squeeze2_gcb": 4, "inception": 4, "gcb_inception": 4, "plain": 2}
STRIP_PIXELS = 12_000  # of blocks that do not collapse
BANDS = 2  # of an image, for each thread: one that is held up leaves the next band to another


def fold(model: AENet, threads: int | None = None) -> FastAENet:
    """The real-time network of a trained one; its weights are copied. `threads`: as many as there are processors."""
    return FastAENet(Folded(model), threads)


class FastAENet(nn.Module):
    """`forward(first, second)`: (B, 1, H, W) float32 on the CPU, any size; without gradients, in evaluation mode only.

    ValueError for images of other types, devices or shapes. Results do not depend on `threads` or on `rows`, the height
    of a strip (chosen by the width if None).
    """

    def __init__(self, folded: Folded, threads: int | None = None, rows: int | None = None) -> None:
        super().__init__()
        if threads is not None and threads < 1 or rows is not None and rows < 1:
            raise ValueError(f"threads ({threads}) and rows ({rows}) must be at least 1")
        self.folded = folded
        self.config = folded.config
        self.threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.rows = rows
        self.products = Products(folded) if folded.kernel is not None else None
        self._workers: Workers | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_workers": None}

    def forward(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Fused:
        for image in (first_B1HW, second_B1HW):
            if image.shape != first_B1HW.shape or image.dtype != torch.float32 or image.device.type != "cpu":
                found = " and ".join(f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in (first_B1HW, second_B1HW))
                raise ValueError(f"the images must be float32 of one shape (B, 1, H, W) on the CPU, not {found}")
        with torch.inference_mode():
            if self.products is None:
                return Fused(self._strips(first_B1HW, second_B1HW))
            return Fused(self._collapsed(torch.cat([first_B1HW, second_B1HW], 1)))
