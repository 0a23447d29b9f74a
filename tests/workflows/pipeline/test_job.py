"""`duskfuse pipeline` on a real local Ray and a real S3 store: everything once, then only what a change asks for."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from fusion import storage
from fusion.errors import UserError
from tests.helpers import jobs
from tests.helpers.command_line import one_line, run
from tests.helpers.folders import put_back
from workflows.outputs import Lease
from workflows.score import job as score_job

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

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


class Ran(NamedTuple):
    """A run of the pipeline: exit code, the stages that ran, what it said, and what OUT had then."""

    code: int
    stages: list[str]
    out: str
    err: str
    latest: dict[str, str]
    times: dict[str, int]
    has_page: bool


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the pipeline and OUT."""
    place = tmp_path_factory.mktemp("pipeline")
    (place / "mine.yaml").write_text(TEXT)
    return place


@pytest.fixture(scope="module")
def stopped(place) -> Ran:
    """The first run of all, which ends at its scores."""

    def fails(*_):
        raise UserError("the disk is full. Make room.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_job, "run", fails)
        return ran(place, *run(*words(place)))


@pytest.fixture(scope="module")
def finished(stopped, place) -> Ran:
    """The same command once more, to its end; OUT is kept as it was then."""
    finished = ran(place, *run(*words(place)))
    shutil.copytree(place / "out", place / "saved")
    return finished


@pytest.fixture
def out(finished, place) -> Path:
    """OUT as the finished pipeline left it."""
    put_back(place / "saved", place / "out")
    return place / "out"


@pytest.fixture
def pipeline(out, place, command):
    """Run it, with more options, on the finished OUT."""
    return lambda *more: ran(place, *command(*words(place), *more))


def words(place: Path) -> list[object]:
    return ["pipeline", place / "mine.yaml", "--out", place / "out"]


def ran(place: Path, code: int, out: str, err: str) -> Ran:
    headings = re.findall(r"^\[\d+/\d+\] (\w+): (.*)", err, re.MULTILINE)
    stages = [stage for stage, why in headings if not why.startswith("done, ")]
    latest = json.loads((place / "out" / "latest.json").read_text())
    return Ran(code, stages, out, err, latest, times(place), (place / "out" / "report.html").exists())


def times(place: Path) -> dict[str, int]:
    """When each result was written."""
    names = ("manifest.json", "run.json", "fused.json", "score.json", "report.html")
    return {str(path): path.stat().st_mtime_ns for name in names for path in place.glob(f"out/*-*/{name}")}


def test_a_stage_that_fails_stops_it(stopped):
    assert stopped.code == 2 and stopped.stages == ["corpus", "train", "ours", "average", "scores"]
    one_line(stopped.err.splitlines()[-1], "stage scores", "the disk is full. Make room.", "same command")
    assert not stopped.has_page
    assert "scores" not in stopped.latest


def test_the_same_command_goes_on(stopped, finished, place):
    assert finished.code == 0 and finished.stages == ["scores", "report"], finished.err
    assert "duskfuse score --corpus" in finished.err  # as on the command line
    assert finished.out.strip().endswith(f"{place}/out/report.html") and "2 of them now" in finished.out
    assert {path: when for path, when in finished.times.items() if path in stopped.times} == stopped.times


def test_all_is_there(out):
    latest = json.loads((out / "latest.json").read_text())
    assert list(latest) == STAGES
    assert (out / "report.html").read_bytes() == (out / latest["report"] / "report.html").read_bytes()
    assert b"aenet-tiny" in (out / "report.html").read_bytes()
    for stage, name in latest.items():
        stamp = json.loads((out / "stages" / f"{name}.json").read_text())
        assert name == f"{stage}-{stamp['fingerprint'][:8]}" and stamp["seconds"] >= 0
        assert stamp["provenance"]["command"].startswith("duskfuse ") and stamp["provenance"]["versions"]["ray"]
    assert (out / "pipeline.yaml").exists() and not (out / "lease.json").exists()


def test_what_is_done_is_not_done_again(finished, pipeline):
    again = pipeline()
    assert again.code == 0 and again.stages == [] and "0 of them now" in again.out
    assert again.times == finished.times


def test_a_changed_setting_redoes_what_depends_on_it(finished, out, pipeline):
    page = (out / "report.html").read_bytes()
    changed = pipeline("--set", "average.method=maximum", "--until", "scores")
    assert changed.code == 0 and changed.stages == ["average", "scores"]
    assert 'average: method "average" -> "maximum"' in changed.err and "scores: average changed" in changed.err
    changed = pipeline("--set", "average.method=maximum")
    assert changed.code == 0 and changed.stages == ["report"]
    assert "report: scores changed" in changed.err
    assert finished.times.items() <= changed.times.items()  # nothing was overwritten
    assert (out / "report.html").read_bytes() != page
    assert "method: maximum" in (out / "pipeline.yaml").read_text()

    back = pipeline()
    assert back.code == 0 and back.stages == []
    assert (out / "report.html").read_bytes() == page


def test_a_stage_that_was_killed_before_its_stamp_goes_on(finished, out, pipeline):
    """Its folder is there, its stamp is not: what the job finds there it keeps."""
    name = finished.latest["ours"]
    pictures = {path: path.stat().st_mtime_ns for path in (out / name).rglob("*.png")}
    (out / "stages" / f"{name}.json").unlink()
    again = pipeline()
    assert again.code == 0 and again.stages == ["ours"] and "began, is not done" in again.err
    assert f"0 images fused, {len(pictures)} were there" in again.out
    assert pictures == {path: path.stat().st_mtime_ns for path in pictures} and pictures


def test_two_at_once(out, pipeline):
    with Lease(str(out)):
        second = pipeline()
    assert second.code == 2
    one_line(second.err, "is being written by process")


def test_on_s3(s3, place, finished, command):
    out = storage.join(s3.new_bucket(), "a folder")
    words = ("pipeline", place / "mine.yaml", "--out", out, "--skip", "train", "--skip", "ours")
    code, said, err = command(*words)
    assert code == 0 and "4 stages done, 4 of them now" in said, err
    assert b"Average" in storage.read_bytes(storage.join(out, "report.html"))
    code, said, err = command(*words)
    assert code == 0 and "0 of them now" in said
    code, said, _ = command(*words, "--dry-run", "--set", "scores.metrics=en")
    assert code == 0 and "2 of 4 stages to do" in said and 'metrics "en,sf" -> "en"' in said
    there = json.loads(storage.read_bytes(storage.join(out, "latest.json")))
    assert there["average"] == finished.latest["average"]  # the same name in any place


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
