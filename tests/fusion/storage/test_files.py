"""Files by path and by URI: whole or not there at all."""

from __future__ import annotations

import os
import threading

import pytest

from fusion import storage
from fusion.errors import UserError


@pytest.fixture(params=["path", "uri"])
def root(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "path" else tmp_path.as_uri()


def test_write_and_read(root):
    path = storage.join(root, "a", "b", "c.bin")
    assert not storage.exists(path)
    assert storage.file_size(path) is None
    storage.write_bytes(path, b"\x00\xff" * 5)
    assert storage.read_bytes(path) == b"\x00\xff" * 5
    assert storage.exists(path)
    assert storage.file_size(path) == 10
    assert not storage.is_dir(path)
    storage.write_text(path, "Ä\n")
    assert storage.read_bytes(path) == b"\xc3\x84\n"
    storage.write_bytes(path, b"")
    assert storage.file_size(path) == 0


def test_folders(root):
    storage.write_bytes(storage.join(root, "a", "x"), b"1")
    folder = storage.join(root, "a")
    assert storage.is_dir(folder)
    assert storage.exists(folder)
    assert storage.file_size(folder) is None
    assert not storage.is_dir(storage.join(root, "b"))


def test_list_files_is_sorted_relative_and_complete(root):
    names = ["b.txt", "a/z.txt", "a/b/c.txt", "ä ö.txt", "B.txt", "50%20 #1?.txt", "[a]/+&.txt"]
    for name in names:
        storage.write_bytes(storage.join(root, name), b"1")
    assert storage.list_files(root) == sorted(names)
    assert storage.list_files(storage.join(root, "a")) == ["b/c.txt", "z.txt"]
    assert storage.list_files(storage.join(root, "a") + "/") == ["b/c.txt", "z.txt"]
    assert storage.list_files(storage.join(root, "none")) == []


def test_list_files_follows_links(tmp_path):
    storage.write_bytes(tmp_path / "there" / "x", b"1")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    assert storage.list_files(tmp_path / "here") == ["link/x"]


def test_missing_files_raise(root):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "none"))


def test_paths_of_other_kinds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write_text("plain.txt", "1")
    assert (tmp_path / "plain.txt").read_text() == "1"
    assert storage.read_bytes(tmp_path / "plain.txt") == b"1"
    assert storage.read_bytes("~/plain.txt") == b"1"


def test_join():
    assert storage.join("/a/", "b", "c") == storage.join("/a", "b", "c") == "/a/b/c"
    assert storage.join("s3://bucket/", "b") == "s3://bucket/b"
    assert storage.join("/", "a") == "/a"
    assert storage.join("/a", "b c#1") == "/a/b c#1"
    assert storage.join("s3://bucket/x%20y", "b c#1", "d/e") == "s3://bucket/x%20y/b%20c%231/d/e"
    assert storage.join("s3://bucket/x/?region=eu", "b") == "s3://bucket/x/b?region=eu"


def test_is_uri():
    assert storage.is_uri("s3://bucket/x")
    assert not storage.is_uri("/a/b")
    assert not storage.is_uri("c:/x")


@pytest.mark.parametrize("uri", ["nothing://x/y", "https://example.org/x"])
def test_unknown_schemes_are_refused(uri):
    with pytest.raises(UserError, match=uri):
        storage.read_bytes(uri)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x"
    storage.write_bytes(path, b"old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="disk full"):
        storage.write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_the_file_appears_whole(tmp_path, monkeypatch):
    """Nothing is at the target until all bytes are safe under another name beside it."""
    path, seen = tmp_path / "x", []
    replace = os.replace

    def watch(source, target):
        seen.append((path.exists(), os.path.dirname(source), os.path.getsize(source)))
        names.append(source)
        replace(source, target)

    names = []
    monkeypatch.setattr(os, "replace", watch)
    storage.write_bytes(path, b"12345")
    storage.write_bytes(path, b"123")
    assert seen == [(False, str(tmp_path), 5), (True, str(tmp_path), 3)]
    assert len(set(names)) == 2  # two writers at the same time do not share it
    assert os.listdir(tmp_path) == ["x"]


def test_writers_at_the_same_time_do_not_mix(tmp_path):
    path, contents = tmp_path / "x", [bytes([i]) * 200_000 for i in range(6)]
    threads = [threading.Thread(target=storage.write_bytes, args=(path, data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["x"]
