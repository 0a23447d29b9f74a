"""What a degraded corpus is on disk: rows, Parquet shards, and the manifest that is written last.

    OUT/shards/00000.parquet ...    one row a sample
    OUT/manifest.json               schema version, settings, counts, rejected pairs, a checksum per shard

A shard is a fixed list of samples, planned before anything runs and built by one task. Its bytes depend on its plan
alone, so any number of workers, in any order, after any restart, write the same files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion import storage
from fusion.data.legacy import upgrade_manifest
from fusion.degrade import FAMILIES
from fusion.errors import UserError

SCHEMA_VERSION = 2
GROUP_BYTES = 2**27  # of pixels, beyond which a row group takes no more rows
MANIFEST = "manifest.json"
IMAGES = ("visible", "infrared", "degraded_visible", "degraded_infrared")
SPLITS = ("train", "val", "test")

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("degradation", pa.string()),  # "haze", "haze+noise", "clean"
        ("level", pa.string()),  # "2", "2+3", "0"
        ("parameters", pa.string()),  # JSON: what was drawn and used, by family
        ("height", pa.int32()),
        ("width", pa.int32()),
        *((name, pa.large_binary()) for name in IMAGES),  # uint8 pixels, H W 3 (RGB) or H W, C order
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),  # x1 y1 x2 y2, pixels
        ("classes", pa.list_(pa.string())),
        ("notes", pa.list_(pa.string())),  # conversions made when the files were read
    ],
    metadata={"duskfuse.schema": str(SCHEMA_VERSION)},
)


@dataclass(frozen=True)
class Sample:
    """A row with its images as arrays: visible uint8 H W 3, infrared uint8 H W, both clean and degraded."""

    key: str
    split: str
    source: str
    degradation: str
    level: str
    parameters: str
    visible: np.ndarray
    infrared: np.ndarray
    degraded_visible: np.ndarray
    degraded_infrared: np.ndarray
    boxes: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def degraded_modalities(self) -> tuple[str, ...]:
        """Those of "visible" and "infrared" that differ from their clean images by plan."""
        return degraded_modalities(self.degradation)


def degraded_modalities(degradation: str) -> tuple[str, ...]:
    """Return the modalities that a degradation changes, given without levels: "haze+noise", "clean"."""
    if degradation == "clean":
        return ()
    return tuple(dict.fromkeys(FAMILIES[family].modality for family in degradation.split("+")))


def to_row(sample: Sample) -> dict[str, Any]:
    """Return the sample as a row of `SCHEMA`."""
    height, width = sample.infrared.shape
    row = {name: getattr(sample, name) for name in ("key", "split", "source", "degradation", "level", "parameters")}
    row |= {"height": height, "width": width}
    row |= {name: np.ascontiguousarray(getattr(sample, name)).tobytes() for name in IMAGES}
    return row | {"boxes": sample.boxes.tolist(), "classes": list(sample.classes), "notes": list(sample.notes)}


def from_row(row: dict[str, Any]) -> Sample:
    """Return the sample of a row, the inverse of `to_row`; images are read-only views of the row's bytes.

    Raises UserError for names that lead out of a folder: files are called after them.
    """
    height, width = int(row["height"]), int(row["width"])
    for name in ("key", "split", "degradation", "level"):
        if row[name] in ("", ".", "..") or any(sign in row[name] for sign in "/\0"):
            raise UserError(
                f"a row of the corpus has the {name} {row[name]!r}, which is no name. Do not use this corpus."
            )
    boxes = [np.asarray(box, np.float32) for box in (row["boxes"] if row["boxes"] is not None else [])]
    return Sample(
        key=row["key"],
        split=row["split"],
        source=row["source"],
        degradation=row["degradation"],
        level=row["level"],
        parameters=row["parameters"],
        visible=np.frombuffer(row["visible"], np.uint8).reshape(height, width, 3),
        infrared=np.frombuffer(row["infrared"], np.uint8).reshape(height, width),
        degraded_visible=np.frombuffer(row["degraded_visible"], np.uint8).reshape(height, width, 3),
        degraded_infrared=np.frombuffer(row["degraded_infrared"], np.uint8).reshape(height, width),
        boxes=np.stack(boxes) if boxes else np.zeros((0, 4), np.float32),
        classes=tuple(row["classes"] if row["classes"] is not None else ()),
        notes=tuple(row["notes"] if row["notes"] is not None else ()),
    )


class ShardWriter:
    """Packs samples into a Parquet file in memory, group by group, so that only the samples of one group are held.

    zstd, `row_group` rows a group (so that a part of a shard can be read alone), fewer where they are very large.
    Images go through a dictionary, so a clean image shared by the rows of a group is stored once.
    """

    def __init__(self, row_group: int) -> None:
        self.row_group = row_group
        self.rows = self.groups = 0
        self._pending: list[dict[str, Any]] = []
        self._bytes = 0
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink,
            SCHEMA,
            compression="zstd",
            compression_level=1,  # measured in benchmarks/storage.py
            use_dictionary=True,
            dictionary_pagesize_limit=2**30,
            data_page_size=2**30,
            write_batch_size=1,  # a larger batch of very large images overflows pyarrow's offsets
            write_statistics=False,
            store_schema=True,
        )

    def add(self, sample: Sample) -> None:
        """Add a row; a group that is full is packed at once."""
        self._pending.append(to_row(sample))
        self._bytes += sum(len(self._pending[-1][name]) for name in IMAGES)
        self.rows += 1
        if len(self._pending) == self.row_group or self._bytes > GROUP_BYTES:
            self._flush()

    def close(self) -> bytes:
        """Return the whole file, footer included."""
        self._flush()
        self._writer.close()
        return bytes(self._sink.getvalue().to_pybytes())

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_pylist(self._pending, schema=SCHEMA), row_group_size=self.row_group)
            self.groups += 1
        self._pending, self._bytes = [], 0


def read_shard(path: str, columns: list[str] | None = None) -> pa.Table:
    """Read the rows of a shard, all columns or those named. Raises UserError when the file is damaged."""
    fs, inner = storage.resolve(path)
    try:
        with storage.store_errors(path):
            return pq.read_table(inner, filesystem=fs, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged_shard(path, error) from error


def read_group(path: str, group: int) -> list[Sample]:
    """Read the samples of one row group of a shard. Raises UserError when the file is damaged."""
    fs, inner = storage.resolve(path)
    try:
        with storage.store_errors(path), fs.open_input_file(inner) as file:
            rows = pq.ParquetFile(file).read_row_group(group).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged_shard(path, error) from error
    return [from_row(row) for row in rows]


def damaged_shard(path: str, error: Exception) -> UserError:
    """Return the error for a shard that cannot be read."""
    reason = str(error).strip().splitlines()[0]
    return UserError(f"{path} cannot be read ({reason}). Delete it and run the same `duskfuse corpus` again.")


def checksum(data: bytes) -> str:
    """Return the sha256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class ShardInfo:
    """A shard as the manifest lists it. groups: how many row groups it has; bytes, sha256: of the file."""

    name: str
    split: str
    rows: int
    groups: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A read `manifest.json`; `data` is all of it, with keys that this module does not know too."""

    root: str
    data: dict[str, Any]

    @property
    def content(self) -> str:
        """The sha256 over the shards' checksums: the corpus's identity."""
        return str(self.data["content_sha256"])

    def shards(self, split: str | None = None) -> list[ShardInfo]:
        """List the shards of the split, or all (shards hold one split each)."""
        names = [field.name for field in fields(ShardInfo)]
        shards = [ShardInfo(**{name: shard[name] for name in names}) for shard in self.data["shards"]]
        return [shard for shard in shards if split is None or shard.split == split]

    def path(self, shard: ShardInfo) -> str:
        """Return the path or URI of a shard."""
        return storage.join(self.root, "shards", shard.name)

    def groups(self, split: str | None = None) -> list[tuple[str, int]]:
        """List (shard path, row group) of every row group of the split, or of all."""
        return [(self.path(shard), group) for shard in self.shards(split) for group in range(shard.groups)]

    def paths(self, split: str | None = None) -> list[str]:
        """List the paths of the shards of the split, or of all."""
        return [self.path(shard) for shard in self.shards(split)]

    def missing(self) -> list[str]:
        """List the names of shards that are gone or have another size than when they were written."""
        return [shard.name for shard in self.shards() if storage.file_size(self.path(shard)) != shard.bytes]

    def rows(self, split: str | None = None) -> int:
        """Return the number of rows of the split, or of all."""
        return sum(shard.rows for shard in self.shards(split))


def write_manifest(root: str, data: dict[str, Any]) -> Manifest:
    """Complete `data` with the schema version and the content checksum and write it; the corpus is then visible."""
    sums = "".join(shard["sha256"] for shard in data["shards"])
    data = {"schema": SCHEMA_VERSION, "content_sha256": checksum(sums.encode())} | data
    storage.write_text(storage.join(root, MANIFEST), json.dumps(data, indent=1) + "\n")
    return Manifest(root, data)


def open_corpus(root: str) -> Manifest:
    """Read the manifest. Raises UserError: no corpus there, an unfinished one, a damaged or newer manifest."""
    if not storage.is_dir(root):
        raise UserError(f"no corpus at {root}: there is no such folder. Build one with `duskfuse corpus`.")
    path = storage.join(root, MANIFEST)
    if not storage.exists(path):
        raise UserError(
            f"{root} has no {MANIFEST}: it is no corpus, or not finished. The same `duskfuse corpus` goes on."
        )
    try:
        data = upgrade_manifest(json.loads(storage.read_bytes(path)))
        schema = data["schema"]
        outside = any("/" in shard["name"] or shard["name"].startswith(".") for shard in data["shards"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}). Run the same `duskfuse corpus` again to rewrite it."
        ) from error
    if schema != SCHEMA_VERSION:
        raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}. Build the corpus again.")
    if outside:
        raise UserError(f"{path} names a shard outside its folder. The manifest is damaged; build the corpus again.")
    return Manifest(str(root), data)


def verify(manifest: Manifest) -> list[str]:
    """Read every shard again; return a line for each that is missing, changed, short of rows or not in the manifest."""
    problems = []
    for shard in manifest.shards():
        path = manifest.path(shard)
        try:
            data = storage.read_bytes(path)
            rows = pq.read_metadata(pa.BufferReader(data)).num_rows if checksum(data) == shard.sha256 else None
        except (OSError, pa.ArrowInvalid) as error:
            problems.append(f"{path}: {str(error).strip().splitlines()[0]}")
            continue
        if rows is None:
            problems.append(f"{path}: checksum differs from the manifest ({len(data)} bytes, expected {shard.bytes})")
        elif rows != shard.rows:
            problems.append(f"{path}: row count differs from the manifest ({rows}, expected {shard.rows})")
    known = {shard.name for shard in manifest.shards()}
    folder = storage.join(manifest.root, "shards")
    for name in storage.list_files(folder):
        if name not in known and not name.endswith(".part"):
            problems.append(
                f"{storage.join(folder, name)}: not in the manifest; programs that read all files would take it"
            )
    return problems
