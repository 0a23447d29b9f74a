from __future__ import annotations

from typing import Any

import torch.distributed as dist


def all_reduce_sum(size: int):
    """Sums of named numbers over all workers; names may be missing on some."""

    def add(numbers: dict[str, float]) -> dict[str, float]:
        if size == 1:
            return numbers
        parts = all_gather(numbers, size)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: sum(part.get(name, 0.0) for part in parts) for name in names}

    return add


def all_gather(value: Any, size: int) -> list[Any]:
    """The value of every worker, in order."""
    if size == 1:
        return [value]

    parts: list[Any] = [None] * size
    dist.all_gather_object(parts, value)
    return parts
