"""`duskfuse pipeline` on a real local Ray and a real S3 store: everything once, then only what a change asks for."""

import json
import re
import time

import pytest

from fusion import storage
from fusion.errors import UserError
from tests.helpers import jobs
from tests.helpers.command_line import one_line

pytestmark = pytest.mark.ray

TEXT = """
pairs: scenes:8:80x64:5
stages:
  corpus:
    job: corpus
    pairs: $pairs
    preset: clean
    test-fraction: 0.25
  train:
    job: train aenet-tiny
    corpus: $corpus
    workers: 1
    recipe: {epochs: 1, batch-size: 2, crops: {size: 32}, validation: {size: 48}}
  ours:
    job: fuse
    checkpoint: $train
    corpus: $corpus
  average:
    job: fuse
    method: average
    corpus: $corpus
  scores:
    job: score
    corpus: $corpus
    metrics: en,sf
    fused: {Ours: $ours, Average: $average}
  report:
    job: report
    scores: $scores
    run: $train
    num-images: 2
"""
STAGES = ["corpus", "train", "ours", "average", "scores", "report"]


@pytest.fixture(scope="module")
def store(s3, local_ray):
    """The store comes first: Ray takes its address."""
    return s3


@pytest.fixture(scope="module")
def place(store, tmp_path_factory):
    """A folder with the pipeline, and OUT, where it was stopped by its scores, then went on."""
    place = tmp_path_factory.mktemp("pipeline")
    (place / "mine.yaml").write_text(TEXT)
    return place


@pytest.fixture
def pipeline(place, command):
    """Run it: (exit code, the stages that ran, stdout, stderr)."""

    def run(*words: object) -> tuple[int, list[str], str, str]:
        code, out, err = command("pipeline", place / "mine.yaml", "--out", place / "out", *words)
        told = re.findall(r"^\[\d+/\d+\] (\w+): (.*)", err, re.MULTILINE)
        return code, [stage for stage, why in told if not why.startswith("done, ")], out, err

    return run


def times(place) -> dict[str, int]:
    """When each result was written."""
    names = ("manifest.json", "run.json", "fused.json", "score.json", "report.html")
    return {str(path): path.stat().st_mtime_ns for name in names for path in place.glob(f"out/*-*/{name}")}


def test_a_stage_that_fails_stops_it_and_the_same_command_goes_on(place, pipeline, monkeypatch):
    from workflows.score import job as score_job

    def fails(*_):
        raise UserError("the disk is full. Make room.")

    with monkeypatch.context() as patch:
        patch.setattr(score_job, "run", fails)
        code, ran, _, err = pipeline()
    assert code == 2 and ran == ["corpus", "train", "ours", "average", "scores"]
    one_line(err.splitlines()[-1], "stage scores", "the disk is full. Make room.", "same command")
    assert not (place / "out" / "report.html").exists()
    assert "scores" not in json.loads((place / "out" / "latest.json").read_text())

    before = times(place)
    code, ran, out, err = pipeline()
    assert code == 0 and ran == ["scores", "report"], err
    assert "duskfuse score --corpus" in err  # as on the command line
    assert out.strip().endswith(f"{place}/out/report.html") and "2 of them now" in out
    assert {path: when for path, when in times(place).items() if path in before} == before


def test_all_is_there(place):
    out = place / "out"
    latest = json.loads((out / "latest.json").read_text())
    assert list(latest) == STAGES
    assert (out / "report.html").read_bytes() == (out / latest["report"] / "report.html").read_bytes()
    assert b"aenet-tiny" in (out / "report.html").read_bytes()
    for stage, name in latest.items():
        stamp = json.loads((out / "stages" / f"{name}.json").read_text())
        assert name == f"{stage}-{stamp['fingerprint'][:8]}" and stamp["seconds"] >= 0
        assert stamp["provenance"]["command"].startswith("duskfuse ") and stamp["provenance"]["versions"]["ray"]
    assert (out / "pipeline.yaml").exists() and not (out / "lease.json").exists()


def test_what_is_done_is_not_done_again(place, pipeline):
    before = times(place)
    code, ran, out, _ = pipeline()
    assert code == 0 and ran == [] and "0 of them now" in out
    assert times(place) == before


def test_a_changed_setting_redoes_what_depends_on_it(place, pipeline):
    before = times(place)
    page = (place / "out" / "report.html").read_bytes()
    code, ran, _, err = pipeline("--set", "average.method=maximum", "--until", "scores")
    assert code == 0 and ran == ["average", "scores"]
    assert 'average: method "average" -> "maximum"' in err and "scores: average changed" in err
    code, ran, _, err = pipeline("--set", "average.method=maximum")
    assert code == 0 and ran == ["report"]
    assert "report: scores changed" in err
    assert before.items() <= times(place).items()  # nothing was overwritten
    assert (place / "out" / "report.html").read_bytes() != page
    kept = (place / "out" / "pipeline.yaml").read_text()
    assert "method: maximum" in kept

    code, ran, _, _ = pipeline()  # and back
    assert code == 0 and ran == []
    assert (place / "out" / "report.html").read_bytes() == page


def test_a_stage_that_was_killed_before_its_stamp_goes_on(place, pipeline):
    """Its folder is there, its stamp is not: what the job finds there it keeps."""
    out = place / "out"
    name = json.loads((out / "latest.json").read_text())["ours"]
    pictures = {path: path.stat().st_mtime_ns for path in (out / name).rglob("*.png")}
    (out / "stages" / f"{name}.json").unlink()
    code, ran, said, err = pipeline()
    assert code == 0 and ran == ["ours"] and "began, is not done" in err
    assert f"0 images fused, {len(pictures)} were there" in said
    assert pictures == {path: path.stat().st_mtime_ns for path in pictures} and pictures


def test_two_at_once(place, pipeline):
    from workflows.outputs import Lease

    with Lease(str(place / "out")):
        code, _, _, err = pipeline()
    assert code == 2
    one_line(err, "is being written by process")


def test_on_s3(store, place, command):
    out = storage.join(store.new_bucket(), "a folder")
    words = ("pipeline", place / "mine.yaml", "--out", out, "--skip", "train", "--skip", "ours")
    code, said, err = command(*words)
    assert code == 0 and "4 stages done, 4 of them now" in said, err
    assert b"Average" in storage.read_bytes(storage.join(out, "report.html"))
    code, said, err = command(*words)
    assert code == 0 and "0 of them now" in said
    code, said, _ = command(*words, "--dry-run", "--set", "scores.metrics=en")
    assert code == 0 and "2 of 4 stages to do" in said and 'metrics "en,sf" -> "en"' in said
    here = json.loads((place / "out" / "latest.json").read_text())
    there = json.loads(storage.read_bytes(storage.join(out, "latest.json")))
    assert there["average"] == here["average"]  # the same name in any place


@pytest.mark.slow
def test_killed_in_the_middle_of_training(tmp_path):
    """SIGKILL to all of it once the training has begun; the same command ends with a report."""
    (tmp_path / "mine.yaml").write_text(TEXT)
    words = ("pipeline", tmp_path / "mine.yaml", "--out", tmp_path / "out")
    first = jobs.duskfuse(*words)
    try:
        deadline = time.monotonic() + 180
        while not list((tmp_path / "out").glob("train-*/settings.json")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        jobs.end(first)
    assert not list((tmp_path / "out" / "stages").glob("train-*"))
    corpus = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("corpus-*/**/*") if path.is_file()}
    second = jobs.duskfuse(*words)
    try:
        _, err = second.communicate(timeout=240)
    finally:
        jobs.end(second)
    assert second.returncode == 0, err
    assert "corpus: done" in err and "train: began, is not done" in err
    assert (tmp_path / "out" / "report.html").exists()
    assert corpus == {path: path.stat().st_mtime_ns for path in corpus}
