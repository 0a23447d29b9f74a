"""The smallest TG-ECNet that has every part: for tests."""

from dataclasses import replace

from fusion.training.recipes import TINY

SMALL = replace(
    TINY,
    width=8,
    heads=(1, 2, 2, 4),
    prompt_width=16,
    prompt_atoms=4,
    bank_maps=2,
    bank_channels=(8, 8, 8),
    bank_sizes=(8, 4, 4),
    bank_heads=2,
)
