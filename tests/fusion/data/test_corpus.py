"""Rows, shards and the manifest of a corpus on disk."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusion.data import corpus
from fusion.data.corpus import IMAGES, SCHEMA, Sample, open_corpus, read_group, read_shard, verify
from fusion.degrade import FAMILIES, PRESETS
from fusion.errors import UserError
from tests.helpers.shards import shard_bytes


def sample(height=48, width=64, seed=0, **changes) -> Sample:
    rng = np.random.default_rng(seed)

    def pixels(*channels):
        return rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)

    values = {
        "key": f"k{seed}",
        "split": "train",
        "source": "Ä set",
        "degradation": "haze+noise",
        "level": "2+3",
        "parameters": '{"haze": {"beta": 0.1}}',
        "visible": pixels(3),
        "infrared": pixels(),
        "degraded_visible": pixels(3),
        "degraded_infrared": pixels(),
        "boxes": rng.random((seed % 3, 4), dtype=np.float32) * 50,
        "classes": ("car", "person")[: seed % 3],
        "notes": ("visible: alpha dropped",) * (seed % 2),
    }
    return Sample(**values | changes)


def write(path: Path, samples, row_group=8) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(shard_bytes(samples, row_group))
    return str(path)


def read_all(path: str) -> list[Sample]:
    return [corpus.from_row(row) for row in read_shard(path).to_pylist()]


def assert_same(one: Sample, other: Sample):
    for field in fields(Sample):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert a.shape == b.shape, field.name
            assert np.array_equal(a, b), field.name
        else:
            assert a == b, field.name
            assert type(a) is type(b), field.name


# rows and shards


def test_rows_return_as_they_were(tmp_path):
    samples = [sample(10 + seed, 7 + 2 * seed, seed) for seed in range(5)]
    path = write(tmp_path / "s.parquet", samples)
    back = read_all(path)
    assert len(back) == 5
    for one, other in zip(samples, back, strict=True):
        assert_same(one, other)
    assert read_shard(path).schema.equals(SCHEMA)


def test_images_that_are_views_are_stored_as_they_look(tmp_path):
    whole = sample()
    turned = replace(whole, **{name: getattr(whole, name)[::-1, 3:40:2] for name in IMAGES})
    assert_same(read_all(write(tmp_path / "s.parquet", [turned]))[0], turned)


def test_the_smallest_image_and_an_empty_shard(tmp_path):
    tiny = sample(1, 1)
    assert_same(read_all(write(tmp_path / "a.parquet", [tiny]))[0], tiny)
    empty = write(tmp_path / "b.parquet", [])
    assert read_all(empty) == []
    assert read_shard(empty).schema.equals(SCHEMA)


def test_the_same_samples_give_the_same_bytes():
    samples = [sample(seed=seed) for seed in range(3)]
    assert shard_bytes(samples, 8) == shard_bytes([replace(one) for one in samples], 8)
    assert shard_bytes(samples, 8) != shard_bytes(samples[::-1], 8)


def test_a_clean_image_shared_by_rows_is_stored_once():
    """Random pixels do not compress, so bytes tell how often an image is there; zstd alone looks less far back."""
    one = sample(height=1000, width=1000)
    rows = [replace(one, degraded_visible=one.visible, degraded_infrared=one.infrared, level=str(n)) for n in range(6)]
    pixels = one.visible.nbytes + one.infrared.nbytes
    assert pixels * 2 <= len(shard_bytes(rows, 6)) < pixels * 2.3  # once clean, once degraded
    assert len(shard_bytes(rows, 3)) > pixels * 3.9  # in each of the two groups


def test_row_groups_are_read_alone(tmp_path):
    samples = [sample(seed=seed) for seed in range(7)]
    path = write(tmp_path / "s.parquet", samples, row_group=3)
    groups = [read_group(path, group) for group in range(3)]
    assert [len(group) for group in groups] == [3, 3, 1]
    for one, other in zip(samples, [s for group in groups for s in group], strict=True):
        assert_same(one, other)


def test_columns_alone(tmp_path):
    path = write(tmp_path / "s.parquet", [sample(seed=seed) for seed in range(3)])
    table = read_shard(path, ["key", "level"])
    assert table.to_pydict() == {"key": ["k0", "k1", "k2"], "level": ["2+3"] * 3}


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing", "flipped"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    path = Path(write(tmp_path / "s.parquet", [sample()]))
    data = path.read_bytes()
    flipped = data[:4] + bytes(byte ^ 0xFF for byte in data[4:44]) + data[44:]  # the head of the first page
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-100], "empty": b"", "text": b"x" * 500, "flipped": flipped}[damage])
    for read in (read_shard, lambda name: read_group(name, 0)):
        with pytest.raises(UserError, match="duskfuse corpus") as caught:
            read(str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


# samples


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_degradation_names_its_modality(family):
    assert sample(degradation=family).degraded_modalities == (FAMILIES[family].modality,)


def test_degraded_modalities_of_combinations():
    def modalities(name):
        return sample(degradation=name).degraded_modalities

    assert modalities("clean") == ()
    assert modalities("haze+noise") == ("visible",)
    assert modalities("haze+stripes") == modalities("haze+defocus+noise+stripes") == ("visible", "infrared")
    assert modalities("stripes") == ("infrared",)
    for degradation in PRESETS["combinations"]:
        assert modalities(degradation.name)


# the manifest


@pytest.fixture
def built(tmp_path) -> Path:
    """Three shards of two splits under a manifest."""
    shards = []
    for i, (split, rows) in enumerate((("train", 3), ("train", 2), ("val", 1))):
        data = shard_bytes([sample(16, 16, seed=10 * i + n) for n in range(rows)], 2)
        name = f"{i:06d}-{split}.parquet"
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / name).write_bytes(data)
        record = {"name": name, "split": split, "rows": rows, "groups": -(-rows // 2), "bytes": len(data)}
        shards.append(record | {"sha256": corpus.checksum(data)})
    corpus.write_manifest(str(tmp_path), {"shards": shards, "extra": [1]})
    return tmp_path


def test_the_manifest_returns_as_written(built):
    manifest = open_corpus(str(built))
    assert manifest.data["extra"] == [1]
    assert manifest.rows() == 6
    assert [manifest.rows(split) for split in ("train", "val", "test")] == [5, 1, 0]
    shards = [str(built / "shards" / name) for name in ("000000-train.parquet", "000001-train.parquet")]
    assert manifest.paths("train") == shards
    assert manifest.paths() == [*shards, str(built / "shards" / "000002-val.parquet")]
    assert manifest.paths("test") == []
    assert sum(len(read_all(path)) for path in manifest.paths()) == 6


def test_groups_cover_all_rows_once(built):
    manifest = open_corpus(str(built))
    keys = [one.key for path, group in manifest.groups() for one in read_group(path, group)]
    assert keys == [one.key for path in manifest.paths() for one in read_all(path)]
    assert manifest.groups("val") == [(str(built / "shards" / "000002-val.parquet"), 0)]
    assert len(manifest.groups("train")) == 3


def test_a_corpus_is_opened_by_uri_too(built):
    manifest = open_corpus(built.as_uri())
    assert verify(manifest) == []
    assert len(read_all(manifest.paths("val")[0])) == 1


def test_the_content_is_that_of_the_shards_alone(built):
    data = open_corpus(str(built)).data
    content = data["content_sha256"]
    rest = {"provenance": "another"}
    assert corpus.write_manifest(str(built / "x"), {"shards": data["shards"]} | rest).content == content
    assert open_corpus(str(built / "x")).content == content
    changed = [dict(shard) for shard in data["shards"]]
    changed[1]["sha256"] = "0" * 64
    assert corpus.write_manifest(str(built / "y"), {"shards": changed} | rest).content != content
    assert corpus.write_manifest(str(built / "z"), {"shards": changed[::-1]} | rest).content != content


def refused(root: Path, *named: str):
    with pytest.raises(UserError) as caught:
        open_corpus(str(root))
    assert all(part in str(caught.value) for part in (str(root), *named)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_corpus_and_an_unfinished_one_are_told_apart(built):
    refused(built / "none", "no such folder")
    (built / "manifest.json").unlink()
    refused(built, "not finished")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"schema": 1}', '{"schema": 1, "shards": 3}', "\xff"])
def test_a_damaged_manifest_is_named(built, text):
    (built / "manifest.json").write_bytes(text.encode("latin-1"))
    refused(built, "manifest.json", "damaged")


def test_a_manifest_of_another_version_is_refused(built):
    data = json.loads((built / "manifest.json").read_text())
    (built / "manifest.json").write_text(json.dumps(data | {"schema": 3}))
    refused(built, "schema 3")


@pytest.mark.parametrize("name", ["../x.parquet", "/etc/passwd", ".hidden"])
def test_shards_outside_the_folder_are_refused(built, name):
    data = json.loads((built / "manifest.json").read_text())
    data["shards"][1]["name"] = name
    (built / "manifest.json").write_text(json.dumps(data))
    refused(built, "outside")


def test_verify_names_each_damaged_shard(built):
    manifest = open_corpus(str(built))
    assert verify(manifest) == []
    paths = [Path(path) for path in manifest.paths()]
    data = bytearray(paths[0].read_bytes())
    data[len(data) // 2] ^= 1
    paths[0].write_bytes(data)
    assert [line.split(":")[0] for line in verify(manifest)] == [str(paths[0])]
    assert "checksum" in verify(manifest)[0]
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    paths[2].unlink()
    lines = verify(manifest)
    assert [line.split(":")[0] for line in lines] == [str(path) for path in paths]


def test_verify_counts_rows(built):
    data = json.loads((built / "manifest.json").read_text())
    data["shards"][0]["rows"] = 4
    (built / "manifest.json").write_text(json.dumps(data))
    (line,) = verify(open_corpus(str(built)))
    assert "000000-train.parquet" in line
    assert "row count" in line


def test_very_large_rows_get_groups_of_their_own(monkeypatch):
    monkeypatch.setattr(corpus, "GROUP_BYTES", 3 * 8 * 32 * 32)
    writer = corpus.ShardWriter(8)
    given = [sample(32, 32, seed=n) for n in range(9)]
    for one in given:
        writer.add(one)
    data = writer.close()
    assert (writer.rows, writer.groups) == (9, 3)  # the fourth row passes the limit: 4, 4, 1
    file = pq.ParquetFile(pa.BufferReader(data))
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [4, 4, 1]
    found = [corpus.from_row(row) for i in range(3) for row in file.read_row_group(i).to_pylist()]
    assert [np.array_equal(a.degraded_visible, b.degraded_visible) for a, b in zip(given, found, strict=True)] == [
        True
    ] * 9


def test_verify_names_what_is_no_parquet_and_what_is_not_listed(built):
    data = json.loads((built / "manifest.json").read_text())
    path = built / "shards" / data["shards"][1]["name"]
    path.write_bytes(b"text that somebody signed")
    data["shards"][1]["sha256"] = corpus.checksum(path.read_bytes())
    corpus.write_manifest(str(built), {"shards": data["shards"]})
    (built / "shards" / "000009-train.parquet").write_bytes(b"x")
    (built / "shards" / ".000001-train.parquet.0f.part").write_bytes(b"x")
    lines = verify(open_corpus(str(built)))
    assert len(lines) == 2
    assert path.name in lines[0] and "000009-train.parquet: not in the manifest" in lines[1]
