"""The table of classical fusion algorithms. A new one is a file here and a line below.

Each takes the visible luma and the infrared image, float32 (H, W) in [0, 1], and returns the fused luma likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusion.inference import Method
from fusion.library import average, maximum


@dataclass(frozen=True)
class Algorithm:
    label: str
    fuse: Method
    source: str


LIBRARY: dict[str, Algorithm] = {
    "average": Algorithm("Average", average.fuse, "the mean of the two images: the floor any method must beat"),
    "maximum": Algorithm("Maximum", maximum.fuse, "the brighter of the two images, pixel by pixel"),
}
