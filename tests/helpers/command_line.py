"""Pairs to give to commands, and what they print."""

from __future__ import annotations

import numpy as np

from fusion.images.png import encode_png


def write_pair(root, key: str, height: int = 24, width: int = 32, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for folder, shape in (("visible", (height, width, 3)), ("infrared", (height, width))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"{key}.png").write_bytes(encode_png(rng.integers(0, 256, shape, np.uint8)))


def one_line(err: str, *parts: str) -> str:
    """The last line of stderr is the one clear line, and names the parts."""
    last = err.strip().splitlines()[-1]
    assert last.startswith("duskfuse "), err
    assert "Traceback" not in err
    for part in parts:
        assert str(part) in last, f"{part!r} not in {last!r}"
    return last
