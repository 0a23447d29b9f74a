"""`fold(model)`: an AENet for a CPU in real time, with the same results to rounding, borders included.

    from fusion import checkpoint, inference, realtime
    network = realtime.fold(checkpoint.load("runs/aenet/checkpoint").model, threads=2)
    image = inference.fuse(network, visible, infrared)

gcb and separable collapse into two matrix products over strips (`fusion.realtime.tiles`). The other blocks run, folded,
in strips with a margin of as many rows as they reach; `pool` reaches everywhere and runs whole.

The strips are shared out to threads of this network's own, each of which works alone: a pool is made at the first call
and torch's own thread count stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.models.aenet import AENet, Fused
from fusion.realtime.fold import Folded
from fusion.realtime.tiles import Products, strip_rows
from fusion.realtime.workers import Workers, processors

# rows above and below that a row of the image needs, of blocks that do not collapse
REACH = {"cnn": 3, "squeeze": 3, "squeeze_gcb": 3, "squeeze2_gcb": 4, "inception": 4, "gcb_inception": 4, "plain": 2}
STRIP_PIXELS = 12_000  # of those blocks
BANDS_PER_THREAD = 2  # of an image: while one is held up another takes its next band


def fold(model: AENet, threads: int | None = None) -> FastAENet:
    """Return the real-time network of a trained one; its weights are copied.

    `threads`: by default as many as there are processors.
    """
    return FastAENet(Folded(model), threads)


class FastAENet(nn.Module):
    """`forward(first, second)`: (B, 1, H, W) float32 on the CPU, of any size. No gradients, no training mode.

    `rows` is the height of a strip, by the width if None; neither it nor `threads` changes results.
    """

    def __init__(self, folded: Folded, threads: int | None = None, rows: int | None = None) -> None:
        super().__init__()
        if min(1 if threads is None else threads, 1 if rows is None else rows) < 1:
            raise ValueError(f"threads ({threads}) and rows ({rows}) must be at least 1")
        self.folded, self.config = folded, folded.config
        self.threads, self.rows = threads or processors(), rows
        self._products = Products(folded) if folded.kernel is not None else None
        self._workers: Workers | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_workers": None}  # threads are neither copied nor pickled

    def forward(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Fused:
        """(B, 1, H, W) twice -> (B, 1, H, W). ValueError for images of unlike shapes or another type or device."""
        shapes = {tuple(image.shape) for image in (first_B1HW, second_B1HW)}
        if len(shapes) > 1 or first_B1HW.ndim != 4 or first_B1HW.shape[1] != 1:
            raise ValueError(f"the images must be of one shape (B, 1, H, W), not {' and '.join(map(str, shapes))}")
        for image in (first_B1HW, second_B1HW):
            if image.dtype != torch.float32 or image.device.type != "cpu":
                raise ValueError(f"the images must be float32 on the CPU, not {image.dtype} on {image.device}")
        workers = self._workers
        if workers is None or workers.process != os.getpid():
            workers = self._workers = Workers(self.threads)
        with torch.inference_mode():
            if self._products is not None:
                return Fused(self._collapsed(torch.cat([first_B1HW, second_B1HW], 1), self._products, workers))
            return Fused(self._strips(first_B1HW, second_B1HW, workers))

    def _collapsed(self, images_B2HW: Tensor, products: Products, workers: Workers) -> Tensor:
        batch, _, height, width = images_B2HW.shape
        out = images_B2HW.new_empty(batch, 1, height, width)
        step = -(-height // (BANDS_PER_THREAD * self.threads))
        step = max(step, min(height, 16))  # below which a band is mostly what its neighbours also do
        rows = max(self.rows or strip_rows(step, width), 4)
        own = workers.own
        surplus: list[Tensor] = []

        def band(i: int, start: int) -> None:
            old = getattr(own, "space", None)
            own.space = products.band(images_B2HW[i], start, min(start + step, height), rows, old, out[i, 0])

        tasks: list[Callable[[], None]] = [lambda: surplus.extend(self._surplus(images_B2HW))]
        tasks += [partial(band, i, start) for i in range(batch) for start in range(0, height, step)]
        workers.run(tasks)
        top, bottom, left, right = surplus
        assert self.folded.kernel is not None and self.folded.kernel.bias is not None
        out += self.folded.kernel.bias
        out[:, :, 0] -= top
        out[:, :, -1] -= bottom
        out[..., 0] -= left
        out[..., -1] -= right
        return out.relu_()

    def _surplus(self, images_B2HW: Tensor) -> list[Tensor]:
        """Return what the 5x5 convolution sees too much along the four sides, from f there."""
        height, width = images_B2HW.shape[2:]
        stem, edges = self.folded.stem, self.folded.edges
        assert stem.bias is not None and edges is not None
        padded = F.pad(images_B2HW, (1, 1, 1, 1))
        lines = [padded[:, :, :3], padded[:, :, -3:], padded[..., :3], padded[..., -3:]]
        columns_B18L = torch.cat([F.unfold(line, 3) for line in lines], 2)
        features_BCL = (stem.weight.flatten(1) @ columns_B18L).add_(stem.bias[:, None]).relu_()
        along: list[Tensor] = edges(*torch.split(features_BCL, [width, width, height, height], 2))
        return along

    def _strips(self, first_B1HW: Tensor, second_B1HW: Tensor, workers: Workers) -> Tensor:
        batch, _, height, width = first_B1HW.shape
        reach = REACH.get(self.config.block)
        rows = height if reach is None else self.rows or max(STRIP_PIXELS // width, 4 * reach)
        out = torch.empty_like(first_B1HW)

        def strip(i: int, start: int) -> None:
            above = start if reach is None else min(start, reach)
            part = slice(start - above, min(start + rows, height) + (reach or 0))
            image = self.folded(first_B1HW[i : i + 1, :, part], second_B1HW[i : i + 1, :, part]).image
            out[i : i + 1, :, start : start + rows] = image[:, :, above : above + rows]

        workers.run([partial(strip, i, start) for i in range(batch) for start in range(0, height, rows)])
        return out
