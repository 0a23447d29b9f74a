"""Collectives over the workers of a training, for plain Python values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def all_reduce_sum(size: int) -> Callable[[dict[str, float]], dict[str, float]]:
    """Return a function that sums named numbers over all `size` workers; names may be missing on some."""

    def reduce(numbers: dict[str, float]) -> dict[str, float]:
        if size == 1:
            return numbers
        parts = all_gather(numbers, size)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: sum(part.get(name, 0.0) for part in parts) for name in names}

    return reduce


def all_gather(value: T, size: int) -> list[T]:
    """Return the values of all `size` workers, by rank."""
    if size == 1:
        return [value]
    parts: list[T] = [value] * size
    dist.all_gather_object(parts, value)
    return parts
