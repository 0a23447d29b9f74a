"""The collapsed network on a CPU, in strips of rows whose 64 channels never leave the cache: two matrix products each.

    h (C, n)  = ReLU( W1 (C, 19) columns (19, n) )      n pixels; columns: 3x3 of both images, and 1 for the bias
    g (25, n) = W2 (25, C) h                            every tap of the 5x5 kernel at every pixel
    t[d0, y, x] = sum over d1 of g[d0, d1, y, x + d1]   shifted planes, a strided sum
    out[y, x] = sum over d0 of t[d0, y + d0, x]         likewise

A row of a strip is W + 2 long: the two pixels in front are the border on either side. Columns are zero there and
below the image, the bias's 1 too, so h and g are. The last four rows of t stay for the next strip. The map of 64
channels that a 400 x 400 image has is 41 MB; a strip of it is under 1 MB.

Shapes: C channels, H height, W width of the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.realtime.fold import Folded

STRIP_PIXELS = 3200  # 1.4 MB in all: measured; from 2,400 to 4,800 it makes little difference
REACH = 2  # rows of f above and below that a row of the image needs
PIXEL_MULTIPLE = 64  # strips are padded to it, as libraries sum what is left over in another order


def strip_rows(height: int, width: int, pixels: int = STRIP_PIXELS) -> int:
    """Return the rows, at least 4, of each of the equal strips of about so many pixels that make `height` rows."""
    count = max(round((height + 2 * REACH) * (width + 2) / pixels), 1)
    return max(-(-(height + 2 * REACH) // count), 2 * REACH)


class Workspace:
    """One thread's buffers for strips of so many rows; what is never written stays zero."""

    def __init__(self, channels: int, rows: int, width: int) -> None:
        self.key = (channels, rows, width)
        self.row = width + REACH
        self.pixels = -(-rows * self.row // PIXEL_MULTIPLE) * PIXEL_MULTIPLE
        self.columns = torch.zeros(19, self.pixels)
        self.features = torch.zeros(channels, self.pixels)
        self.taps = torch.zeros(25, self.pixels + 2 * REACH)
        self.sums = torch.zeros(5, 2 * REACH * self.row + self.pixels)
        self.image = torch.zeros(self.pixels)


class Products:
    """The matrices of a collapsed network, and a band of an image made with them."""

    def __init__(self, folded: Folded) -> None:
        stem, kernel = folded.stem, folded.kernel
        assert stem.bias is not None and kernel is not None
        channels = stem.out_channels
        self.stem_C19 = torch.cat([stem.weight.reshape(channels, 18), stem.bias[:, None]], 1).contiguous()
        self.kernel_25C = kernel.weight.reshape(channels, 25).t().contiguous()

    def band(
        self, images_2HW: Tensor, start: int, stop: int, rows: int, old: Workspace | None, out_HW: Tensor
    ) -> Workspace:
        """Write rows start..stop of `out_HW`, the 5x5 convolution without its bias, in strips of `rows` (at least 4).

        `old` is a workspace to use again where it fits; the answer is the one used.
        """
        _, height, width = images_2HW.shape
        key = (len(self.stem_C19), rows, width)
        space = old if old is not None and old.key == key else Workspace(*key)
        row, pixels, carried, filled = space.row, space.pixels, 2 * REACH * space.row, rows * space.row
        begin, end = max(start - REACH, 0), min(stop + REACH, height)  # rows of f, which has none outside the image
        above, below = max(begin - 1, 0), min(end + 1, height)
        padded = F.pad(images_2HW[:, above:below], (1, 1, int(above == begin), int(below == end)))
        image, line = padded.stride()[:2]
        # views of the buffers, made once: in the loop below every call counts
        rows_19 = space.columns[:, :filled].view(19, rows, row)
        inside = rows_19[:18].view(2, 3, 3, rows, row)[..., REACH:]
        taps, sums = space.taps[:, :pixels], space.sums[:, carried:]
        tap, plane = space.taps.stride(0), space.sums.stride(0)
        shifted_5x5n = space.taps.as_strided((5, 5, pixels), (5 * tap, tap + 1, 1))
        shifted_5n = space.sums.as_strided((5, pixels), (plane + row, 1))
        done = space.image[:filled].view(rows, row)[:, :width]
        earlier, later = space.sums[:, :carried], space.sums[:, filled : filled + carried]
        rows_19[18, :, REACH:] = 1
        earlier.zero_()
        for top in range(begin, stop + REACH, rows):
            real = max(min(rows, end - top), 0)
            if real:
                windows = padded.as_strided((2, 3, 3, real, width), (image, line, 1, line, 1), (top - begin) * line)
                (inside if real == rows else inside[..., :real, :]).copy_(windows)
            if real < rows:  # below the image, in the last strip or two
                rows_19[:, real:] = 0
            torch.mm(self.stem_C19, space.columns, out=space.features).clamp_(min=0)
            torch.mm(self.kernel_25C, space.features, out=taps)
            torch.sum(shifted_5x5n, 1, out=sums)
            first, last = max(top - REACH, start), min(top - REACH + rows, stop)
            if first < last:
                torch.sum(shifted_5n, 0, out=space.image)
                out_HW[first:last].copy_(done[first - top + REACH : last - top + REACH])
            earlier.copy_(later)
        return space
