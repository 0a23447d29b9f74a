"""What a result must carry to be made again: the command, the source revision, the versions."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from fusion.secrets import mask_secrets

DISTRIBUTIONS = ("duskfuse", "ray", "torch", "numpy", "opencv-python", "pyarrow", "pillow")

REVISION_VARIABLE = "DUSKFUSE_REVISION"
"""Environment variable: what `revision_env` says where the sources come from, for where there is no repository."""

PACKAGES_HASHED = ("workflows", "fusion", "detection")
SUFFIXES_HASHED = (".py", ".json", ".html", ".safetensors")


class Provenance(TypedDict):
    """What made a result, as JSON files say it."""

    command: str
    revision: str
    versions: dict[str, str]


def provenance(command: list[str]) -> Provenance:
    """Return what makes a result. `command`: what follows `duskfuse`; secrets are masked.

    There are no times and no host names in it, so that equal work has equal files.
    """
    words = [mask_secrets(word) for word in ("duskfuse", *command)]
    return {"command": shlex.join(words), "revision": revision(), "versions": versions()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def revision() -> str:
    """Return the git commit of this source, with "+changes" when files differ from it.

    Outside a repository (an installed package, what `ray job submit` uploaded) it is the commit that DUSKFUSE_REVISION
    names, if the files are those it was named for, else "sources-" and their fingerprint.
    """
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if git("ls-files", here.name):  # the repository of this file, not one that an environment happens to lie in
            changed = git("status", "--porcelain", "--untracked-files=no")
            return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.TimeoutExpired):
        pass
    commit, _, of = os.environ.get(REVISION_VARIABLE, "").rpartition("@")
    now = source_fingerprint()
    return commit if commit and of == now else f"sources-{now}"


def source_fingerprint() -> str:
    """Return a fingerprint of the packages' own files, by name and content: the same wherever they were copied to."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(
        path for name in PACKAGES_HASHED for path in (root / name).rglob("*") if path.suffix in SUFFIXES_HASHED
    ):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def revision_env() -> str:
    """Return the value of DUSKFUSE_REVISION that tells a copy of these sources, without a repository, its commit."""
    return f"{revision()}@{source_fingerprint()}"
