"""Where the random draws of a degradation come from."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, key: str, family: str) -> np.random.Generator:
    """PCG64 seeded by the whole of sha256("seed|key|family").

    One generator per family, so that a family draws the same alone and in a combination, and the level has no part
    in it. The seed is an integer and a family name has no "|", so two different triples never read the same.
    """
    digest = hashlib.sha256(f"{int(seed)}|{key}|{family}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
