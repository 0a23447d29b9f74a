"""List a folder or URI once, and ask the list for label files, class lists, short texts and names.

Links that stay inside the folder are followed, two in a row at most. What leads outside, and what has the name of a
file and is none (a folder, a pipe, a broken link), stays in the list with the reason, but is never opened.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import unquote

from fusion import storage
from fusion.data.labels import NAME_FILES, BadLabels, read_names
from fusion.data.layouts import PairFolder, parse_folder
from fusion.errors import UserError
from fusion.images.formats import EXTENSIONS, UNREAD

__all__ = ["MAX_TEXT", "Tree", "extension", "list_tree", "nfc", "safe_name", "single_line", "stem"]

LABEL_EXTENSIONS = (".xml", ".txt")  # first choice first
READABLE = (*EXTENSIONS, *UNREAD, *LABEL_EXTENSIONS)
MAX_FOLDERS_DEEP = 8
MAX_LINKS = 2  # one behind the other; folders full of links to each other have no end otherwise
MAX_TEXT = 4 << 20  # bytes of a label file or list; 4 MB are 100,000 boxes
MAX_REASON = 240  # characters
OUTSIDE = "a link that leads outside the folder"


@dataclass
class Tree:
    """One listing; paths are relative to `root`.

    folders: folder -> file names. pair_folders: set of pairs -> name of a modality or label folder -> files.
    unusable: file among these -> why it is never opened. unfollowed: (folder, why it was not entered).
    """

    root: str
    folders: dict[str, list[str]] = field(default_factory=dict)
    pair_folders: dict[PairFolder, dict[str, list[str]]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    unfollowed: list[tuple[str, str]] = field(default_factory=list)
    _labels: dict[tuple[PairFolder, str], dict[str, str]] = field(default_factory=dict)
    _names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the folder itself."""
        return unquote(self.root.partition("?")[0]).rstrip("/").rsplit("/", 1)[-1]

    def full(self, path: str) -> str:
        """Return the full path or URI of `path`; what has a meaning in URIs is escaped there."""
        return storage.join(self.root, path)

    def has(self, path: str) -> bool:
        """Whether the file was listed."""
        folder, _, name = path.rpartition("/")
        return name in self.folders.get(folder, ())

    def text(self, path: str) -> str:
        """Read a short text file. Raises UserError if it is longer than MAX_TEXT or cannot be read as UTF-8."""
        reason = self.unusable.get(path)
        try:
            if not reason and (storage.file_size(self.full(path)) or 0) > MAX_TEXT:
                reason = f"more than {MAX_TEXT >> 20} MB"
            if not reason:
                return storage.read_bytes(self.full(path)).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.full(path)}: {error}. It must be a UTF-8 text file.") from error
        raise UserError(f"cannot read {self.full(path)}: {reason}. Put a plain file there, or remove it.")

    def labels(self, pair_folder: PairFolder, folder: str) -> dict[str, str]:
        """Return stem -> label file, of the folders named `folder` (in any case) of a set of pairs."""
        if (pair_folder, folder) not in self._labels:
            stems: dict[str, str] = {}
            by_name = self.pair_folders.get(pair_folder, {})
            named = [files for name, files in by_name.items() if name.casefold() == folder.casefold()]
            for kind in LABEL_EXTENSIONS:
                for path in (path for files in named for path in files if extension(path) == kind):
                    if posixpath.basename(path) not in NAME_FILES:
                        stems.setdefault(stem(path), path)
            self._labels[pair_folder, folder] = stems
        return self._labels[pair_folder, folder]

    def class_names(self, folder: str) -> tuple[str, ...]:
        """Return the class list in `folder` or the nearest folder above that has one, up to the root; () if none.

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


def list_tree(root: str) -> Tree:
    """List `root`, a folder or URI, once; hidden files and what archive tools leave behind are not seen.

    Raises UserError: no such folder, or one that cannot be listed.
    """
    tree = Tree(root if storage.is_uri(root) else os.path.abspath(os.path.expanduser(root)))
    inner = storage.resolve(root)[1] if root.startswith("file:") else tree.root
    if os.path.isdir(inner):  # of file:///x too: links are not followed unseen
        files = _walk(tree, inner)
    elif not storage.is_uri(root):
        raise UserError(f"no such folder: {root}. Give the folder of a data set, s3://bucket/prefix or scenes:10.")
    else:
        try:
            files = storage.list_files(root)
        except OSError as error:
            raise UserError(f"cannot list {root}: {error}. Check the address and the credentials.") from error
    for path in files:
        folder, _, name = path.rpartition("/")
        if any(part in ("", ".", "..") for part in folder.split("/")) and folder:  # only object stores have such
            tree.unfollowed.append((path, "a path with '.', '..' or nothing between two slashes"))
        elif not name.startswith("."):
            tree.folders.setdefault(folder, []).append(name)
    for folder, names in tree.folders.items():
        parsed = parse_folder(folder) if folder else None
        if parsed and not any(part.startswith(".") or part == "__MACOSX" for part in folder.split("/")):
            pair_folder, role = parsed
            files_by_role = tree.pair_folders.setdefault(pair_folder, {})
            files_by_role.setdefault(role, []).extend(f"{folder}/{name}" for name in names)
    return tree


def _walk(tree: Tree, root: str) -> list[str]:
    """List the files below the local folder `root`, sorted and relative to it; fills `unusable` and `unfollowed`."""
    real_root = os.path.realpath(root)
    files: list[str] = []
    left_out: dict[str, tuple[str, str]] = {}  # by real place: links to each other show one link under many paths
    todo: list[tuple[str, str, tuple[str, ...], int]] = [
        (root, "", (real_root,), 0)
    ]  # path, relative, real above, links
    while todo:
        folder, relative, above, links = todo.pop()
        try:
            with os.scandir(folder) as entries:
                listed = list(entries)
        except OSError as error:
            if not relative:
                raise UserError(f"cannot list {folder}: {error.strerror}. Check the permissions.") from error
            left_out[above[-1]] = (relative[:-1], f"a folder that cannot be listed ({error.strerror})")
            continue
        for entry in listed:
            path, real, reason = relative + entry.name, os.path.join(above[-1], entry.name), ""
            if link := entry.is_symlink():
                real = os.path.realpath(entry.path)
                reason = _link_trouble(real, real_root)
            if os.path.isdir(real) if link else entry.is_dir():
                if extension(path) in READABLE:
                    files.append(path)
                    tree.unusable[path] = reason or "a folder with the name of a file"
                if not reason and link and (real in above or links == MAX_LINKS):
                    reason = "a link to a folder above itself" if real in above else "a link behind two others"
                if reason:
                    left_out.setdefault(os.path.join(above[-1], entry.name), (path, f"{reason}; it was not followed"))
                elif len(above) <= MAX_FOLDERS_DEEP:
                    todo.append((entry.path, f"{path}/", (*above, real), links + link))
            else:
                files.append(path)
                if reason or not (os.path.isfile(real) if link else entry.is_file()):
                    tree.unusable[path] = reason or "a pipe, socket or device, not a file"
    tree.unfollowed += sorted(item for item in left_out.values() if not posixpath.basename(item[0]).startswith("."))
    return sorted(files)


def _link_trouble(real: str, real_root: str) -> str:
    """Return why a link that ends at `real` is not followed; "" if it is."""
    if os.path.commonpath([real, real_root]) != real_root:
        return OUTSIDE
    if os.path.exists(real):
        return ""
    return "a link that leads in a circle" if os.path.islink(real) else "a broken link"


def safe_name(name: str) -> str:
    """Return `name` without what a file name or a table must not have: slashes, control characters, broken UTF-8."""
    if name.isascii() and name.isprintable():
        return name.replace("/", "_")
    return "".join("_" if c == "/" or unicodedata.category(c) in ("Cc", "Cs") else c for c in name)


def single_line(reason: str) -> str:
    """Return `reason` on one line, printable and not endless: parts of it may come from a hostile file."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(reason.split()))
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."


def nfc(name: str) -> str:
    """Return composed Unicode: archives made on different systems spell the same accent in two ways."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stem(path: str) -> str:
    """Return the file name without its extension, in composed Unicode."""
    return nfc(posixpath.splitext(posixpath.basename(path))[0])


def extension(path: str) -> str:
    """Return the extension in lower case, with its dot; "" if there is none."""
    return posixpath.splitext(path)[1].lower()
