"""Finding pairs in every layout, keys, hostile folders, and reading pairs."""

from __future__ import annotations

import io
import os
import time
import unicodedata
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import fusion.scenes
from fusion import storage
from fusion.data import listing
from fusion.data.finding import PairRef
from fusion.data.layouts import LAYOUTS, known_layouts
from fusion.data.pairs import BadPair, find_pairs, read_pair
from fusion.errors import UserError
from fusion.images.png import encode_png
from tests.helpers.data import DATA, evidence

VISIBLE = np.random.default_rng(3).integers(0, 256, (24, 32, 3), dtype=np.uint8)
INFRARED = VISIBLE[::-1, :, 0].copy()
BOX = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>8</xmax><ymax>9</ymax></bndbox>"
POLYGON = "<polygon><x1>2</x1><y1>2</y1><x2>8</x2><y2>3</y2><x3>7</x3><y3>9</y3><x4>2</x4><y4>8</y4></polygon>"


def voc(shape: str = BOX) -> bytes:
    return f"<annotation><object><name>car</name>{shape}</object></annotation>".encode()


CONTENT = {
    ".png": encode_png(VISIBLE),
    ".jpg": cv2.imencode(".jpg", VISIBLE)[1].tobytes(),
    ".jpeg": cv2.imencode(".jpeg", INFRARED)[1].tobytes(),
    ".xml": voc(),
    ".txt": b"0 0.5 0.5 0.25 0.25\n",
}


def build(root: Path, *paths: str, **contents: bytes) -> str:
    """Files of the right kind at these paths; `contents` by path for others."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(CONTENT[file.suffix.lower()])
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return str(root)


def brief(where: str) -> list[tuple[str, str, str]]:
    return sorted((ref.key, ref.source, ref.split) for ref in find_pairs(where).refs)


# every layout of the table


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.visible}")
@pytest.mark.parametrize("split", ["", "above", "below"])
def test_every_line_of_the_table_with_and_without_splits(tmp_path, layout, split):
    name = layout.split or "test"
    above, below = (f"{name}/" if split == at else "" for at in ("above", "below"))
    visible = f"{above}{layout.visible}/{below}a{layout.visible_suffix}.png"
    infrared = f"{above}{layout.infrared}/{below}a{layout.infrared_suffix}.png"
    where = build(tmp_path / "Set", visible, infrared, "notes/readme.txt")
    found = find_pairs(where)
    assert found.layout == layout.name
    assert found.rejected == ()
    (ref,) = found.refs
    assert (ref.key, ref.source) == ("a", "Set")
    assert ref.split == (layout.split or ("test" if split else ""))
    assert (ref.visible, ref.infrared) == (f"{where}/{visible}", f"{where}/{infrared}")
    assert read_pair(ref).visible.shape == (24, 32, 3)


def test_llvip(tmp_path):
    paths = [f"{side}/{s}.jpg" for side in ("visible", "infrared") for s in ("train/010001", "train/010002", "test/19")]
    where = build(tmp_path / "LLVIP", *paths, *(f"Annotations/{n}.xml" for n in ("010001", "010002", "19")))
    assert brief(where) == [("010001", "LLVIP", "train"), ("010002", "LLVIP", "train"), ("19", "LLVIP", "test")]
    for ref in find_pairs(where).refs:
        assert ref.labels == f"{where}/Annotations/{ref.key}.xml"
        pair = read_pair(ref)
        assert pair.classes == ("car",)
        np.testing.assert_array_equal(pair.boxes, [[2, 2, 8, 9]])


def test_msrs_with_its_detection_folder(tmp_path):
    where = build(
        tmp_path / "MSRS",
        *(
            f"{split}/{side}/{split}1D.png"
            for split in ("train", "test")
            for side in ("vi", "ir", "Segmentation_labels")
        ),
        *("detection/vi/105.png", "detection/ir/105.png", "detection/labels/105.txt"),
    )
    assert brief(where) == [("105", "detection", ""), ("test1D", "MSRS", "test"), ("train1D", "MSRS", "train")]
    ref = next(ref for ref in find_pairs(where).refs if ref.key == "105")
    assert ref.names == ()
    assert read_pair(ref).classes == ("class0",)


def test_m3fd_with_split_lists(tmp_path):
    names = ("00000", "00001", "00002", "00003")
    where = build(
        tmp_path / "M3FD",
        *(f"{side}/{n}.png" for side in ("Vis", "Ir") for n in names),
        *(f"Annotation/{n}.xml" for n in names),
        **{"meta/train.txt": b"00000.png\n00001.png\n", "meta/val.txt": b"\xef\xbb\xbf00002\r\n"},
    )
    assert [split for _, _, split in brief(where)] == ["train", "train", "val", ""]
    assert all(ref.labels == f"{where}/Annotation/{ref.key}.xml" for ref in find_pairs(where).refs)


def test_fmb_masks_are_no_labels(tmp_path):
    where = build(tmp_path, "train/Visible/1.png", "train/Infrared/1.png", "train/Label/1.png", "train/color/1.png")
    (ref,) = find_pairs(where).refs
    assert (ref.split, ref.labels) == ("train", None)


def test_flir_aligned(tmp_path):
    stems = ("FLIR_00002", "FLIR_00003", "FLIR_08864", "FLIR_09000")
    where = build(
        tmp_path / "align",
        *(f"JPEGImages/{s}_RGB.jpg" for s in stems),
        *(f"JPEGImages/{s}_PreviewData.jpeg" for s in stems[:3]),
        *(f"Annotations/{s}_PreviewData.xml" for s in stems),
        "JPEGImages/FLIR_00002_mask.jpg",
        "AnnotatedImages/FLIR_00002_RGB.jpg",
        **{"align_train.txt": b"FLIR_00002_PreviewData\nFLIR_00003\n", "align_validation.txt": b"FLIR_08864_RGB.jpg"},
    )
    found = find_pairs(where)
    assert [(ref.key, ref.split) for ref in found.refs] == [*zip(stems[:3], ("train", "train", "val"), strict=True)]
    assert found.refs[0].labels == f"{where}/Annotations/FLIR_00002_PreviewData.xml"
    assert [(r.key, r.reason) for r in found.rejected] == [(stems[3], "no infrared partner for FLIR_09000_RGB.jpg")]


def test_roadscene_takes_the_aligned_crops(tmp_path):
    folders = ("visible", "infrared", "crop_LR_visible", "crop_HR_visible", "cropinfrared")
    where = build(tmp_path, *(f"{folder}/FLIR_00006.jpg" for folder in folders))
    found = find_pairs(where)
    assert found.layout == "RoadScene"
    assert [Path(ref.visible).parent.name for ref in found.refs] == ["crop_LR_visible"]


@pytest.mark.parametrize("above", [True, False])
def test_dronevehicle_takes_the_polygons_of_the_infrared_image(tmp_path, above):
    paths = {}
    for split in ("train", "val", "test"):
        base = f"{split}/" if above else ""
        paths |= {f"{base}{split}img{r}/00001.jpg": CONTENT[".jpg"] for r in ("", "r")}
        paths |= {f"{base}{split}label/00001.xml": voc(), f"{base}{split}labelr/00001.xml": voc(POLYGON)}
    where = build(tmp_path / "DV", **paths)
    assert brief(where) == [(f"{split}_00001", "DV", split) for split in ("test", "train", "val")]
    for ref in find_pairs(where).refs:
        np.testing.assert_array_equal(read_pair(ref).boxes, [[2, 2, 8, 9]])


def test_dronergbt_names_end_in_r_and_points_are_no_labels(tmp_path):
    where = build(
        tmp_path / "D",
        *("Train/RGB/1.jpg", "Train/Infrared/1R.jpg", "Train/GT_/1R.xml", "Train/RGB/2R.jpg", "Train/Infrared/2R.jpg"),
        *("Test/RGB/1.jpg", "Test/Infrared/1R.jpg", "Test/Infrared/7R.jpg"),
    )
    found = find_pairs(where)
    assert brief(where) == [("2R", "D", "train"), ("test_1", "D", "test"), ("train_1", "D", "train")]
    assert all(ref.labels is None for ref in found.refs)
    assert [r.reason for r in found.rejected] == ["no visible partner for 7R.jpg"]


def test_ems_degradations_become_sources(tmp_path):
    kinds = ("vis_Low_Light", "IR_Low_Contrast")
    sides = ("Visible", "Infrared", "Visible_gt", "Infrared_gt")
    where = build(
        tmp_path, *(f"{k}/{split}/{side}/a.png" for k in kinds for split in ("train", "eval") for side in sides)
    )
    assert {(s, p) for _, s, p in brief(where)} == {(k, p) for k in kinds for p in ("train", "val")}
    assert "vis_Low_Light_train_a" in {ref.key for ref in find_pairs(where).refs}
    inside = build(tmp_path / "b", "train/haze/vi/a.png", "train/haze/ir/a.png")
    assert brief(inside) == [("a", "haze", "train")]


def test_yolo_labels_mirror_the_splits(tmp_path):
    sides = [f"{side}/{split}/a.png" for side in ("visible", "infrared") for split in ("train", "test")]
    labels = {"labels/train/a.txt": CONTENT[".txt"], "labels/test/a.txt": b"", "classes.txt": b"person\ncar\n"}
    found = find_pairs(build(tmp_path, *sides, **labels))
    by_split = {ref.split: read_pair(ref) for ref in found.refs}
    assert by_split["train"].classes == ("person",)
    np.testing.assert_array_equal(by_split["train"].boxes, [[12, 9, 20, 15]])
    assert by_split["test"].boxes.shape == (0, 4)
    assert all(ref.names == ("person", "car") for ref in found.refs)


@pytest.mark.parametrize("at", ["labels/classes.txt", "labels/obj.names", "data.yaml"])
def test_class_lists_beside_and_above(tmp_path, at):
    content = b"names: {0: tram}" if at.endswith("yaml") else b"tram\n"
    where = build(tmp_path, "vi/a.png", "ir/a.png", "labels/a.txt", **{at: content})
    (ref,) = find_pairs(where).refs
    assert read_pair(ref).classes == ("tram",)


def test_a_broken_class_list_is_a_user_error(tmp_path):
    where = build(tmp_path, "vi/a.png", "ir/a.png", "labels/a.txt", **{"data.yaml": b"names: [a"})
    with pytest.raises(UserError, match=r"data\.yaml: not YAML"):
        find_pairs(where)


def test_another_case_is_second_choice(tmp_path):
    where = build(tmp_path / "a", "VISIBLE/Train/x.PNG", "InfraRed/train/x.JPG", "LABELS/TRAIN/x.txt")
    (ref,) = find_pairs(where).refs
    assert (ref.split, Path(ref.labels).name) == ("train", "x.txt")
    both = build(tmp_path / "b", "visible/x.png", "infrared/x.png", "VI/y.png", "ir/y.png")
    assert [ref.key for ref in find_pairs(both).refs] == ["x"]


def test_depth_beside_the_images(tmp_path):
    depth = np.linspace(0, 200, VISIBLE[..., 0].size).reshape(VISIBLE.shape[:2]).astype(np.uint8)
    content = {"depth/a.png": encode_png(depth), "depth/b.png": encode_png(depth[1:])}
    sides = ("visible/a.png", "infrared/a.png", "visible/b.png", "infrared/b.png")
    good, bad = find_pairs(build(tmp_path, *sides, **content)).refs
    np.testing.assert_allclose(read_pair(good).depth, depth / 200, atol=1e-6)
    with pytest.raises(BadPair, match="sizes differ: visible 32x24, depth 32x23"):
        read_pair(bad)


# keys, sources


def test_several_data_sets_below_one_folder(tmp_path):
    where = build(
        tmp_path / "all",
        *(f"LLVIP/{side}/{split}/a.png" for side in ("visible", "infrared") for split in ("train", "test")),
        *(f"MSRS/{split}/{side}/{n}.png" for split in ("train", "test") for side in ("vi", "ir") for n in ("a", split)),
        *("vi/own.png", "ir/own.png"),
    )
    assert brief(where) == [
        ("LLVIP_test_a", "LLVIP", "test"),
        ("LLVIP_train_a", "LLVIP", "train"),
        ("MSRS_test_a", "MSRS", "test"),
        ("MSRS_train_a", "MSRS", "train"),
        ("own", "all", ""),
        ("test", "MSRS", "test"),
        ("train", "MSRS", "train"),
    ]
    assert find_pairs(where).layout == "vi + ir, visible + infrared"


def test_a_doubled_folder_name_is_said_once(tmp_path):
    where = build(tmp_path, "MSRS-main/MSRS-main/test/vi/a.png", "MSRS-main/MSRS-main/test/ir/a.png")
    assert brief(where) == [("a", "MSRS-main", "test")]


def test_keys_are_unique_where_a_stem_looks_like_a_front(tmp_path):
    stems = ("train/1", "test/1", "test/train_1", "test/test_1", "train/train_1_2")
    where = build(tmp_path, *(f"{side}/{stem}.png" for side in ("visible", "infrared") for stem in stems))
    found = find_pairs(where)
    keys = [ref.key for ref in found.refs]
    assert len(set(keys)) == len(stems)
    by_key = {
        ref.key: Path(ref.visible).relative_to(f"{where}/visible").with_suffix("").as_posix() for ref in found.refs
    }
    assert by_key["train_1_2"] == "train/train_1_2"  # a name of its own is not taken by another's number
    assert found == find_pairs(where)


def test_keys_keep_spaces_and_unicode(tmp_path):
    stems = ("night 夜 1", unicodedata.normalize("NFC", "café"), "a.b.c", "50% #1 ?x=1")
    where = build(tmp_path / "data set ü", *(f"{side}/{stem}.png" for side in ("vi", "ir") for stem in stems))
    found = find_pairs(where)
    assert {ref.key for ref in found.refs} == set(stems)
    assert {ref.source for ref in found.refs} == {"data set ü"}
    for ref in found.refs:
        read_pair(ref)


def test_the_same_accent_spelled_in_two_ways_is_one_stem(tmp_path):
    composed, split = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (ref,) = find_pairs(build(tmp_path, f"vi/{composed}.png", f"ir/{split}.png")).refs
    assert ref.key == composed
    read_pair(ref)


def test_uris_are_escaped_and_relative_parts_are_the_same(tmp_path):
    where = build(tmp_path / "Set", "vi/a b#1%.png", "ir/a b#1%.png", "vi/夜.png", "ir/夜.png", "labels/夜.txt")
    local, remote = find_pairs(where), find_pairs(f"file://{where}/")
    assert [(r.key, r.source, r.split) for r in local.refs] == [(r.key, r.source, r.split) for r in remote.refs]
    assert remote.refs[0].visible == f"file://{where}/vi/a%20b%231%25.png"
    for a, b in zip(local.refs, remote.refs, strict=True):
        np.testing.assert_array_equal(read_pair(a).boxes, read_pair(b).boxes)


# what is rejected


def test_half_pairs_and_duplicates_are_rejected_with_reasons(tmp_path):
    where = build(
        tmp_path,
        *("visible/a.png", "infrared/a.png", "visible/only.png", "infrared/hot.jpg"),
        *("visible/twice.png", "visible/twice.jpg", "infrared/twice.png"),
        *("visible/both.png", "infrared/both.png", "infrared/both.jpeg"),
        *("visible/.hidden.png", "infrared/._a.png", "__MACOSX/visible/z.png", "__MACOSX/infrared/z.png"),
        **{"visible/notes.md": b"", "infrared/list.txt": b""},
    )
    found = find_pairs(where)
    assert [ref.key for ref in found.refs] == ["a"]
    assert {r.key: r.reason for r in found.rejected} == {
        "only": "no infrared partner for only.png",
        "hot": "no visible partner for hot.jpg",
        "twice": "several visible images of this name: twice.jpg, twice.png",
        "both": "several infrared images of this name: both.jpeg, both.png",
    }


def test_a_split_with_one_side_only_is_not_passed_over(tmp_path):
    where = build(tmp_path, "visible/train/a.png", "infrared/train/a.png", "visible/val/b.png")
    assert [r.key for r in find_pairs(where).rejected] == ["b"]


def test_keys_of_rejected_and_found_differ(tmp_path):
    where = build(tmp_path, "visible/train/a.png", "infrared/train/a.png", "visible/val/a.png")
    found = find_pairs(where)
    assert ([ref.key for ref in found.refs], [r.key for r in found.rejected]) == (["train_a"], ["val_a"])


def test_links_that_lead_outside_are_rejected_and_links_inside_followed(tmp_path):
    build(tmp_path / "outside", "secret.png", "visible/b.png", "infrared/b.png")
    root = tmp_path / "root"
    where = build(root, "visible/a.png", "infrared/a.png", "visible/c.png", "real/d.png", "visible/e.png")
    (root / "infrared/c.png").symlink_to(tmp_path / "outside/secret.png")
    (root / "other").symlink_to(tmp_path / "outside")
    (root / "vi").symlink_to(root / "real")
    (root / "visible/loop").symlink_to(root)
    (root / "infrared/e.png").symlink_to("../real/d.png")
    (root / "infrared/gone.png").symlink_to("nothing.png")
    (root / "README").symlink_to("/etc/hostname")
    found = find_pairs(where)
    assert [ref.key for ref in found.refs] == ["a", "e"]
    reasons = {r.key: r.reason for r in found.rejected}
    outside = "a link that leads outside the folder"
    assert reasons == {
        "c": f"infrared c.png: {outside}",
        "gone": "no visible partner for gone.png",
        "other": f"{outside}; it was not followed",
        "visible_loop": "a link to a folder above itself; it was not followed",
    }


def test_the_root_itself_may_be_a_link(tmp_path):
    build(tmp_path / "real", "vi/a.png", "ir/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert brief(str(tmp_path / "link")) == [("a", "link", "")]


def test_control_characters_and_broken_utf8_in_names_are_rejected(tmp_path):
    where = build(tmp_path, "vi/a.png", "ir/a.png", "vi/x\ny.png", "ir/x\ny.png")
    for side in ("vi", "ir"):
        Path(os.fsdecode(os.fsencode(tmp_path / side) + b"/bad\xff.png")).write_bytes(CONTENT[".png"])
    found = find_pairs(where)
    assert [ref.key for ref in found.refs] == ["a"]
    assert sorted(r.key for r in found.rejected) == ["bad_", "x_y"]
    assert all("control characters" in r.reason for r in found.rejected)


def test_one_label_file_for_two_pairs_is_rejected(tmp_path):
    sides = [f"{side}/{split}/a.png" for side in ("visible", "infrared") for split in ("train", "test")]
    where = build(tmp_path, *sides, "Annotations/a.xml", "visible/train/b.png", "infrared/train/b.png")
    found = find_pairs(where)
    assert [ref.key for ref in found.refs] == ["b"]
    assert {r.reason for r in found.rejected} == {"label file Annotations/a.xml fits 2 pairs"}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["pictures/a.png"], r"1 images in 1 folders, in none of the known layouts.*visible \+ infrared"),
        (["visible/a.png", "infrared/b.png"], "2 rejected, the first is a: no infrared partner for a.png"),
        (["visible/a.png"], "1 rejected, the first is a: no infrared partner"),
        (["a/b/c/vi/a.png", "a/b/c/ir/a.png"], "none of the known layouts"),
        (["val/visible/train/a.png", "val/infrared/train/a.png"], "none of the known layouts"),
    ],
)
def test_nothing_found_is_a_user_error_in_one_line(tmp_path, paths, message):
    with pytest.raises(UserError, match=message) as raised:
        find_pairs(build(tmp_path, *paths))
    assert "\n" not in str(raised.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_pairs(str(tmp_path / "none"))
    with pytest.raises(UserError, match="0 images"):
        find_pairs(f"file://{tmp_path}/none")
    with pytest.raises(UserError, match="cannot open"):
        find_pairs("ftp2://x/y")


def test_known_layouts_names_each_once():
    text = known_layouts()
    assert text.count("DroneVehicle (trainimg, trainimgr)") == 1
    assert all(layout.name.lower() in text.lower() for layout in LAYOUTS)


def test_100_000_files_take_seconds_and_no_image_is_opened(tmp_path, monkeypatch):
    folders = (("visible/train", "jpg"), ("infrared/train", "jpg"), ("labels/train", "txt"), ("visible/test", "jpg"))
    files = sorted(f"{folder}/{i:06d}.{kind}" for folder, kind in folders for i in range(25_000))
    monkeypatch.setattr(listing, "_walk", lambda tree, root: files)
    monkeypatch.setattr(storage, "read_bytes", lambda path: pytest.fail(f"{path} was opened"))
    start = time.process_time()
    found = find_pairs(str(tmp_path))
    assert (len(found.refs), len(found.rejected)) == (25_000, 25_000)
    assert time.process_time() - start < 5


# reading


def pair_of(root: Path, visible: bytes, infrared: bytes, **files: bytes) -> PairRef:
    return find_pairs(build(root, **{"vi/a.png": visible, "ir/a.png": infrared, **files})).refs[0]


def test_a_plain_pair_is_read_as_it_is(tmp_path):
    pair = read_pair(pair_of(tmp_path, encode_png(VISIBLE), encode_png(INFRARED)))
    np.testing.assert_array_equal(pair.visible, VISIBLE)
    np.testing.assert_array_equal(pair.infrared, INFRARED)
    assert (pair.key, pair.notes, pair.classes, pair.depth) == ("a", (), (), None)
    assert (pair.boxes.shape, pair.boxes.dtype) == ((0, 4), np.float32)


def test_grey_visible_and_colour_infrared(tmp_path):
    grey = np.repeat(INFRARED[..., None], 3, axis=2)
    pair = read_pair(pair_of(tmp_path / "1", encode_png(INFRARED), encode_png(grey)))
    np.testing.assert_array_equal(pair.visible, grey)
    np.testing.assert_array_equal(pair.infrared, INFRARED)
    assert pair.notes == ("visible: grey repeated to RGB", "infrared: three equal channels to one")
    pair = read_pair(pair_of(tmp_path / "2", encode_png(VISIBLE), encode_png(VISIBLE)))
    luma = np.floor((VISIBLE.astype(int) @ [299, 587, 114] + 500) / 1000)
    np.testing.assert_array_equal(pair.infrared, luma)
    assert pair.notes == ("infrared: colour to luma, false colours: luma is not temperature",)
    nearly = grey.copy()
    nearly[..., 0] ^= 1
    assert read_pair(pair_of(tmp_path / "3", encode_png(VISIBLE), encode_png(nearly))).notes == (
        "infrared: colour to luma",
    )


def test_conversions_are_noted_with_their_side(tmp_path):
    thermal = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) + 3000
    buffer = io.BytesIO()
    Image.fromarray(VISIBLE).convert("P").save(buffer, "PNG")
    pair = read_pair(pair_of(tmp_path, buffer.getvalue(), cv2.imencode(".png", thermal)[1].tobytes()))
    assert pair.notes == ("visible: palette to RGB", "infrared: 16-bit, 3001..3766 stretched to 8 bits")
    assert (pair.infrared.min(), pair.infrared.max()) == (0, 255)


def test_clipped_and_dropped_boxes_are_noted(tmp_path):
    labels = b"0 0.0 0.5 0.5 0.5\n0 0.5 0.5 0.01 0.5\n"
    pair = read_pair(pair_of(tmp_path, CONTENT[".png"], CONTENT[".png"], **{"labels/a.txt": labels}))
    np.testing.assert_array_equal(pair.boxes, [[0, 6, 8, 18]])
    assert "labels: 1 boxes clipped, 1 dropped" in pair.notes


def jpeg(pixels: np.ndarray, exif: bool = False) -> bytes:
    buffer = io.BytesIO()
    tags = Image.Exif()
    if exif:
        tags[0x0112] = 6
    Image.fromarray(pixels).save(buffer, "JPEG", exif=tags)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("visible", "infrared", "reason"),
    [
        (jpeg(VISIBLE)[:-30], CONTENT[".png"], "visible: truncated JPEG"),
        (CONTENT[".png"], CONTENT[".png"][:-30], "infrared: truncated PNG"),
        (b"", CONTENT[".png"], "visible: empty file"),
        (b"text named .png", CONTENT[".png"], "visible: not an image"),
        (CONTENT[".png"], encode_png(INFRARED[:-1]), "sizes differ: visible 32x24, infrared 32x23"),
        (jpeg(VISIBLE, exif=True), CONTENT[".png"], "sizes differ: visible 24x32, infrared 32x24"),
    ],
)
def test_bad_images_are_refused_with_side_and_reason(tmp_path, visible, infrared, reason):
    ref = pair_of(tmp_path, visible, infrared)
    with pytest.raises(BadPair, match=f"^{reason}$"):
        read_pair(ref)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (
            "labels/a.txt",
            b"0 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.2 0.2",
            "labels: line 2: class id 9 but the class list has 1",
        ),
        ("labels/a.txt", b"\xff\xfe0\x00", "labels: not UTF-8 text"),
        ("Annotations/a.xml", b"<annotation>", "labels: not XML"),
    ],
)
def test_bad_labels_are_refused(tmp_path, file, content, reason):
    png = CONTENT[".png"]
    ref = pair_of(tmp_path, png, png, **{file: content, "classes.txt": b"person\n"})
    with pytest.raises(BadPair, match=reason):
        read_pair(ref)


def test_a_file_that_went_away_is_a_bad_pair(tmp_path):
    ref = pair_of(tmp_path, CONTENT[".png"], CONTENT[".png"])
    os.unlink(ref.infrared)
    with pytest.raises(BadPair, match="infrared: no such file"):
        read_pair(ref)


# built-in scenes


def test_scenes_are_listed_without_being_drawn():
    found = find_pairs("scenes:3")
    assert (found.layout, found.rejected) == ("scenes", ())
    assert [ref.key for ref in found.refs] == ["scene-000000", "scene-000001", "scene-000002"]
    assert found.refs[2] == PairRef("scene-000002", "scenes", "", *["scenes:2:640x480:0"] * 2, None, ())
    assert find_pairs("scenes:1:160x128:9").refs[0].visible == "scenes:0:160x128:9"


def test_scenes_are_drawn_with_their_numbers(monkeypatch):
    calls = []

    def render(seed, index, height, width):
        calls.append((seed, index, height, width))
        return fusion.scenes.Scene(
            VISIBLE, INFRARED, INFRARED / np.float32(255), np.ones((1, 4), np.float32), ("x",), "day"
        )

    monkeypatch.setattr("fusion.data.synthetic.render", render)
    pair = read_pair(find_pairs("scenes:5:160x128:9").refs[4])
    assert calls == [(9, 4, 128, 160)]
    assert (pair.key, pair.classes, pair.notes) == ("scene-000004", ("x",), ())


def test_a_real_scene_is_a_valid_pair():
    pair = read_pair(find_pairs("scenes:1:96x64:3").refs[0])
    assert (pair.visible.shape, pair.infrared.shape, pair.depth.shape) == ((64, 96, 3), (64, 96), (64, 96))
    assert pair.visible.dtype == pair.infrared.dtype == np.uint8
    assert len(pair.boxes) == len(pair.classes)


@pytest.mark.parametrize(
    "text",
    [
        *("scenes:", "scenes:0", "scenes:-1", "scenes:x", "scenes:5 ", "scenes:1000001"),
        *("scenes:5:640", "scenes:5:63x480", "scenes:5:99999x99999"),
        *("scenes:5:640x480:", "scenes:5:640x480:-1", "scenes:5:640x480:1:2"),
    ],
)
def test_bad_scenes_strings(text):
    with pytest.raises(UserError, match="scenes"):
        find_pairs(text)


# public data, where present


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        pytest.param("roadscene", {"": 204}, marks=evidence("roadscene")),
        pytest.param("roadscene_det", {"train": 50, "test": 43}, marks=evidence("roadscene_det")),
        pytest.param("llvip_small", {"train": 9, "test": 2}, marks=evidence("llvip_small")),
        pytest.param("vifb", {"": 12}, marks=evidence("vifb")),
        pytest.param("tno_tang", {"": 10}, marks=evidence("tno_tang")),
    ],
)
def test_public_pairs_are_found_and_readable(name, splits):
    found = find_pairs(str(DATA / name))
    assert Counter(ref.split for ref in found.refs) == splits
    assert found.rejected == ()
    for ref in found.refs[::20]:
        pair = read_pair(ref)
        assert pair.infrared.shape == pair.visible.shape[:2]


@evidence("roadscene_det")
def test_public_boxes():
    counts: Counter[tuple[str, str]] = Counter()
    for ref in find_pairs(str(DATA / "roadscene_det")).refs:
        pair = read_pair(ref)
        counts.update((ref.split, name) for name in pair.classes)
        assert (pair.boxes[:, 2:] > pair.boxes[:, :2]).all()
        assert not any("labels" in note for note in pair.notes)
    train = {("train", "person"): 92, ("train", "bicycle"): 19, ("train", "car"): 160}
    assert counts == train | {("test", "person"): 77, ("test", "bicycle"): 8, ("test", "car"): 263}


@evidence("roadscene", "roadscene_det", "tno_tang")
def test_the_folder_of_all_public_sets():
    found = find_pairs(str(DATA))
    assert len({ref.key for ref in found.refs}) == len(found.refs)
    assert {"roadscene_FLIR_00006", "roadscene_det_FLIR_00006", "01"} <= {ref.key for ref in found.refs}
