"""Files on S3, on a real store: the same as on a disk, whole or not there at all, and one clear line when it fails."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch

from fusion import checkpoint, storage
from fusion.data.corpus import open_corpus, read_group, verify, write_manifest
from fusion.data.pairs import find_pairs, read_pair
from fusion.data.shards import CorpusConfig, build_shard, plan_shards
from fusion.errors import UserError
from fusion.images.png import encode_png
from fusion.models.tgecnet import TGECNet
from fusion.storage import StoreError, arrow, join
from fusion.storage import errors as storage_errors
from fusion.storage import s3 as objects
from tests.helpers import s3_server as swift
from tests.helpers.tiny_models import SMALL

NAMES = [
    "b.txt",
    "a/z.txt",
    "a/b/c.txt",
    "ä ö.txt",
    "B.txt",
    "50%20 #1?.txt",
    "[a]/+&.txt",
    "1+1=2 %2B.txt",
    "雪/❄.txt",
]
IO = {
    "read_bytes": storage.read_bytes,
    "write_bytes": lambda path: storage.write_bytes(path, b"1"),
    "exists": storage.exists,
    "is_dir": storage.is_dir,
    "list_files": storage.list_files,
    "remove": storage.remove,
}


@pytest.fixture
def hurry(monkeypatch):
    """Give up after 1 s instead of 45: the same code, sooner."""
    monkeypatch.setattr(storage_errors, "PATIENCE", 1.0)
    monkeypatch.setattr(storage_errors, "UNREACHABLE", 0.5)
    monkeypatch.setattr(objects, "READ_TIMEOUT", 1)
    monkeypatch.setattr(arrow, "ATTEMPTS", 2)
    monkeypatch.setattr(arrow, "TIMEOUT", 1)


@pytest.fixture
def in_parts(monkeypatch):
    """Objects above 6 MiB go up in parts of 5 MiB, the smallest that S3 allows."""
    monkeypatch.setattr(objects, "ONE_PUT", 6 * 2**20)
    monkeypatch.setattr(objects, "PART", 5 * 2**20)


def one_line(error: pytest.ExceptionInfo, *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    assert "testing" not in text  # the secret
    for part in parts:
        assert part in text, text


def parts_of(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return bucket, key


def test_files_and_folders(bucket):
    path = join(bucket, "a", "b", "c.bin")
    assert not storage.exists(path) and storage.file_size(path) is None
    storage.write_bytes(path, b"\x00\xff" * 5)
    assert storage.read_bytes(path) == b"\x00\xff" * 5
    assert storage.exists(path) and storage.file_size(path) == 10 and not storage.is_dir(path)
    folder = join(bucket, "a")
    for name in (folder, folder + "/", join(folder, "b"), bucket, bucket + "/"):
        assert storage.is_dir(name) and storage.exists(name) and storage.file_size(name) is None, name
    for name in (join(bucket, "a", "b", "c"), join(bucket, "A"), join(bucket, "c.bin")):
        assert not storage.is_dir(name) and not storage.exists(name), name
    for name in (folder, bucket, join(bucket, "none")):
        with pytest.raises(FileNotFoundError, match=name):
            storage.read_bytes(name)
    storage.remove(folder)  # not a file
    storage.write_bytes(path, b"")
    assert storage.file_size(path) == 0 and storage.read_bytes(path) == b""
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path) and not storage.is_dir(folder)
    assert storage.list_files(bucket) == []


def test_names_of_all_kinds_go_there_and_back(bucket):
    for name in NAMES:
        storage.write_text(join(bucket, name), name)
    assert storage.list_files(bucket) == sorted(NAMES)
    assert storage.list_files(join(bucket, "a")) == storage.list_files(join(bucket, "a") + "/") == ["b/c.txt", "z.txt"]
    assert storage.list_files(join(bucket, "雪")) == ["❄.txt"]
    assert storage.list_files(join(bucket, "none")) == []
    for name in NAMES:
        path = join(bucket, name)
        assert storage.read_bytes(path) == name.encode() and storage.file_size(path) == len(name.encode())
        fs, inner = storage.resolve(path)
        assert inner == f"{bucket.removeprefix('s3://')}/{name}"
        with fs.open_input_file(inner) as file:
            assert file.read() == name.encode()
    bare = f"{bucket}/ä ö.txt"  # typed by hand, not escaped
    assert storage.read_bytes(bare) == "ä ö.txt".encode()


def test_objects_that_mark_folders_are_not_files(bucket, s3):
    for key in ("a/", "a/b/", "a/c"):
        s3.client().put_object(Bucket=bucket[5:], Key=key, Body=b"")
    assert storage.list_files(bucket) == ["a/c"]
    assert storage.is_dir(join(bucket, "a", "b")) and storage.file_size(join(bucket, "a", "b")) is None


def test_listing_thousands(bucket, s3):
    names = [f"many/{i % 7}/{i:05d} +%.png" for i in range(3000)]
    s3.pretend(bucket, [*names, "manyfold", "zero"])
    assert storage.list_files(join(bucket, "many")) == sorted(name.removeprefix("many/") for name in names)
    assert len(storage.list_files(bucket)) == 3002
    assert storage.list_files(join(bucket, "man")) == []


def test_a_small_object_is_one_request(bucket, faults):
    storage.write_bytes(join(bucket, "x"), b"123")
    storage.read_bytes(join(bucket, "x"))
    assert [method for method, _ in faults.seen] == ["PUT", "GET"]


def test_a_large_object_goes_up_in_parts(bucket, faults, in_parts, s3):
    data = os.urandom(12 * 2**20)
    storage.write_bytes(join(bucket, "large"), data)
    assert [method for method, _ in faults.seen] == ["POST", "PUT", "PUT", "PUT", "POST"]
    assert storage.read_bytes(join(bucket, "large")) == data
    assert s3.uploads(bucket) == []


def test_writers_at_the_same_time_do_not_mix(bucket):
    path, contents = join(bucket, "x"), [bytes([i]) * 200_000 for i in range(4)]
    threads = [threading.Thread(target=storage.write_bytes, args=(path, data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read_bytes(path) in contents


# What passes


@pytest.mark.parametrize("trouble", [503, 500, "cut", "cut answer"])
def test_what_passes_is_not_noticed(bucket, faults, trouble):
    path, data = join(bucket, "x"), os.urandom(300_000)
    storage.write_bytes(path, data)
    faults.rule(lambda number, method, path: trouble if number < 3 else None)
    assert storage.read_bytes(path) == data
    assert len(faults.seen) == 3
    if trouble != "cut answer":
        faults.rule(lambda number, method, path: trouble if number % 2 else None)
        storage.write_bytes(path, data[::-1])
        assert storage.file_size(path) == len(data) and storage.list_files(bucket) == ["x"]
        storage.remove(path)
        assert not storage.exists(path) and len(faults.seen) == 12


def test_parts_of_objects_are_tried_again_too(bucket, faults):
    path, data = join(bucket, "x"), os.urandom(3000)  # pyarrow gives up at once where the refusal is the longer text
    storage.write_bytes(path, data)
    faults.rule(lambda number, method, path: 503 if number % 2 else None)
    fs, inner = storage.resolve(path)
    with storage.store_errors(path), fs.open_input_file(inner) as file:
        assert file.read() == data
    assert len(faults.seen) == 4


def test_answers_that_get_lost(bucket, faults, in_parts, s3):
    """What the store did although it could not say so is done once more, to the same end."""
    data = os.urandom(7 * 2**20)
    faults.rule(lambda number, method, path: "lost answer" if number % 2 and number > 1 else None)
    storage.write_bytes(join(bucket, "large"), data)
    faults.rule(lambda number, method, path: "lost answer" if number % 2 else None)
    storage.write_bytes(join(bucket, "small"), b"1")
    storage.remove(join(bucket, "small"))
    faults.rule(lambda number, method, path: None)
    assert storage.read_bytes(join(bucket, "large")) == data
    assert storage.list_files(bucket) == ["large"] and s3.uploads(bucket) == []


# What does not pass


@pytest.mark.parametrize("action", IO)
def test_wrong_credentials(bucket, monkeypatch, action):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    start = time.monotonic()
    with pytest.raises(StoreError) as error:
        IO[action](join(bucket, "x"))
    assert time.monotonic() - start < 5
    one_line(error, join(bucket, "x"), "access denied", "AWS_SECRET_ACCESS_KEY")


def test_no_credentials(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError) as error:
        storage.read_bytes(join(bucket, "x"))
    one_line(error, "there are no credentials", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")


def test_credentials_from_a_file(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(f"[lab]\naws_access_key_id = {swift.KEY}\naws_secret_access_key = {swift.SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    storage.write_bytes(join(bucket, "x"), b"1")
    fs, inner = storage.resolve(join(bucket, "x"))
    assert fs.open_input_file(inner).read() == b"1"
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(StoreError) as error:
        storage.read_bytes(join(bucket, "x"))
    one_line(error, "absent", "could not be found")


@pytest.mark.parametrize("action", IO)
def test_missing_bucket(s3, action):
    with pytest.raises(StoreError) as error:
        IO[action]("s3://no-such-bucket/a/x")
    one_line(error, "s3://no-such-bucket/a/x", "there is no bucket no-such-bucket", s3.endpoint, "Create it")


@pytest.mark.parametrize(("endpoint", "reason"), [
    ("http://127.0.0.1:1", "Connection refused"), ("http://nowhere.invalid", "nowhere.invalid"),
])  # fmt: skip
def test_nobody_there(bucket, monkeypatch, hurry, endpoint, reason):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    path = join(bucket, "x")
    start = time.monotonic()
    with pytest.raises(StoreError) as error:
        storage.read_bytes(path)
    one_line(error, path, f"{endpoint} cannot be reached", reason, "AWS_ENDPOINT_URL")
    fs, inner = storage.resolve(path)
    with pytest.raises(StoreError) as error, storage.store_errors(path):
        fs.open_input_file(inner)
    one_line(error, path, f"{endpoint} cannot be reached", "AWS_ENDPOINT_URL")
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(("trouble", "reason"), [(503, "says SlowDown"), ("cut", "broke off"), (3.0, "not answer")])
def test_trouble_that_lasts(bucket, faults, hurry, trouble, reason):
    path = join(bucket, "x")
    faults.rule(lambda number, method, path: trouble)
    start = time.monotonic()
    with pytest.raises(StoreError) as error:
        storage.read_bytes(path)
    assert time.monotonic() - start < 4
    one_line(error, path, faults.endpoint, reason, "again later")
    fs, inner = storage.resolve(path)
    with pytest.raises(StoreError) as error, storage.store_errors(path):
        fs.open_input_file(inner)
    one_line(error, path, faults.endpoint)


def test_how_long_it_is_tried(bucket, faults, monkeypatch, caplog):
    """With the real limits and a clock that only waiting moves: about ten tries, in less than 45 s."""

    class Clock:
        now = 0.0
        monotonic = staticmethod(lambda: Clock.now)

        @staticmethod
        def sleep(seconds: float) -> None:
            Clock.now += seconds

    monkeypatch.setattr(objects, "time", Clock)
    faults.rule(lambda number, method, path: 503)
    with pytest.raises(StoreError, match=r"tried for \d\d s"):
        storage.read_bytes(join(bucket, "x"))
    assert 25 < Clock.now < 45
    assert 8 <= len(faults.seen) <= 16
    assert caplog.text.count("trying again") == 1
    Clock.now = 0.0
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError):
        storage.read_bytes(join(bucket, "x"))
    assert 3 < Clock.now < 10


def test_no_space(bucket, faults):
    faults.rule(lambda number, method, path: 507)
    with pytest.raises(StoreError) as error:
        storage.write_bytes(join(bucket, "x"), b"1")
    one_line(error, "no space left", "Free some")
    assert len(faults.seen) == 1


def test_a_full_disk_under_the_store(hurry, monkeypatch):
    """Swift itself calls that 503, like an overload."""
    with swift.running(reserve="100%") as full:
        for name, value in swift.environment(full.endpoint).items():
            monkeypatch.setenv(name, value)
        place = full.new_bucket()
        with pytest.raises(StoreError) as error:
            storage.write_bytes(join(place, "x"), b"1")
        one_line(error, "cannot write", "overloaded, down or full")
        assert storage.list_files(place) == []


@pytest.mark.parametrize("where", ["partNumber=2", "POST"])
def test_an_upload_that_fails_leaves_the_old_object_and_nothing_else(bucket, faults, hurry, in_parts, s3, where):
    path = join(bucket, "x")
    storage.write_bytes(path, b"old")

    def rule(number, method, path):
        completes = method == "POST" and "uploadId" in path
        return 503 if where in path or (where == "POST" and completes) else None

    faults.rule(rule)
    with pytest.raises(StoreError, match="SlowDown"):
        storage.write_bytes(path, os.urandom(12 * 2**20))
    assert ("DELETE", faults.seen[-1][1]) == faults.seen[-1]
    assert s3.uploads(bucket) == []
    faults.rule(lambda number, method, path: None)
    assert storage.read_bytes(path) == b"old" and storage.list_files(bucket) == ["x"]


def test_a_put_that_breaks_off_leaves_the_old_object(bucket, faults, hurry):
    path = join(bucket, "x")
    storage.write_bytes(path, b"old")
    faults.rule(lambda number, method, path: "cut" if method == "PUT" else None)
    with pytest.raises(StoreError, match=r"cannot write .* broke off"):
        storage.write_bytes(path, os.urandom(2_000_000))
    assert storage.read_bytes(path) == b"old"


# Addresses


def test_options_in_the_address(bucket, s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    place = bucket
    host = s3.endpoint.removeprefix("http://")
    for options in (f"?scheme=http&endpoint_override={host}&region=us-east-1", f"?endpoint_override={s3.endpoint}"):
        path = join(place + options, "a b", "c")
        storage.write_bytes(path, options.encode())
        assert storage.read_bytes(path) == options.encode()
        fs, inner = storage.resolve(path)
        assert fs.open_input_file(inner).read() == options.encode()
        assert storage.list_files(join(place + options, "a b")) == ["c"]


@pytest.mark.parametrize(("uri", "part"), [
    ("s3://", "no bucket"), ("s3:///x", "no bucket"), ("s3://b/x?endpoint=1", "unknown option 'endpoint'"),
    ("s3://[b/x", "no address"), ("s3://tester:testing@b/x", "do not belong into an address"),
    ("s3://tester:te/testing@b/x", "do not belong into an address"), ("s3://testing@b/x", "AWS_ACCESS_KEY_ID"),
])  # fmt: skip
def test_addresses_that_are_none(uri, part):
    for action in (storage.read_bytes, storage.resolve):
        with pytest.raises(UserError) as error:
            action(uri)
        one_line(error, part)


def test_one_file_system_for_all_buckets_which_others_can_have(bucket, s3):
    fs, inner = storage.resolve(join(bucket, "x"))
    assert storage.resolve(join(s3.new_bucket(), "y"))[0] is fs
    storage.write_bytes(join(bucket, "x"), b"1")
    assert pickle.loads(pickle.dumps(fs)).open_input_file(inner).read() == b"1"  # as Ray sends it to its tasks


def test_boto3_is_not_imported_for_local_files(tmp_path):
    code = (
        "import sys; from fusion import storage; p = sys.argv[1]; storage.write_text(p + '/x', '1'); "
        "storage.read_bytes(p + '/x'); storage.list_files(p); storage.exists(p); storage.remove(p + '/x'); "
        "assert not {'boto3', 'botocore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


# What is built on it


@pytest.fixture
def pairs(tmp_path):
    """Three pairs with boxes, and half a pair, in a local folder; names as people give them."""
    rng = np.random.default_rng(5)
    for name in ("eins", "zwei + drei", "größe 100%"):
        for folder, shape in (("visible", (24, 32, 3)), ("infrared", (24, 32))):
            storage.write_bytes(tmp_path / folder / f"{name}.png", encode_png(rng.integers(0, 256, shape, np.uint8)))
        storage.write_text(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 0.25 0.5\n")
    storage.write_text(tmp_path / "labels" / "classes.txt", "person\n")
    storage.write_bytes(tmp_path / "visible" / "alone.png", encode_png(np.zeros((24, 32, 3), np.uint8)))
    return tmp_path


def upload(folder, root: str) -> None:
    for name in storage.list_files(folder):
        storage.write_bytes(join(root, name), storage.read_bytes(join(folder, name)))


def test_pairs_are_found_and_read(bucket, pairs):
    upload(pairs, join(bucket, "my pairs"))
    here, there = find_pairs(str(pairs)), find_pairs(join(bucket, "my pairs"))
    assert [ref.key for ref in there.refs] == [ref.key for ref in here.refs] and len(there.refs) == 3
    assert there.rejected == here.rejected and there.layout == here.layout
    for near, far in zip(here.refs, there.refs, strict=True):
        one, other = read_pair(near), read_pair(far)
        assert np.array_equal(one.visible, other.visible) and np.array_equal(one.infrared, other.infrared)
        assert np.array_equal(one.boxes, other.boxes) and one.classes == other.classes == ("person",)


def test_a_store_that_fails_does_not_make_bad_pairs(bucket, pairs, faults, hurry):
    upload(pairs, bucket)
    ref = find_pairs(bucket).refs[0]
    faults.rule(lambda number, method, path: 503)
    with pytest.raises(StoreError):
        read_pair(ref)


def test_a_corpus_is_the_same_as_on_a_disk(bucket, tmp_path):
    config = CorpusConfig("scenes:3:64x72:1", "noise2,haze1", shard_samples=4)
    plans = plan_shards([replace(ref, split="train") for ref in find_pairs(config.pairs).refs], config)
    there, here = join(bucket, "a corpus"), str(tmp_path / "corpus")
    manifests = []
    for root in (there, here):
        records = [build_shard(plan, root) for plan in plans]
        manifests.append(write_manifest(root, {"shards": [asdict(record.info) for record in records]}))
    assert storage.list_files(there) == storage.list_files(here) and len(storage.list_files(there)) == 5
    for name in storage.list_files(here):
        assert storage.read_bytes(join(there, name)) == storage.read_bytes(join(here, name)), name
    manifest = open_corpus(there)
    assert manifest.content == manifests[1].content and manifest.missing() == [] and verify(manifest) == []
    samples = [sample.key for path, group in manifest.groups() for sample in read_group(path, group)]
    assert len(samples) == 6
    fs, inner = storage.resolve(manifest.paths()[0])
    assert pq.read_table(inner, filesystem=fs).num_rows == 4

    changed, gone = manifest.paths()
    storage.write_bytes(changed, storage.read_bytes(changed)[:-1])
    storage.remove(gone)
    assert len(manifest.missing()) == 2
    bad = verify(manifest)
    assert len(bad) == 2 and "checksum" in bad[0] and "No such file" in bad[1]
    before = storage.read_bytes(join(here, "shards", plans[0].name))
    build_shard(plans[0], there)
    assert storage.read_bytes(changed) == before


def test_a_corpus_that_is_not_there(bucket):
    with pytest.raises(UserError, match="no corpus at"):
        open_corpus(join(bucket, "none"))
    storage.write_bytes(join(bucket, "begun", "plan.json"), b"{}")
    with pytest.raises(UserError, match="not finished"):
        open_corpus(join(bucket, "begun"))


def test_checkpoints_are_fetched(bucket, tmp_path):
    model = TGECNet(SMALL)
    checkpoint.save(tmp_path / "here", "tgecnet", model, recipe={}, state={"epoch": 1})
    upload(tmp_path / "here", join(bucket, "my run", "checkpoint"))
    for where in (join(bucket, "my run"), join(bucket, "my run", "checkpoint")):
        loaded = checkpoint.load(checkpoint.fetch(where))
        assert loaded.fingerprint == checkpoint.load(tmp_path / "here").fingerprint
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[key], value)
    with pytest.raises(UserError, match="no checkpoint at"):
        checkpoint.fetch(join(bucket, "none"))


def test_why_writes_do_not_go_through_pyarrow(bucket):
    """It finishes what a writer that raised had begun. If this fails, `fusion.storage.s3` may be simpler."""
    fs, inner = storage.resolve(join(bucket, "x"))
    assert isinstance(fs, pafs.S3FileSystem)
    with pytest.raises(ZeroDivisionError), fs.open_output_stream(inner) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert storage.read_bytes(join(bucket, "x")) == b"half"
