"""Seeds are derived, never global: every random draw has its own generator, named by what it is for."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: object) -> int:
    """sha256 of "a|b|c" as an integer: the same for the same parts, on any machine, in any order of work."""
    return int.from_bytes(hashlib.sha256("|".join(str(part) for part in parts).encode()).digest(), "big")


def make_rng(*parts: object) -> np.random.Generator:
    """A numpy generator (PCG64) of its own for this purpose."""
    return np.random.Generator(np.random.PCG64(derive_seed(*parts)))


def derive_torch_seed(*parts: object) -> int:
    """The same for `torch.manual_seed`, which takes 63 bits."""
    return derive_seed(*parts) >> 193
