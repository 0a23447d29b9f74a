"""Long: trainings that lose a worker, a node, their driver, the store, the disk, their numbers.

See docs/fault_tolerance.md. One cluster of two nodes on this machine serves all of them; each worker needs a node of
its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fusion import storage
from fusion.storage import join
from tests.helpers.flaky_proxy import Faults
from tests.helpers.nodes import Job, Nodes
from tests.helpers.s3_server import environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = ["--recipe.crops.size", 32, "--recipe.batch-size", 4, "--recipe.validation.size", 48]
TWO = ["--workers", 2, "--cpus-per-worker", 2]  # of nodes with three
ONE = ["--workers", 1, "--cpus-per-worker", 1]


@pytest.fixture(scope="module")
def outside(s3) -> Iterator[Faults]:
    """The store, through a proxy that can fail."""
    proxy = Faults(s3.endpoint)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def nodes(outside) -> Iterator[Nodes]:
    with Nodes(cpus=3, environment=environment(outside.endpoint)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def corpus(nodes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    Job(
        nodes, folder, "corpus", "--pairs", "scenes:16:96x80:3", "--preset", "noise2,haze2", "--out", folder / "c"
    ).ends()
    return folder / "c"


@pytest.fixture
def train(nodes, corpus, tmp_path):
    """Start `duskfuse train` on the cluster; it is gone when the test is over."""
    jobs: list[Job] = []

    def start(out: object, epochs: int, *words: object) -> Job:
        recipe = ["tgecnet-restore-tiny", "--corpus", corpus, "--recipe.epochs", epochs, *SMALL]
        jobs.append(Job(nodes, tmp_path, "train", *recipe, "--out", out, *words))
        return jobs[-1]

    yield start
    for job in jobs:
        with contextlib.suppress(ProcessLookupError):
            job.signal(signal.SIGKILL)
        job.process.wait()


def history(out: object) -> list[dict]:
    return json.loads(storage.read_bytes(join(str(out), "run.json")))["history"]


def resumed(job: Job) -> list[int]:
    """After which epochs it went on, in order."""
    return [int(line.rpartition(" ")[2]) for line in job.text.splitlines() if "resumed after epoch" in line]


def epochs_done(job: Job) -> int:
    """The last epoch that a line says is done."""
    lines = [line for line in job.text.splitlines() if " done in " in line]
    return int(lines[-1].partition("  epoch ")[2].partition("/")[0]) if lines else 0


def show_figure(name: str, seconds: float, lost: int | None = None) -> None:
    """Print a figure for docs/fault_tolerance.md; `pytest -s` shows it, and no test depends on it."""
    print(f"FAULT {name}: on after {seconds:.0f} s" + ("" if lost is None else f", epochs done again: {lost}"))


def goes_on(job: Job, times: int, name: str, before: int) -> int:
    """Wait until it has gone on so often; how many of the `before` epochs that were done it does again."""
    seconds = job.says("resumed after epoch", times)
    lost = before - resumed(job)[times - 1]
    show_figure(name, seconds, lost)
    return lost


def test_a_lost_worker_a_lost_node_its_return_and_a_notice(nodes, train, tmp_path):
    """One run through all of them, every epoch once in its history, by the workers that there were."""
    second = nodes.add(cpus=3)
    job = train(tmp_path / "run", 400, *TWO, "--node-timeout", 0)
    job.until(lambda: epochs_done(job) >= 3, "three epochs")
    check_a_lost_worker(job, nodes, second)
    check_a_lost_node(job, nodes, second)
    second = nodes.add(cpus=3)
    check_a_node_that_comes_back(job)
    check_a_node_that_goes_after_a_notice(job, nodes, second)

    epochs, workers = saved_history(tmp_path / "run")
    assert epochs == list(range(1, len(epochs) + 1))
    assert [number for number, _ in itertools.groupby(workers)] == [2, 1, 2, 1]


def check_a_lost_worker(job: Job, nodes: Nodes, node: subprocess.Popen) -> None:
    nodes.workers(node)[0].kill()
    before = epochs_done(job)
    assert goes_on(job, 1, "worker killed", before) <= 1
    job.until(lambda: epochs_done(job) > before + 1, "an epoch more")


def check_a_lost_node(job: Job, nodes: Nodes, node: subprocess.Popen) -> None:
    nodes.kill(node)
    assert goes_on(job, 2, "node killed, gone for good", epochs_done(job)) <= 1
    assert "going on with 1 instead of 2 workers, by a batch of 4" in job.text


def check_a_node_that_comes_back(job: Job) -> None:
    """The run ends at the end of an epoch, and loses none."""
    job.says("there is room for 2 workers again")
    before = epochs_done(job)
    assert goes_on(job, 3, "a node comes back", before) == 0
    job.until(lambda: epochs_done(job) > before + 1, "an epoch more")


def check_a_node_that_goes_after_a_notice(job: Job, nodes: Nodes, node: subprocess.Popen) -> None:
    """It has saved itself before, and loses no epoch."""
    nodes.give_notice(nodes.alive()[1], 300)
    job.says("a node is about to be taken away")
    before = epochs_done(job)
    nodes.kill(node)
    assert goes_on(job, 4, "spot notice to a node", before) == 0
    job.until(lambda: epochs_done(job) > before, "an epoch more")


def saved_history(run: Path) -> tuple[list[int], list[int]]:
    """The epochs of the latest checkpoint of a run, and the workers of each."""
    latest = max(run.glob("checkpoint_*/state.json"), key=os.path.getmtime)
    epochs = json.loads(latest.read_text())["history"]
    return [one["epoch"] for one in epochs], [one["workers"] for one in epochs]


def test_a_driver_that_is_terminated_and_killed(nodes, train, tmp_path):
    """SIGTERM is an interruption, SIGKILL a death; the same command goes on after both."""
    job = train(tmp_path / "run", 12, *ONE)
    job.until(lambda: epochs_done(job) >= 2, "two epochs")
    job.signal(signal.SIGTERM)
    before = epochs_done(job)
    job.ends(143)
    assert "the same command goes on where it stopped" in job.verdict

    begin = time.monotonic()
    job = train(tmp_path / "run", 12, *ONE)
    job.says("resumed after epoch")
    show_figure("SIGTERM to the driver, and the same command", time.monotonic() - begin, before - resumed(job)[0])
    assert before - resumed(job)[0] <= 1
    job.until(lambda: epochs_done(job) > before + 1, "an epoch more")
    job.signal(signal.SIGKILL)
    job.process.wait()
    before = epochs_done(job)

    begin = time.monotonic()
    job = train(tmp_path / "run", 12, *ONE)
    job.says("resumed after epoch")
    show_figure("driver killed, and the same command", time.monotonic() - begin, before - resumed(job)[0])
    assert before - resumed(job)[0] <= 2  # the controller looks every two seconds
    job.ends()
    assert [one["epoch"] for one in history(tmp_path / "run")] == list(range(1, 13))


def test_a_loss_that_is_not_finite_is_not_tried_again(nodes, train, tmp_path):
    """Of two workers on one node: one may see it first, and the other wait for its gradients for ever."""
    begin = time.monotonic()
    words = ["--workers", 2, "--cpus-per-worker", 1, "--recipe.optim.lr", 1e30, "--recipe.optim.warmup_fraction", 0]
    job = train(tmp_path / "run", 4, *words, "--recipe.optim.max_grad_norm", 0)
    job.ends(2)
    show_figure("a loss that is not finite: one line", time.monotonic() - begin)
    assert job.verdict.startswith("duskfuse train: the loss is not finite (l1 nan")
    assert "resumed" not in job.text and "errors.UserError" not in job.text and job.text.count("4 epochs of ") == 1
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("how", ["silent", "refusing"])
def test_a_store_that_is_away_for_30_seconds(s3, outside, nodes, train, how, monkeypatch):
    """While checkpoints are written. Silent: the store's process is stopped. Refusing: every connection is cut."""
    for name, value in environment(s3.endpoint).items():
        monkeypatch.setenv(name, value)
    out = join(s3.new_bucket(), "run")
    job = train(out, 30, *ONE)
    job.until(lambda: epochs_done(job) >= 2, "two epochs")
    before = epochs_done(job)
    if how == "silent":
        s3.process.send_signal(signal.SIGSTOP)
    else:
        outside.rule(lambda number, method, path: "cut")
    try:
        time.sleep(30)
    finally:
        s3.process.send_signal(signal.SIGCONT)
        outside.rule(lambda number, method, path: None)
    during = epochs_done(job)
    seconds = job.until(lambda: epochs_done(job) > during + 1, "two epochs more")
    show_figure(f"store {how} for 30 s", seconds, max(during - one for one in [*resumed(job), during]))
    assert during <= before + 2  # it did wait for the store
    job.ends()
    assert [one["epoch"] for one in history(out)] == list(range(1, 31))


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 120 megabytes: a handful of checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "none", place], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_one_line_and_loses_nothing(nodes, train, small_disk):
    run = small_disk / "run"
    job = train(run, 30, *ONE)
    job.until(lambda: len(list(run.glob("checkpoint_*/state.json"))) == 2, "two checkpoints")
    with open(small_disk / "other", "wb", buffering=0) as other, contextlib.suppress(OSError):
        while True:
            other.write(bytes(4096))
    before = epochs_done(job)
    begin = time.monotonic()
    job.ends(2)
    show_figure("disk full: one line", time.monotonic() - begin)
    assert job.verdict.startswith(f"duskfuse train: cannot write {run}: ") and "goes on" in job.verdict
    (small_disk / "other").unlink()

    job = train(run, 30, *ONE)
    job.says("resumed after epoch")
    assert before - resumed(job)[0] <= 2
    job.ends()
    assert [one["epoch"] for one in history(run)] == list(range(1, 31))


DETECTOR = ["--detector", "faster-rcnn-small", "--recipe.model.size", 96, "--recipe.model.channels", 16]
DETECTOR += ["--recipe.model.box-head-dim", 32, "--recipe.epochs", 12, "--recipe.batch-size", 4]
DETECTOR += ["--val-fraction", 0.2, "--resamples", 20]
NETWORK = ["--recipe.epochs", 60, "--recipe.batch-size", 4, "--recipe.crops.size", 48, "--recipe.validation.size", 48]
WORDS = {
    "detect": ["detect", "--pairs", "scenes:16:96x80:3", *DETECTOR],
    "evolve": ["evolve", "--pairs", "scenes:10:208x192:3", "--methods", "lp,gff", *NETWORK],
}


@pytest.mark.parametrize("name", WORDS)
def test_a_worker_killed_while_a_detector_learns_and_an_evolution_runs(nodes, tmp_path, name):
    """`duskfuse detect` and `duskfuse evolve`: their trainings go on like any other, and lose no work before them."""
    out = tmp_path / name
    job = Job(nodes, tmp_path, *WORDS[name], "--out", out)
    job.until(lambda: len(list(out.glob("**/checkpoint_*"))) >= 2, "two checkpoints")
    time.sleep(3)
    for worker in nodes.workers(nodes.head):
        with contextlib.suppress(psutil.Error):
            worker.kill()
    begin = time.monotonic()
    job.ends()
    show_figure(f"worker killed in {name}: finished", time.monotonic() - begin)
    assert "A worker died or was killed" in job.text
