"""What a result must carry to be made again: the command, the source revision, the versions."""

from __future__ import annotations

import platform
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("duskfuse", "ray", "torch", "numpy", "opencv-python", "pyarrow", "pillow")


def stamp(command: list[str]) -> dict[str, object]:
    """No times, no host names: equal work has equal stamps. `command` is what follows `duskfuse`."""
    return {"command": shlex.join(["duskfuse", *command]), "revision": revision(), "versions": versions()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def revision() -> str:
    """The git commit of this source, with "+changes" when files differ from it; "unknown" outside a repository."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no") if commit else ""
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (commit + ("+changes" if changed else "")) or "unknown"
