"""Strips of rows: large maps go through a network a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Strip(NamedTuple):
    """Some rows of a map, for operations that see one row above and below."""

    rows: slice  # of the map
    wide: slice  # of the map, with a row more on both sides where there is one
    inside: slice  # the rows, counted in `wide`


def strips(height: int, rows: int) -> Iterator[Strip]:
    """Yield strips of `rows` rows, the last one shorter."""
    for start in range(0, height, rows):
        end = min(start + rows, height)
        first = max(start - 1, 0)
        yield Strip(slice(start, end), slice(first, min(end + 1, height)), slice(start - first, end - first))
