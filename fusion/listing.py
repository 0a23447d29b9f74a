"""Listing a folder or URI once, and what is asked of the list: label files, class lists, short texts, names.

Links that stay inside the folder are followed; those that leave it are not, and are reported.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import unquote

from fusion import storage
from fusion.errors import UserError
from fusion.images import EXTENSIONS
from fusion.labels import NAME_FILES, BadLabels, read_names
from fusion.layouts import Cell, place

__all__ = ["Tree", "extension", "flat", "list_tree", "normal", "stem"]

LABEL_EXTENSIONS = (".xml", ".txt")  # first choice first
MAX_FOLDERS_DEEP = 8
OUTSIDE = "a link that leads outside the folder; such links are not followed"


@dataclass
class Tree:
    """One listing; paths are relative to `where`.

    folders: folder -> file names. cells: cell -> name of a modality or label folder -> files.
    unfollowed: (link, why it was not followed).
    """

    where: str
    folders: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[Cell, dict[str, list[str]]] = field(default_factory=dict)
    unfollowed: list[tuple[str, str]] = field(default_factory=list)
    _labels: dict[tuple[Cell, str], dict[str, str]] = field(default_factory=dict)
    _names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the folder itself."""
        return unquote(self.where.partition("?")[0]).rstrip("/").rsplit("/", 1)[-1]

    def full(self, path: str) -> str:
        """The full path or URI of `path`; what has a meaning in URIs is escaped there."""
        return storage.join(self.where, path)

    def has(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in self.folders.get(folder, ())

    def text(self, path: str) -> str:
        """A short text file. Raises UserError if it cannot be read as UTF-8."""
        try:
            return storage.read_bytes(self.full(path)).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {self.full(path)}: {error}. It must be a UTF-8 text file.") from error

    def labels(self, cell: Cell, folder: str) -> dict[str, str]:
        """stem -> label file, of the folders named `folder` (in any case) of a cell."""
        if (cell, folder) not in self._labels:
            stems: dict[str, str] = {}
            named = [files for name, files in self.cells.get(cell, {}).items() if name.casefold() == folder.casefold()]
            for kind in LABEL_EXTENSIONS:
                for path in (path for files in named for path in files if extension(path) == kind):
                    if posixpath.basename(path) not in NAME_FILES:
                        stems.setdefault(stem(path), path)
            self._labels[cell, folder] = stems
        return self._labels[cell, folder]

    def class_names(self, folder: str) -> tuple[str, ...]:
        """The class list in `folder` or the nearest folder above that has one, up to the root; () if none.

        Raises UserError if the list cannot be read.
        """
        if folder not in self._names:
            names: tuple[str, ...] = ()
            for file in NAME_FILES:
                path = posixpath.join(folder, file)
                if not names and self.has(path):
                    try:
                        names = read_names(self.text(path), file)
                    except BadLabels as error:
                        raise UserError(f"class list {self.full(path)}: {error}. Correct or remove it.") from error
            if not names and folder:
                names = self.class_names(posixpath.dirname(folder))
            self._names[folder] = names
        return self._names[folder]


def list_tree(where: str) -> Tree:
    """List `where` once; hidden files and what archive tools leave behind are not seen. Raises UserError: no folder."""
    if storage.is_uri(where):
        tree = Tree(where)
        try:
            files = storage.list_files(where)
        except OSError as error:
            raise UserError(f"cannot list {where}: {error}. Check the address and the credentials.") from error
    else:
        tree = Tree(os.path.abspath(os.path.expanduser(where)))
        if not os.path.isdir(tree.where):
            raise UserError(f"no such folder: {where}. Give the folder of a data set, s3://bucket/prefix or scenes:10.")
        files, tree.unfollowed = _walk(tree.where)
    for path in files:
        folder, _, name = path.rpartition("/")
        if not name.startswith("."):
            tree.folders.setdefault(folder, []).append(name)
    for folder, names in tree.folders.items():
        placed = place(folder) if folder else None
        if placed and not any(part.startswith(".") or part == "__MACOSX" for part in folder.split("/")):
            cell, name = placed
            tree.cells.setdefault(cell, {}).setdefault(name, []).extend(f"{folder}/{name}" for name in names)
    return tree


def _walk(root: str) -> tuple[list[str], list[tuple[str, str]]]:
    """(files, links not followed), sorted and relative to `root`. A link to a folder above itself is left out."""
    real_root = os.path.realpath(root)
    files: list[str] = []
    unfollowed: list[tuple[str, str]] = []
    todo = [(root, "", (real_root,))]
    while todo:
        folder, relative, above = todo.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                path, real = relative + entry.name, os.path.join(above[-1], entry.name)
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    inside = os.path.commonpath([real, real_root]) == real_root
                    if not inside or not os.path.exists(real):
                        if os.path.isdir(real) or extension(path) in (*EXTENSIONS, *LABEL_EXTENSIONS):
                            unfollowed.append((path, "a broken link" if inside else OUTSIDE))
                        continue
                if not entry.is_dir():
                    files.append(path)
                elif real not in above and len(above) <= MAX_FOLDERS_DEEP:
                    todo.append((entry.path, f"{path}/", (*above, real)))
    return sorted(files), sorted(unfollowed)


def flat(name: str) -> str:
    """`name` without what a file name or a table must not have: slashes, control characters, broken UTF-8."""
    if name.isascii() and name.isprintable():
        return name.replace("/", "_")
    return "".join("_" if c == "/" or unicodedata.category(c) in ("Cc", "Cs") else c for c in name)


def normal(name: str) -> str:
    """Composed Unicode: archives made on different systems spell the same accent in two ways."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stem(path: str) -> str:
    return normal(posixpath.splitext(posixpath.basename(path))[0])


def extension(path: str) -> str:
    return posixpath.splitext(path)[1].lower()
