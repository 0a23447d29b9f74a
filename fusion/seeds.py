"""Seeds are derived, never global: every random draw has a generator of its own, named by its purpose."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: object) -> int:
    """Return the sha256 of "a|b|c" as an integer: the same for the same parts, on any machine, in any order of work."""
    return int.from_bytes(hashlib.sha256("|".join(str(part) for part in parts).encode()).digest(), "big")


def make_rng(*parts: object) -> np.random.Generator:
    """Return a new numpy generator (PCG64), seeded with `derive_seed` of the parts."""
    return np.random.Generator(np.random.PCG64(derive_seed(*parts)))


def derive_torch_seed(*parts: object) -> int:
    """Return the seed for `torch.manual_seed`, which takes 63 bits."""
    return derive_seed(*parts) >> 193
