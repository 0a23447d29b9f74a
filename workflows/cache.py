"""What was read once, kept in memory while there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_BYTES = 2**31  # of decoded images, in each worker


class ImageCache(Generic[T]):
    """Reads images, or samples with several, by their index; those that fit into `max_bytes` are read once.

    read    returns what an index stands for
    size    how many bytes of that count
    """

    def __init__(self, read: Callable[[int], T], size: Callable[[T], int], max_bytes: int = MAX_BYTES) -> None:
        self._read, self._size = read, size
        self._entries: dict[int, T] = {}
        self._free = max_bytes

    def __getitem__(self, index: int) -> T:
        if index in self._entries:
            return self._entries[index]
        entry = self._read(index)
        size = self._size(entry)
        if size <= self._free:
            self._entries[index] = entry
            self._free -= size
        return entry
