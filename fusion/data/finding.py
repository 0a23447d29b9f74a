"""Find the pairs of a folder: match its files by stem under the table of `layouts`, and give the pairs keys.

No image is opened. Work goes by folder and by dictionaries of stems, so that time grows with the number of files alone.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fusion.data.layouts import DEPTH_FOLDER, LABEL_FOLDERS, LAYOUTS, Layout, PairFolder, known_layouts
from fusion.data.listing import Tree, extension, list_tree, nfc, safe_name, single_line, stem
from fusion.errors import UserError
from fusion.images.formats import EXTENSIONS, UNREAD

__all__ = ["PairList", "PairRef", "Rejected", "find_in_folder"]

MAX_NAME = 180  # bytes of a file name: results are named after it, with additions, and 255 are allowed


@dataclass(frozen=True)
class PairRef:
    """The files of one pair; paths or URIs are full. split: "train", "val", "test", or "" where the layout has none.

    labels: a YOLO text or VOC XML file; names: the class names that go with a YOLO text, () if there is no list.
    """

    key: str
    source: str
    split: str
    visible: str
    infrared: str
    labels: str | None
    names: tuple[str, ...]
    depth: str | None = None


@dataclass(frozen=True)
class Rejected:
    """What could have been a pair and is none. key: unique among pairs and rejected."""

    key: str
    reason: str


@dataclass(frozen=True)
class PairList:
    """The pairs of a folder in the order of their files, and what was rejected.

    layout: the names of the layouts met, separated by ", "; "scenes" for the built-in ones.
    """

    refs: tuple[PairRef, ...]
    rejected: tuple[Rejected, ...]
    layout: str


@dataclass
class Candidate:
    """A pair, or with a reason what is none. Paths are relative to the root."""

    groups: tuple[str, ...]
    split: str
    stem: str
    visible: str = ""
    infrared: str = ""
    labels: str = ""
    depth: str = ""
    reason: str = ""


def find_in_folder(root: str) -> PairList:
    """Find the pairs below a local folder or a URI.

    Raises UserError: no such folder, no pair, a class list that cannot be read.
    """
    tree = list_tree(root)
    candidates: list[Candidate] = []
    layouts: dict[str, None] = {}
    for pair_folder in sorted(tree.pair_folders, key=lambda pair_folder: (pair_folder.groups, pair_folder.split)):
        layout, exact = _detect_layout(tree.pair_folders[pair_folder])
        if layout is not None:
            matched = _match(tree, pair_folder, layout, exact)
            _set_splits(tree, pair_folder, layout, matched)
            _set_labels(tree, layout, matched)
            candidates += matched
            if not all(candidate.reason for candidate in matched):
                layouts[layout.name] = None
    for link, reason in tree.unfollowed:
        candidates.append(Candidate((), "", posixpath.splitext(link)[0], reason=reason))
    _reject_shared_labels(candidates)
    if all(candidate.reason for candidate in candidates):
        raise UserError(_no_pair_message(root, tree, candidates))
    sources = [safe_name("_".join(dict.fromkeys(candidate.groups)) or tree.name) for candidate in candidates]
    keys = _unique_keys(candidates, sources)
    return PairList(
        refs=tuple(
            _to_ref(tree, candidate, source, key)
            for candidate, source, key in zip(candidates, sources, keys, strict=True)
            if not candidate.reason
        ),
        rejected=tuple(
            Rejected(key, single_line(c.reason)) for c, key in zip(candidates, keys, strict=True) if c.reason
        ),
        layout=", ".join(layouts),
    )


def _to_ref(tree: Tree, candidate: Candidate, source: str, key: str) -> PairRef:
    """Return a usable candidate with full paths and the class names of its labels."""
    yolo = extension(candidate.labels) == ".txt"
    return PairRef(
        key=key,
        source=source,
        split=candidate.split,
        visible=tree.full(candidate.visible),
        infrared=tree.full(candidate.infrared),
        labels=tree.full(candidate.labels) if candidate.labels else None,
        names=tree.class_names(posixpath.dirname(candidate.labels)) if yolo else (),
        depth=tree.full(candidate.depth) if candidate.depth else None,
    )


def _detect_layout(folders: dict[str, list[str]]) -> tuple[Layout | None, bool]:
    """Return the layout of one set of pairs, and whether its folder names fit as written.

    If none fits, one that fits by half is returned, so that its files are rejected with a reason.
    """
    for exact in (True, False):
        for layout in LAYOUTS:
            if all(_sides(folders, layout, exact)):
                return layout, exact
    for layout in LAYOUTS:
        if any(_sides(folders, layout, False)):
            return layout, False
    return None, False


def _sides(folders: dict[str, list[str]], layout: Layout, exact: bool) -> tuple[list[str], list[str]]:
    """Return the visible and the infrared files of a layout in one set of pairs."""
    visible = _images(folders, layout.visible, exact)
    if layout.visible != layout.infrared:
        return visible, _images(folders, layout.infrared, exact)
    return (
        [path for path in visible if stem(path).endswith(layout.visible_suffix)],
        [path for path in visible if stem(path).endswith(layout.infrared_suffix)],
    )


def _images(folders: dict[str, list[str]], name: str, exact: bool) -> list[str]:
    """Return the image files of the folders of this name, as written or in any case."""
    named = [name] if exact else [folder for folder in folders if folder.casefold() == name.casefold()]
    kinds = EXTENSIONS | UNREAD
    return [path for folder in named for path in folders.get(folder, ()) if extension(path) in kinds]


def _match(tree: Tree, pair_folder: PairFolder, layout: Layout, exact: bool) -> list[Candidate]:
    """Return the candidates of one set of pairs, matched by stem."""
    folders = tree.pair_folders[pair_folder]
    sides = _sides(folders, layout, exact)
    visible = _by_stem((stem(path).removesuffix(layout.visible_suffix), path) for path in sides[0])
    infrared: dict[str, list[str]] = {}
    for path in sides[1]:
        own = stem(path)
        infrared.setdefault(own if own in visible else own.removesuffix(layout.infrared_suffix), []).append(path)
    depth = _by_stem((stem(path), path) for path in _images(folders, DEPTH_FOLDER, False))
    candidates = []
    for name in sorted(visible.keys() | infrared.keys()):
        visible_paths, infrared_paths = _readable(visible.get(name, [])), _readable(infrared.get(name, []))
        reason = _reject_reason(tree, visible_paths, infrared_paths)
        candidate = Candidate(pair_folder.groups, pair_folder.split, name, reason=reason)
        if not reason:
            candidate.visible, candidate.infrared = visible_paths[0], infrared_paths[0]
            candidate.depth = depth.get(name, [""])[0]
        candidates.append(candidate)
    return candidates


def _by_stem(stems: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group (stem, path) by stem."""
    paths: dict[str, list[str]] = {}
    for name, path in stems:
        paths.setdefault(name, []).append(path)
    return paths


def _readable(paths: list[str]) -> list[str]:
    """Leave out the kinds that are not read, where there is another."""
    return [path for path in paths if extension(path) in EXTENSIONS] or paths


def _reject_reason(tree: Tree, visible: list[str], infrared: list[str]) -> str:
    """Return why these files of one stem are no pair; "" if they are one."""
    for side, paths, others in (("visible", visible, infrared), ("infrared", infrared, visible)):
        names = [safe_name(posixpath.basename(path)) for path in paths]
        if len(paths) > 1:
            twice = len({nfc(name) for name in names}) < len(names)
            spelled = " (accents composed in one, decomposed in the other)" if twice else ""
            return f"several {side} images of this name{spelled}: {', '.join(names)}"
        if not paths:
            return f"no {side} partner for {safe_name(posixpath.basename(others[0]))}"
        if reason := tree.unusable.get(paths[0]):
            return f"{side} {names[0]}: {reason}"
        if extension(paths[0]) in UNREAD:
            return f"{side} {names[0]}: {extension(paths[0])[1:]} images are not read; save them as PNG"
        if len(os.fsencode(names[0])) > MAX_NAME:
            return f"{side}: a file name of more than {MAX_NAME} bytes"
    clean = all(safe_name(part) == part for path in (*visible, *infrared) for part in path.split("/"))
    return "" if clean else "a path with control characters or not in UTF-8"


def _set_splits(tree: Tree, pair_folder: PairFolder, layout: Layout, candidates: list[Candidate]) -> None:
    """Set splits from lists of stems, where the layout has such and no split folders."""
    splits: dict[str, str] = {}
    for file, split in layout.lists if not pair_folder.split else ():
        path = "/".join((*pair_folder.groups, file))
        for line in tree.text(path).splitlines() if tree.has(path) else ():
            name = nfc(posixpath.basename(line.strip()))
            name = stem(name) if extension(name) in (*EXTENSIONS, ".xml") else name
            name = name.removesuffix(layout.visible_suffix).removesuffix(layout.infrared_suffix)
            splits.setdefault(name, split)
    for candidate in candidates:
        candidate.split = splits.get(candidate.stem, pair_folder.split)


def _set_labels(tree: Tree, layout: Layout, candidates: list[Candidate]) -> None:
    """Set the label file of each pair: from the folders of its split, else from one that stands beside all splits."""
    folders = dict.fromkeys((*layout.labels, *LABEL_FOLDERS))
    for candidate in candidates:
        if candidate.reason:
            continue
        stems = dict.fromkeys((candidate.stem, stem(candidate.infrared), stem(candidate.visible)))
        indices = (
            tree.labels(PairFolder(candidate.groups, split), folder)
            for folder in folders
            for split in dict.fromkeys((candidate.split, ""))
        )
        candidate.labels = next((index[name] for index in indices for name in stems if name in index), "")
        for part, path in (("labels", candidate.labels), ("depth", candidate.depth)):
            if reason := tree.unusable.get(path):
                candidate.reason = f"{part} {safe_name(posixpath.basename(path))}: {reason}"


def _reject_shared_labels(candidates: list[Candidate]) -> None:
    """Reject pairs that share a label file: it lies beside train and test, and both have an image of its name."""
    uses = Counter(candidate.labels for candidate in candidates if candidate.labels)
    for candidate in candidates:
        if uses[candidate.labels] > 1:
            candidate.reason = f"label file {candidate.labels} fits {uses[candidate.labels]} pairs"


def _unique_keys(candidates: list[Candidate], sources: list[str]) -> list[str]:
    """Return a unique key for each: the stem; where stems repeat, with split, source or both in front."""
    repeats: dict[str, list[int]] = {}
    for index, candidate in enumerate(candidates):
        repeats.setdefault(safe_name(candidate.stem), []).append(index)
    keys = [""] * len(candidates)
    for name, indices in repeats.items():
        one_source = len({sources[i] for i in indices}) == 1
        forms = [[name] * len(indices)]
        for with_source, with_split in ((False, True),) if one_source else ((True, False), (True, True)):
            fronts = [(sources[i] * with_source, candidates[i].split * with_split) for i in indices]
            forms.append(["_".join([*filter(None, front), name]) for front in fronts])
        chosen = next((form for form in forms if len(set(form)) == len(form)), forms[-1])
        for index, key in zip(indices, chosen, strict=True):
            keys[index] = key
    taken, seen = set(keys), set[str]()
    for index, key in enumerate(keys):  # a stem may equal the key of another: "train_1", and 1 in train/
        unique, number = key, 2
        while unique in seen or (number > 2 and unique in taken):
            unique = f"{key}_{number}"
            number += 1
        seen.add(unique)
        keys[index] = unique
    return keys


def _no_pair_message(root: str, tree: Tree, candidates: list[Candidate]) -> str:
    """Return the message for a folder without a pair: the first candidate's reason, or the layouts known."""
    if candidates:
        first = candidates[0]
        name = safe_name(first.stem) if not first.groups else f"{safe_name(first.stem)} in {'/'.join(first.groups)}"
        return f"no image pair in {root}: {len(candidates)} rejected, the first is {name}: {first.reason}."
    images = sum(extension(name) in EXTENSIONS for names in tree.folders.values() for name in names)
    return (
        f"no image pair in {root}: {images} images in {len(tree.folders)} folders, in none of the known layouts. "
        f"Put the images into folders visible/ and infrared/ under equal names; known are {known_layouts()}."
    )
