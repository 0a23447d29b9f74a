"""Folders that tests change: each test has them as they were."""

from __future__ import annotations

import shutil
from pathlib import Path


def put_back(saved: Path, folder: Path) -> None:
    """Make `folder` what `saved` is, times of files included. For what must stay in its place; else copy it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder, symlinks=True)


def times(folder: Path) -> dict[Path, int]:
    """When each of its files was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
