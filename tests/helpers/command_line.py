"""Commands in this process, pairs to give to them, and what they print."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

import numpy as np

from fusion.images.png import encode_png
from workflows.cli import main


def run(*words: object) -> tuple[int, str, str]:
    """Run a `duskfuse` command in this process: (exit code, stdout, stderr). In tests the fixture `command` does it."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def succeed(*words: object) -> str:
    """Run a command that must succeed, for a fixture of several tests: what it wrote to stdout."""
    code, out, err = run(*words)
    assert code == 0, f"exit code {code}: duskfuse {' '.join(map(str, words))}\n{err}"
    return out


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
