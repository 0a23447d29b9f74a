"""A folder of hostile files: found, read and built into shards without a crash, every bad pair with its reason."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fusion import storage
from fusion.data import corpus, listing, pairs
from fusion.data.labels import BadLabels, read_voc
from fusion.data.pairs import BadPair, find_pairs, read_pair
from fusion.data.shards import CorpusConfig, ShardRecord, build_shard, plan_shards
from fusion.data.splits import assign_splits
from fusion.errors import UserError
from fusion.images.decode import decode
from fusion.images.formats import MAX_BYTES, BadImage
from fusion.images.png import encode_png

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(8)
COLOUR = cv2.GaussianBlur(RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8), (0, 0), 2)
GREY = COLOUR[::-1, :, 1].copy()


def encoded(pixels: np.ndarray | Image.Image, form: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side; upright it is COLOUR
    return encoded(np.rot90(COLOUR).copy(), "JPEG", exif=exif)


def frames(form: str) -> bytes:
    rest = [Image.fromarray(COLOUR[:, ::-1]), Image.fromarray(COLOUR[::-1])]
    return encoded(COLOUR, form, save_all=True, append_images=rest)


def claims(width: int, height: int) -> bytes:
    """A whole, small PNG whose header claims this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


def wrong_checksum(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 40
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def voc(*objects: str, head: str = "") -> bytes:
    return f"{head}<annotation>{''.join(objects)}</annotation>".encode()


def voc_object(*box: object) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<object><name>car</name><bndbox>{''.join(f'<{t}>{v}</{t}>' for t, v in tags)}</bndbox></object>"


LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
BOMB = voc(voc_object(1, 1, 9, 9), "&a9;", head=f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]>')
PNG, JPEG, THERMAL = encode_png(COLOUR), encoded(COLOUR, "JPEG"), encode_png(GREY)
COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "été"), unicodedata.normalize("NFD", "été")


@dataclass(frozen=True)
class Case:
    """One pair. reason: "" if it is accepted, with these notes (the start of each). boxes: how many are left."""

    visible: bytes = PNG
    infrared: bytes = THERMAL
    name: str = ""
    kind: str = ".png"
    labels: bytes | None = None
    label_kind: str = ".txt"
    reason: str = ""
    notes: tuple[str, ...] = ()
    boxes: int = 0


# accepted, and what is noted
ACCEPTED = {
    "plain": Case(),
    "deep": Case(
        encoded(COLOUR, "PNG"),
        cv2.imencode(".png", GREY.astype(np.uint16) * 5 + 3000)[1].tobytes(),
        notes=("infrared: 16-bit, ",),
    ),
    "deepcolour": Case(
        cv2.imencode(".png", COLOUR.astype(np.uint16) * 257)[1].tobytes(), notes=("visible: 16-bit colour divided",)
    ),
    "cmyk": Case(encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"), notes=("visible: CMYK to RGB",)),
    "turned": Case(turned(), notes=("visible: EXIF rotation applied",)),
    "palette": Case(encoded(Image.fromarray(COLOUR).convert("P"), "PNG"), notes=("visible: palette to RGB",)),
    "wrongkind": Case(JPEG),  # a JPEG named .png: content decides
    "padded": Case(JPEG + bytes(16) + b"\r\n"),
    "a name with spaces": Case(),
    "夜 #1%&+;$(x)'\"": Case(),
    "smallest": Case(encode_png(COLOUR[:16, :16]), encode_png(GREY[:16, :16])),
    "clipped": Case(
        labels=b"0 0 0.5 0.5 0.5\n1 0.9 0.5 0.4 0.2\n", notes=("labels: 2 boxes clipped, 0 dropped",), boxes=2
    ),
    "outside": Case(labels=b"0 1.5 0.5 0.2 0.2\n0 0.5 0.5 0.5 0.5\n", notes=("labels: 0 boxes clipped, 1",), boxes=1),
    "nan": Case(
        labels=b"0 nan 0.5 0.2 0.2\n0 0.5 inf 0.2 0.2\n0 0.5 0.5 -0.2 0.2\n0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0 0.1\n",
        notes=("labels: 0 boxes clipped, 4 dropped",),
        boxes=1,
    ),
    "vocnan": Case(
        labels=voc(voc_object("nan", 1, 9, 9), voc_object(9, 1, 5, 9), voc_object(-5, 1, 20, 30)),
        label_kind=".xml",
        notes=("labels: 1 boxes clipped, 2 dropped",),
        boxes=1,
    ),
}
# refused when they are read
REFUSED = {
    "cutjpeg": Case(JPEG[: len(JPEG) * 2 // 3], reason="visible: truncated JPEG"),
    "cutpng": Case(infrared=THERMAL[:-40], reason="infrared: truncated PNG"),
    "zero": Case(b"", reason="visible: empty file"),
    "text": Case(b"I am text\n", reason="visible: not an image"),
    "gif": Case(frames("GIF"), reason="visible: a GIF, which is not read"),
    "pixel": Case(
        encode_png(COLOUR[:1, :1]),
        encode_png(GREY[:1, :1]),
        reason="1x1 is too small, the shorter side must be at least 16 pixels",
    ),
    "flat": Case(encode_png(COLOUR[:15]), encode_png(GREY[:15]), reason="48x15 is too small"),
    "byone": Case(encode_png(COLOUR[:, :-1]), reason="sizes differ: visible 47x40, infrared 48x40"),
    "onitsside": Case(encode_png(np.rot90(COLOUR)), reason="sizes differ: visible 40x48"),
    "bomb": Case(claims(60_000, 60_000), reason="visible: 60000x60000 is above 108 megapixels"),
    "hollow": Case(claims(3_000, 2_000), reason="visible: truncated PNG"),
    "nosize": Case(claims(0, 40), reason="visible: damaged PNG"),
    "apng": Case(frames("PNG"), reason="visible: 3 frames in one file"),
    "tiff": Case(frames("TIFF"), reason="visible: 3 frames in one file"),
    "webp": Case(frames("WEBP"), reason="visible: 3 frames in one file"),
    "mpo": Case(JPEG + JPEG, reason=f"visible: {len(JPEG)} bytes after the end of the JPEG"),
    "clear": Case(
        encoded(Image.fromarray(COLOUR).convert("P"), "PNG", transparency=b"\x80" * 20),
        reason="visible: an alpha channel (transparency)",
    ),
    "rgba": Case(encoded(np.dstack([COLOUR, GREY]), "PNG"), reason="visible: an alpha channel (transparency)"),
    "la": Case(infrared=encoded(Image.fromarray(GREY).convert("LA"), "PNG"), reason="infrared: an alpha channel"),
    "mask": Case(infrared=encoded(Image.fromarray(GREY).convert("1"), "PNG"), reason="infrared: 1 bit a pixel"),
    "trailing": Case(JPEG + b"garbage!", reason="visible: 8 bytes after the end of the JPEG"),
    "trailingpng": Case(PNG + b"garbage!", reason="visible: 8 bytes after the end of the PNG"),
    "crc": Case(wrong_checksum(PNG), reason="visible: damaged PNG: wrong checksum of 'IDAT'"),
    "lfs": Case(b"version https://git-lfs.github.com/spec/v1\n", reason="visible: a Git LFS pointer"),
    "words": Case(labels=b"person 0.5 0.5 0.2 0.2\n", reason="labels: line 1: 'person' is not a number"),
    "prose": Case(labels=b"There are two people.\n", reason="labels: line 1: 4 columns, expected 5"),
    "escapes": Case(labels=b"0 \x1b[2J 0.5 0.2 0.2\n", reason="labels: line 1: '\\x1b[2J' is not a number"),
    "long": Case(labels=b"x" * 100_000 + b" 0 0 0 0\n", reason="labels: line 1: 'xxxx"),
    "pixels": Case(labels=b"0 20 20 10 10\n", reason="labels: line 1: 20 20 10 10 is not relative"),
    "binary": Case(labels=PNG, reason="labels: not UTF-8 text"),
    "laughs": Case(labels=BOMB, label_kind=".xml", reason="labels: entity declarations are not accepted"),
    "brokenxml": Case(labels=b"<annotation><object>", label_kind=".xml", reason="labels: not XML"),
    "html": Case(labels=b"<html></html>", label_kind=".xml", reason="labels: not a VOC file"),
    "nest": Case(labels=b"<annotation>" + b"<a>" * 100_000, label_kind=".xml", reason="labels: not XML"),
}
# refused by their place in the folder alone: key -> reason
MISPLACED = {
    "alone": "no infrared partner for alone.png",
    "hot": "no visible partner for hot.png",
    "folder": "visible folder.png: a folder with the name of a file",
    "folders": "visible folders.png: a folder with the name of a file",
    "leak": "infrared leak.png: a link that leads outside the folder",
    "dots": "visible dots.png: a link that leads outside the folder",
    "circle": "infrared circle.png: a link that leads in a circle",
    "broken": "infrared broken.png: a broken link",
    "pipe": "visible pipe.png: a pipe, socket or device, not a file",
    "both": "several visible images of this name: both.jpg, both.png",
    "moving": "visible moving.gif: gif images are not read; save them as PNG",
    "leaklabels": "labels leaklabels.txt: a link that leads outside the folder",
    "n" * 181: "visible: a file name of more than 180 bytes",
    "line_break": "a path with control characters or not in UTF-8",
    "elsewhere": "a link that leads outside the folder; it was not followed",
    "visible_loop": "a link to a folder above itself; it was not followed",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The whole hostile folder."""
    top = tmp_path_factory.mktemp("hostile")
    secret = top / "outside"
    root = top / "set"
    for folder in (secret, root / "visible", root / "infrared", root / "labels"):
        folder.mkdir(parents=True)
    (secret / "s.png").write_bytes(PNG)
    (secret / "s.txt").write_text("0 0.5 0.5 0.5 0.5\n")

    def put(side: str, name: str, data: bytes = PNG) -> None:
        (root / side / name).write_bytes(data)

    for name, case in (ACCEPTED | REFUSED).items():
        put("visible", f"{name}.png", case.visible)
        put("infrared", f"{name}.png", case.infrared)
        if case.labels is not None:
            put("labels", f"{name}{case.label_kind}", case.labels)
    put("visible", f"{COMPOSED}.png")
    put("infrared", f"{DECOMPOSED}.png", THERMAL)
    for side in ("visible", "infrared"):
        put(side, f"{COMPOSED}2.png")
        put(side, f"{DECOMPOSED}2.png")
        put(side, f"{'n' * 181}.png")
        put(side, "line\nbreak.png")
        (root / side / "folders.png").mkdir()
    for name in ("alone", "leak", "circle", "broken", "both", "leaklabels", "linked"):
        put("visible", f"{name}.png")
    for name in ("hot", "folder", "pipe", "both", "moving", "leaklabels", "dots"):
        put("infrared", f"{name}.png", THERMAL)
    put("visible", "both.jpg", JPEG)
    put("visible", "moving.gif", frames("GIF"))
    (root / "visible/folder.png").mkdir()
    os.mkfifo(root / "visible/pipe.png")
    (root / "infrared/leak.png").symlink_to(secret / "s.png")
    (root / "visible/dots.png").symlink_to("../../outside/s.png")
    (root / "labels/leaklabels.txt").symlink_to(secret / "s.txt")
    (root / "infrared/circle.png").symlink_to("circle.png")
    (root / "infrared/broken.png").symlink_to("nothing.png")
    (root / "kept.png").write_bytes(THERMAL)
    (root / "infrared/linked.png").symlink_to("../kept.png")
    (root / "elsewhere").symlink_to(secret)
    (root / "visible/loop").symlink_to("..")
    for folder in ("visible", "infrared"):  # the same stem in two folders
        (root / "other" / folder).mkdir(parents=True)
        (root / "other" / folder / "plain.png").write_bytes(PNG if folder == "visible" else THERMAL)
    return root


DUPLICATES = ("set_plain", "other_plain")


def accepted_keys() -> set[str]:
    return (set(ACCEPTED) - {"plain"}) | {COMPOSED, "linked", *DUPLICATES}


def test_what_is_found_and_what_is_rejected_at_once(root):
    found = find_pairs(str(root))
    assert {ref.key for ref in found.refs} == accepted_keys() | set(REFUSED)
    spelled = (
        f"several visible images of this name (accents composed in one, decomposed in the other): {DECOMPOSED}2.png"
    )
    reasons = {item.key: item.reason for item in found.rejected}
    assert reasons.pop(f"{COMPOSED}2").startswith(spelled)
    assert reasons == MISPLACED


def test_the_same_by_uri(root):
    local, remote = find_pairs(str(root)), find_pairs(f"file://{root}")
    assert remote.rejected == local.rejected
    assert [ref.key for ref in remote.refs] == [ref.key for ref in local.refs]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_pairs_carry_their_notes(root, name):
    case = ACCEPTED[name]
    ref = next(ref for ref in find_pairs(str(root)).refs if Path(ref.visible).stem == name)
    pair = read_pair(ref)
    assert pair.visible.dtype == pair.infrared.dtype == np.uint8
    assert pair.visible.shape == (*pair.infrared.shape, 3)
    assert len(pair.notes) == len(case.notes), pair.notes
    assert all(note.startswith(start) for note, start in zip(pair.notes, case.notes, strict=True)), pair.notes
    assert len(pair.boxes) == len(pair.classes) == case.boxes
    assert np.isfinite(pair.boxes).all()
    if name not in ("cmyk", "smallest", "palette"):
        assert np.abs(pair.visible.astype(int) - COLOUR[..., :: -1 if name == "deepcolour" else 1]).mean() < 5


@pytest.mark.parametrize("name", REFUSED)
def test_refused_pairs_say_why(root, name):
    ref = next(ref for ref in find_pairs(str(root)).refs if ref.key == name)
    with pytest.raises(BadPair) as caught:
        read_pair(ref)
    reason = str(caught.value)
    assert reason.startswith(REFUSED[name].reason), reason
    assert reason.isprintable()
    assert len(reason) <= 240


def test_a_decomposed_name_is_noted(root):
    ref = next(ref for ref in find_pairs(str(root)).refs if ref.key == COMPOSED)
    assert read_pair(ref).notes == ("infrared: file name in decomposed Unicode, the key is composed",)


@pytest.fixture(scope="module")
def built(root, tmp_path_factory) -> tuple[Path, list[ShardRecord]]:
    """Shards of the whole folder; a file vanishes after the listing."""
    gone = root / "infrared/gone.png"
    for side in ("visible", "infrared"):
        (root / side / "gone.png").write_bytes(PNG)
    out = tmp_path_factory.mktemp("corpus")
    config = CorpusConfig(str(root), "haze2+noise1,stripes2,clean", shard_samples=30)
    found = find_pairs(config.pairs)
    gone.unlink()
    plans = plan_shards(assign_splits(found.refs, config), config)
    records = [build_shard(plan, str(out)) for plan in plans]
    (root / "visible/gone.png").unlink()
    return out, records


def test_every_pair_is_in_a_shard_or_in_the_rejected(built):
    out, records = built
    rejected = {item.key: item.reason for record in records for item in record.rejected}
    assert rejected.pop("gone") == "infrared: no such file"
    assert rejected.keys() == REFUSED.keys()
    assert all(rejected[name].startswith(case.reason) for name, case in REFUSED.items())
    rows = [row for record in records for row in rows_of(out, record)]
    assert {row["key"] for row in rows} == accepted_keys()
    assert len(rows) == 3 * len(accepted_keys()) == sum(record.rows for record in records)


def test_rows_carry_the_notes(built):
    out, records = built
    notes = {row["key"]: row["notes"] for record in records for row in rows_of(out, record)}
    for name, case in ACCEPTED.items():
        key = "set_plain" if name == "plain" else name
        assert all(note.startswith(start) for note, start in zip(notes[key], case.notes, strict=True)), name
    assert notes[COMPOSED] == ["infrared: file name in decomposed Unicode, the key is composed"]


def rows_of(out: Path, record: ShardRecord) -> list[dict]:
    return corpus.read_shard(str(out / "shards" / record.name), ["key", "notes"]).to_pylist()


# files that claim more than they are, and file systems that fail


def pair_in(folder: Path, **labels: bytes) -> pairs.PairRef:
    for side, data in (("visible", PNG), ("infrared", THERMAL)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        (folder / side / "a.png").write_bytes(data)
    for name, data in labels.items():
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / name).write_bytes(data)
    return find_pairs(str(folder)).refs[0]


@pytest.mark.parametrize(("part", "most"), [("infrared", MAX_BYTES), ("labels", listing.MAX_TEXT)])
def test_a_file_that_claims_a_huge_size_is_not_read(tmp_path, monkeypatch, part, most):
    ref = pair_in(tmp_path, **{"a.txt": b""})
    os.truncate(ref.infrared if part == "infrared" else ref.labels, most + 1)  # sparse: takes no space
    read = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda path: read(path) if part not in path else pytest.fail("read"))
    with pytest.raises(BadPair, match=rf"^{part}: a file of \d+ MB, at most \d+ MB are read"):
        read_pair(ref)


def test_files_and_folders_that_must_not_be_read(tmp_path, monkeypatch):
    """Permissions bind no administrator, so the refusal is played."""
    ref = pair_in(tmp_path)
    (tmp_path / "locked").mkdir()
    scan, read = os.scandir, storage.read_bytes

    def refuse(real: Callable, part: str) -> Callable:
        def play(path):
            if part in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return play

    monkeypatch.setattr(os, "scandir", refuse(scan, "locked"))
    found = find_pairs(str(tmp_path))
    assert [(r.key, r.reason) for r in found.rejected] == [
        ("locked", "a folder that cannot be listed (Permission denied)")
    ]
    monkeypatch.setattr(os, "scandir", refuse(scan, ""))
    with pytest.raises(UserError, match="Permission denied"):
        find_pairs(str(tmp_path))
    monkeypatch.setattr(storage, "read_bytes", refuse(read, "infrared"))
    with pytest.raises(BadPair, match=r"infrared: cannot be read .*Permission denied"):
        read_pair(ref)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions bind no administrator")
def test_an_unreadable_file(tmp_path):
    ref = pair_in(tmp_path)
    os.chmod(ref.infrared, 0)
    with pytest.raises(BadPair, match="infrared: cannot be read"):
        read_pair(ref)


def test_a_class_list_behind_a_link_to_the_outside_is_not_opened(tmp_path):
    pair_in(tmp_path / "set", **{"a.txt": b"0 0.5 0.5 0.2 0.2\n"})
    (tmp_path / "names").write_text("secret\n")
    (tmp_path / "set/classes.txt").symlink_to(tmp_path / "names")
    with pytest.raises(UserError, match=r"classes.txt: a link that leads outside"):
        find_pairs(str(tmp_path / "set"))
    (tmp_path / "set/classes.txt").unlink()
    (tmp_path / "set/classes.txt").write_bytes(b"")
    os.truncate(tmp_path / "set/classes.txt", 10**12)
    with pytest.raises(UserError, match=r"classes\.txt: more than 4 MB"):
        find_pairs(str(tmp_path / "set"))


def test_folders_full_of_links_to_each_other_come_to_an_end(tmp_path):
    names = [f"d{i}" for i in range(7)]
    for name in names:
        (tmp_path / name / "visible").mkdir(parents=True)
        (tmp_path / name / "visible/a.png").write_bytes(PNG)
        for other in names:
            if other != name:
                (tmp_path / name / other).symlink_to(f"../{other}")
    pair_in(tmp_path)
    found = find_pairs(str(tmp_path))
    assert [Path(ref.visible).parent.parent for ref in found.refs] == [tmp_path]
    assert len(found.rejected) < 7**3


def test_object_names_with_dots_stay_inside(monkeypatch):
    names = ["vi/a.png", "ir/a.png", "../vi/b.png", "../ir/b.png", "x/../vi/c.png", "vi//d.png", "./ir/e.png"]
    monkeypatch.setattr(storage, "list_files", lambda where: names)
    found = find_pairs("s3://bucket/set")
    assert [ref.key for ref in found.refs] == ["a"]
    assert len(found.rejected) == 5
    assert {item.reason for item in found.rejected} == {"a path with '.', '..' or nothing between two slashes"}


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:RuntimeWarning")
def test_changed_bytes_raise_nothing_but_bad_image():
    rng = np.random.default_rng(3)
    plain = [encoded(COLOUR, form) for form in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")]
    for data in (*plain, frames("TIFF"), frames("PNG"), turned()):
        for _ in range(40):
            changed = bytearray(data)
            for at in rng.integers(0, min(len(data), 400), 4):
                changed[at] = rng.integers(256)
            try:
                assert decode(bytes(changed)).pixels.dtype == np.uint8
            except BadImage as error:
                assert str(error)


def test_a_jpeg_of_endless_scans_is_refused_at_once():
    data = encoded(COLOUR, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(BadImage, match="more than 100 scans"):
        decode(data[:-2] + data[last:-2] * 100 + data[-2:])


def test_xml_in_another_encoding_hides_no_entities():
    for text in (BOMB.decode(), BOMB.decode().replace("<!ENTITY", "<!ENTITY\n")):
        with pytest.raises(BadLabels, match="entity"):
            read_voc(text, 40, 48)
    with pytest.raises(BadLabels, match="not XML"):
        read_voc(BOMB.decode().encode("utf-16-le").decode("utf-8"), 40, 48)


# a damaged corpus


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    config = CorpusConfig("scenes:4:64x64:1", "noise1,clean", shard_samples=2, val_fraction=0, test_fraction=0)
    plans = plan_shards(assign_splits(find_pairs(config.pairs).refs, config), config)
    records = [build_shard(plan, str(root)) for plan in plans]
    corpus.write_manifest(str(root), {"shards": [asdict(record.info) for record in records]})
    return root


@pytest.fixture
def whole(sound, tmp_path) -> tuple[Path, list[Path]]:
    """A corpus of four shards, to be damaged."""
    shutil.copytree(sound, tmp_path / "corpus")
    manifest = corpus.open_corpus(str(tmp_path / "corpus"))
    assert corpus.verify(manifest) == []
    return tmp_path / "corpus", [Path(path) for path in manifest.paths()]


def middle_changed(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "00001"),
        (middle_changed, "checksum differs"),
        (lambda data: bytes(len(data)), "checksum differs"),  # the size stays
        (lambda data: data[:-100], "checksum differs"),
        (lambda data: b"", "checksum differs"),
        (lambda data: b"not Parquet at all", "checksum differs"),
    ],
    ids=["missing", "byte", "same size", "truncated", "empty", "text"],
)
def test_verify_names_a_damaged_shard(whole, change, said):
    root, paths = whole
    data = paths[1].read_bytes()
    paths[1].unlink()
    if change:
        paths[1].write_bytes(change(data))
    (line,) = corpus.verify(corpus.open_corpus(str(root)))
    assert str(paths[1]) in line
    assert said in line


def test_verify_names_both_of_two_swapped_shards(whole):
    root, paths = whole
    first, second = (path.read_bytes() for path in paths[:2])
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    lines = corpus.verify(corpus.open_corpus(str(root)))
    assert [path.name for path in paths[:2]] == [Path(line.split(": ")[0]).name for line in lines]


def test_verify_names_a_manifest_with_a_wrong_row_count(whole):
    root, paths = whole
    data = json.loads((root / "manifest.json").read_text())
    data["shards"][2]["rows"] += 1
    (root / "manifest.json").write_text(json.dumps(data))
    (line,) = corpus.verify(corpus.open_corpus(str(root)))
    assert paths[2].name in line
    assert "row count" in line


# memory


MEASURE = """
import resource, sys
import cv2
from fusion.degrade import degrade, parse_degradation
from fusion.data.finding import PairRef
from fusion.data.pairs import read_pair

cv2.setNumThreads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
pair = read_pair(PairRef("a", "s", "", sys.argv[1], sys.argv[2], None, ()))
read = peak() - before
for text in sys.argv[3:]:
    degrade(pair.visible, pair.infrared, parse_degradation(text), seed=1, key="a")
print(pair.visible.nbytes + pair.infrared.nbytes, read, peak() - before)
"""


def measured(folder: Path, height: int, width: int, *degradations: str) -> tuple[int, int, int]:
    """Bytes of the pixels, and what reading and then also degrading took above the imports."""
    folder.mkdir(exist_ok=True)
    ramp = (np.arange(height * width, dtype=np.uint32).reshape(height, width) * 7 % 251).astype(np.uint16)
    cv2.imwrite(str(folder / "ir.png"), ramp * 11 + 3000, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    colour = np.repeat(ramp[..., None].astype(np.uint8), 3, axis=2)
    colour[..., 0] //= 2
    cv2.imwrite(str(folder / "vis.jpg"), colour)
    command = [sys.executable, "-c", MEASURE, str(folder / "vis.jpg"), str(folder / "ir.png"), *degradations]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    pixels, read, all_in_all = map(int, done.stdout.split())
    return pixels, read, all_in_all


def test_memory_of_a_large_pair_is_a_few_times_its_pixels(tmp_path):
    pixels, read, degraded = measured(tmp_path, 1800, 2400, "haze1", "defocus3", "noise2", "stripes1")
    assert pixels == 1800 * 2400 * 4
    assert read < 5 * pixels
    assert degraded < 16 * pixels  # a float32 image is 3 times the pixels of a pair


@pytest.mark.slow
def test_memory_of_the_largest_pair(tmp_path):
    pixels, read, degraded = measured(tmp_path, 9_000, 12_000, "haze1", "noise2")
    assert pixels == 108_000_000 * 4
    assert read < 5 * pixels
    assert degraded < 16 * pixels
