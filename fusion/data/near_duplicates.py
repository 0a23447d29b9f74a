"""Find near-duplicate pairs, such as neighbouring frames of a video: they must stay in one split.

A pair's signature has a bit for every step between neighbouring pixels of both images shrunk to 17 x 16, brighter or
darker, and a bit that says whether there is a step at all. Two different scenes differ in about half of the steps that
both have, frames of one standing camera in few. Pairs nearer than `NEAR` are linked; what hangs together is a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

SIDE = 16
STEPS = 2 * SIDE * SIDE
FLAT = 0.5  # grey levels: no step, as in black skies and saturated lamps, which would make all nights alike
NEAR = 0.25  # share of differing steps; of 204 road scenes one pair of pictures in ten thousand is nearer than 0.2
COMMON = STEPS // 4  # pairs with fewer steps in common are not compared
ALL_PAIRS = 20_000  # up to so many pictures every two are compared, beyond it those near in the order of their keys
NEIGHBOURS = 256
CHUNK = 64


def image_signature(visible: np.ndarray, infrared: np.ndarray) -> bytes:
    """Return the signature of a pair, 128 bytes; visible: uint8 (H, W, 3) RGB, infrared: uint8 (H, W)."""
    brighter, has_step = [], []
    for image in (cv2.cvtColor(visible, cv2.COLOR_RGB2GRAY), infrared):
        small = cv2.resize(image.astype(np.float32), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
        step = np.diff(small, axis=1)
        brighter.append(step > 0)
        has_step.append(np.abs(step) > FLAT)
    return np.packbits(np.concatenate(brighter + has_step)).tobytes()


def group_near_duplicates(signatures: Mapping[str, bytes]) -> dict[str, str]:
    """Return key -> name of its sequence, which is the least key in it; of signatures by key."""
    keys = sorted(signatures)
    words = np.array([np.frombuffer(signatures[key], np.uint64) for key in keys]).reshape(len(keys), STEPS // 32)
    brighter, has_step = words[:, : STEPS // 64], words[:, STEPS // 64 :]
    parent = np.arange(len(keys))

    def find_root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    reach = len(keys) if len(keys) <= ALL_PAIRS else NEIGHBOURS
    for start in range(0, len(keys), CHUNK):
        first, others = slice(start, start + CHUNK), slice(start, start + CHUNK + reach)
        common = has_step[first, None] & has_step[None, others]
        differing = np.bitwise_count((brighter[first, None] ^ brighter[None, others]) & common).sum(axis=2)
        shared = np.bitwise_count(common).sum(axis=2)
        for i, j in zip(*np.nonzero((differing <= NEAR * shared) & (shared >= COMMON)), strict=True):
            if i < j <= i + reach:
                a, b = sorted((find_root(start + i), find_root(start + j)))
                parent[b] = a
    return {key: keys[find_root(i)] for i, key in enumerate(keys)}
