"""Whole shards of samples that are there already."""

from __future__ import annotations

from collections.abc import Iterable

from fusion.data.corpus import Sample, ShardWriter


def shard_bytes(samples: Iterable[Sample], row_group: int) -> bytes:
    writer = ShardWriter(row_group)
    for sample in samples:
        writer.add(sample)
    return writer.close()
