"""The whole job on s3://, pairs to report, on a real store and a real local Ray: the same files as on a disk."""

import json

import pytest

from fusion import storage
from fusion.data.corpus import open_corpus
from fusion.storage import join
from tests.helpers.command_line import one_line, succeed, write_pair

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

PAIRS = ["a 1", "b+2", "ü%3", "d"]


@pytest.fixture(scope="module")
def roots(s3, tmp_path_factory):
    """Two places with the same pairs, on the store and on the disk."""
    here = tmp_path_factory.mktemp("job")
    there = join(s3.new_bucket(), "some folder")
    for i, key in enumerate(PAIRS):
        write_pair(here / "pairs", key, 72, 80, seed=i)
    for name in storage.list_files(here):
        storage.write_bytes(join(there, name), storage.read_bytes(here / name))
    return there, str(here)


@pytest.fixture(scope="module")
def jobs(roots):
    """Corpus, fuse, score and report in both places."""
    for root in roots:
        pairs, corpus, fused, scores = (join(root, name) for name in ("pairs", "corpus", "fused", "scores"))
        for words in (
            ["corpus", "--pairs", pairs, "--out", corpus, "--preset", "noise2,haze1", "--shard-samples", "4",
             "--test-fraction", "0.5", "--val-fraction", "0"],
            ["corpus", "verify", corpus],
            ["fuse", "--method", "average", "--corpus", corpus, "--out", fused],
            ["score", "--fused", f"Average={fused}", "--corpus", corpus, "--out", scores, "--metrics", "en,qabf"],
            ["report", "--scores", scores, "--out", join(root, "report.html"), "--num-images", "2"],
        ):  # fmt: skip
            succeed(*words)
    return roots


def test_the_files_are_those_of_a_disk(jobs):
    there, here = jobs
    assert storage.list_files(there) == storage.list_files(here)
    assert open_corpus(join(there, "corpus")).content == open_corpus(join(here, "corpus")).content
    same = [name for name in storage.list_files(here) if name.endswith((".parquet", ".png", ".csv"))]
    assert len([name for name in same if name.startswith("fused/")]) == 4
    assert len([name for name in same if name.startswith("corpus/shards/")]) == 2
    assert "scores/per_image.csv" in same
    for name in same:
        assert storage.read_bytes(join(there, name)) == storage.read_bytes(join(here, name)), name


def test_the_manifests_say_the_same_but_for_the_places(jobs):
    one, other = (json.loads(storage.read_bytes(join(root, "corpus", "manifest.json"))) for root in jobs)
    for root, manifest in zip(jobs, (one, other), strict=True):
        assert manifest["config"].pop("pairs") == join(root, "pairs")
        assert join(root, "corpus") in manifest["provenance"].pop("command")
        manifest.pop("inputs", None)  # a fingerprint of where the pairs are, too
    assert one == other
    assert one["pairs"] == {"found": 4, "used": 4} and one["rejected"] == []


def test_the_report_is_on_the_store(jobs):
    there, here = (storage.read_bytes(join(root, "report.html")).decode() for root in jobs)
    assert there.count("data:image/") == here.count("data:image/") > 2
    for word in ("Average", "Q_abf", open_corpus(join(jobs[0], "corpus")).content, join(jobs[0], "corpus")):
        assert word in there, word


def test_a_restart_builds_only_what_is_missing(jobs, command, s3):
    corpus = join(jobs[0], "corpus")
    bucket = jobs[0].removeprefix("s3://").partition("/")[0]

    def written() -> dict[str, str]:
        listing = s3.client().list_objects_v2(Bucket=bucket, Prefix="some folder/corpus/shards/")
        return {item["Key"].rpartition("/")[2]: str(item["LastModified"]) for item in listing["Contents"]}

    before = written()
    lost = min(before)
    data = storage.read_bytes(join(corpus, "shards", lost))
    storage.remove(join(corpus, "shards", lost))
    words = ["--preset", "noise2,haze1", "--shard-samples", 4, "--test-fraction", 0.5, "--val-fraction", 0]
    assert command("corpus", "--pairs", join(jobs[0], "pairs"), "--out", corpus, *words)[0] == 0
    assert storage.read_bytes(join(corpus, "shards", lost)) == data
    assert {name: when for name, when in written().items() if name != lost} == {
        name: when for name, when in before.items() if name != lost
    }


def test_a_store_that_cannot_be_used_is_one_line(jobs, command, monkeypatch):
    code, _, err = command("fuse", "--method", "average", "--pairs", "s3://no-such-bucket/x", "--out", jobs[0])
    assert code == 2
    one_line(err, "there is no bucket no-such-bucket", "Create it")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    code, _, err = command(
        "score", "--fused", join(jobs[0], "fused"), "--corpus", join(jobs[0], "corpus"), "--out", "x"
    )
    assert code == 2
    one_line(err, "access denied", "AWS_SECRET_ACCESS_KEY")
