"""Which pairs are near-duplicates, such as neighbouring frames of a video: they must stay in one split.

A pair's signature has a bit for every step between neighbouring pixels of both images shrunk to 17 x 16: brighter or
not. Two different scenes differ in about half of the 512 bits, frames of one standing camera in few. Pairs nearer than
`NEAR` are linked, and what hangs together is a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

SIDE = 16
BITS = 2 * SIDE * SIDE
NEAR = 0.25  # share of bits; on 204 road scenes one pair of pictures in ten thousand is nearer than 0.2
ALL_PAIRS = 20_000  # up to so many pictures every two are compared, beyond it those near in the order of their keys
NEIGHBOURS = 256
CHUNK = 512


def signature(visible: np.ndarray, infrared: np.ndarray) -> bytes:
    """64 bytes of a pair: uint8 H W 3 and H W."""
    bits = []
    for image in (cv2.cvtColor(visible, cv2.COLOR_RGB2GRAY), infrared):
        small = cv2.resize(image, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
        bits.append(small[:, 1:] > small[:, :-1])
    return np.packbits(np.concatenate(bits)).tobytes()


def sequences(signatures: Mapping[str, bytes]) -> dict[str, str]:
    """key -> name of its sequence, the least key in it."""
    keys = sorted(signatures)
    words = np.array([np.frombuffer(signatures[key], np.uint64) for key in keys]).reshape(len(keys), BITS // 64)
    parent = np.arange(len(keys))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    reach = len(keys) if len(keys) <= ALL_PAIRS else NEIGHBOURS
    for start in range(0, len(keys), CHUNK):
        first = words[start : start + CHUNK]
        others = words[start : start + CHUNK + reach]
        apart = np.bitwise_count(first[:, None] ^ others[None]).sum(axis=2)
        for i, j in zip(*np.nonzero(apart <= NEAR * BITS), strict=True):
            if i < j <= i + reach:
                a, b = sorted((root(start + i), root(start + j)))
                parent[b] = a
    return {key: keys[root(i)] for i, key in enumerate(keys)}
