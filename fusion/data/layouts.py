"""Folder layouts of the public data sets: the table, and what one folder path means under it.

A folder is read as  [group/[group/]] [split/] modality [/split],  where a group is a data set or a kind of degradation
and at most one split name stands above or below the modality folder. What is certain about the public data sets, from
their own repositories and readers of them:

- LLVIP: visible/train/010001.jpg, infrared/train/010001.jpg, Annotations/010001.xml; train and test.
- MSRS: train/vi/00001D.png, train/ir/..., test/...; also detection/vi, ir, labels (80 labelled pairs, YOLO, no names).
- M3FD: Vis/, Ir/, Annotation/ (VOC), no splits; meta/train.txt and so on exist where TarDAL's split was added.
- FMB: train/Visible, train/Infrared, test/...; Label/ and color/ hold masks, which are no boxes and are left alone.
- RoadScene: crop_LR_visible/ and cropinfrared/ are aligned. The visible/ and infrared/ beside them in the repository
  are not, so the crops win; a copy with the crops renamed to visible/ and infrared/ is found as such.
- FLIR-aligned: JPEGImages/FLIR_00002_RGB.jpg and FLIR_00002_PreviewData.jpeg, Annotations/FLIR_00002_PreviewData.xml,
  align_train.txt and align_validation.txt with stems, with or without _PreviewData, at the top or in ImageSets/Main.
- DroneVehicle: train/trainimg, trainimgr, trainlabel, trainlabelr, and so for val and test; labels of either modality
  are polygons, those of the infrared image are used. The images carry a white border of 100 pixels, and the labels
  count from its corner; it is left in place.
- DroneRGBT: Train/RGB/1.jpg, Train/Infrared/1R.jpg, Test/...; Train/GT_/1R.xml holds points, not boxes: no labels.
- EMS: EMS_dataset/vis_Low_Light/train/Visible, Infrared (both as degraded), and eval/; Visible_gt and Infrared_gt are
  left alone. The degradation folder becomes the source of its pairs.

The short names vi, ir, vis, rgb, thermal, lwir are what benchmarks (VIFB, TNO) and repositories commonly use.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LAYOUTS", "SPLITS", "Layout", "PairFolder", "known_layouts", "parse_folder"]

MAX_GROUPS = 2
LABEL_FOLDERS = ("labels", "Annotations", "Annotation", "label")
DEPTH_FOLDER = "depth"

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Layout:
    """How a data set names its folders and files.

    visible, infrared: folder names, the same name where the suffix of the stem tells them apart.

    visible_suffix, infrared_suffix: an ending of the stem that is not part of the pair's name.
    labels: folders for boxes, first choice first. lists: (file with stems, split), for data without split folders.
    split: the split that these folder names themselves say.
    """

    name: str
    visible: str
    infrared: str
    visible_suffix: str = ""
    infrared_suffix: str = ""
    labels: tuple[str, ...] = LABEL_FOLDERS
    lists: tuple[tuple[str, str], ...] = ()
    split: str = ""


FLIR_LISTS = (
    ("align_train.txt", "train"),
    ("align_validation.txt", "val"),
    ("ImageSets/Main/align_train.txt", "train"),
    ("ImageSets/Main/align_validation.txt", "val"),
)
META_LISTS = (("meta/train.txt", "train"), ("meta/val.txt", "val"), ("meta/test.txt", "test"))

# Where one folder fits several lines, the first wins; all are tried as written before any is tried in another case.
LAYOUTS: tuple[Layout, ...] = (
    Layout("RoadScene", "crop_LR_visible", "cropinfrared"),
    Layout("FLIR-aligned", "JPEGImages", "JPEGImages", "_RGB", "_PreviewData", lists=FLIR_LISTS),
    Layout("DroneVehicle", "trainimg", "trainimgr", labels=("trainlabelr", "trainlabel"), split="train"),
    Layout("DroneVehicle", "valimg", "valimgr", labels=("vallabelr", "vallabel"), split="val"),
    Layout("DroneVehicle", "testimg", "testimgr", labels=("testlabelr", "testlabel"), split="test"),
    Layout("visible + infrared", "visible", "infrared"),
    Layout("Visible + Infrared", "Visible", "Infrared"),
    Layout("vi + ir", "vi", "ir"),
    Layout("VI + IR", "VI", "IR"),
    Layout("Vis + Ir", "Vis", "Ir", lists=META_LISTS),
    Layout("vis + ir", "vis", "ir"),
    Layout("DroneRGBT", "RGB", "Infrared", infrared_suffix="R"),
    Layout("rgb + thermal", "rgb", "thermal"),
    Layout("rgb + infrared", "rgb", "infrared"),
    Layout("rgb + ir", "rgb", "ir"),
    Layout("visible + thermal", "visible", "thermal"),
    Layout("visible + ir", "visible", "ir"),
    Layout("visible + lwir", "visible", "lwir"),
    Layout("vis + infrared", "vis", "infrared"),
)

ROLES = (
    {folder.casefold() for layout in LAYOUTS for folder in (layout.visible, layout.infrared)}
    | {folder.casefold() for layout in LAYOUTS for folder in layout.labels}
    | {DEPTH_FOLDER}
)
FOLDER_SPLITS = {
    folder.casefold(): layout.split
    for layout in LAYOUTS
    if layout.split
    for folder in (layout.visible, layout.infrared, *layout.labels)
}


@dataclass(frozen=True)
class PairFolder:
    """One set of pairs in a tree: the folders above them without the split, and the split ("" if there is none)."""

    groups: tuple[str, ...]
    split: str


def parse_folder(folder: str) -> tuple[PairFolder, str] | None:
    """Return the set of pairs of a folder, and the name of its modality or label folder; None for other folders.

    `folder` is relative to the root of the tree, with "/" between its parts.
    """
    parts = tuple(folder.split("/"))
    below = SPLITS.get(parts[-1].casefold(), "") if len(parts) > 1 else ""
    above, name = (parts[:-2], parts[-2]) if below else (parts[:-1], parts[-1])
    if name.casefold() not in ROLES:
        return None
    groups = tuple(part for part in above if part.casefold() not in SPLITS)
    splits = [SPLITS[part.casefold()] for part in above if part.casefold() in SPLITS] + [below] * bool(below)
    implied = FOLDER_SPLITS.get(name.casefold())
    if implied and implied not in splits:
        splits.append(implied)
    if len(splits) > 1 or len(groups) > MAX_GROUPS:
        return None
    return PairFolder(groups, splits[0] if splits else ""), name


def known_layouts() -> str:
    """Return the layouts for a message: "RoadScene (crop_LR_visible, cropinfrared), ..."."""
    named: dict[str, Layout] = {}
    for layout in LAYOUTS:
        named.setdefault(layout.name.casefold(), layout)
    return ", ".join(
        layout.name if " + " in layout.name else f"{layout.name} ({layout.visible}, {layout.infrared})"
        for layout in named.values()
    )
