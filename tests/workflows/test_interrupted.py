"""SIGTERM, as `ray job stop` and a spot notice send it, ends a job as Ctrl-C does; clusters that cannot be joined."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from fusion.errors import UserError
from tests.helpers.jobs import CHECKOUT, duskfuse, end, free_ports
from workflows import cli, console, provenance
from workflows.cluster import connect, join


def run_as_job(monkeypatch, job) -> int:
    """`duskfuse demo`, with the function `job` in its place."""
    module = SimpleNamespace(options=lambda arguments: None, run=lambda options, command: job())
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
    return cli.main(["demo"])


def test_sigterm_is_an_interruption_with_its_own_exit_code(monkeypatch, capfd):
    before = signal.getsignal(signal.SIGTERM)
    put_away = []

    def job():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not disturb what is put away
            time.sleep(0.05)
            put_away.append(True)

    assert run_as_job(monkeypatch, job) == 143
    err = capfd.readouterr().err
    assert "interrupted by SIGTERM; the same command goes on" in err and "Traceback" not in err
    assert put_away and signal.getsignal(signal.SIGTERM) is before


def test_sigterm_is_told_from_ctrl_c_where_ray_makes_a_new_exception_of_it(monkeypatch, capfd):
    def job():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # as ray.get does

    assert run_as_job(monkeypatch, job) == 143
    assert "interrupted by SIGTERM" in capfd.readouterr().err


def test_ctrl_c_keeps_its_exit_code(monkeypatch, capfd):
    def job():
        raise KeyboardInterrupt

    assert run_as_job(monkeypatch, job) == 130
    assert "SIGTERM" not in capfd.readouterr().err


def test_other_exits_stay_what_they_are(monkeypatch):
    def job():
        raise SystemExit(3)

    with pytest.raises(SystemExit) as stop:
        run_as_job(monkeypatch, job)
    assert stop.value.code == 3

    def as_ray_does():
        raise SystemExit(int(signal.SIGTERM))

    assert run_as_job(monkeypatch, as_ray_does) == 143


def test_a_job_in_a_thread_leaves_signals_alone(monkeypatch):
    before, codes = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: codes.append(run_as_job(monkeypatch, lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0] and signal.getsignal(signal.SIGTERM) is before


def listening(process: subprocess.Popen) -> set[str]:
    """The addresses on which a process and what it started listen."""
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found = set()
    for one in every:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {at.laddr.ip for at in one.net_connections("tcp") if at.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.ray
def test_a_corpus_job_listens_on_loopback_ends_by_sigterm_and_leaves_no_lease(tmp_path):
    words = ["corpus", "--pairs", "scenes:400:320x240", "--preset", "grid", "--no-sequences", "--out", tmp_path / "c"]
    process = duskfuse(*words)
    try:
        limit = time.monotonic() + 180
        while not list(tmp_path.glob("c/**/*.parquet")):  # in the middle of its work
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < limit
            time.sleep(0.1)
        assert (tmp_path / "c" / "lease.json").exists()
        addresses = listening(process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode == 143, err
    assert addresses and addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert "the same command goes on" in err.strip().splitlines()[-1] and "Traceback" not in err
    assert not (tmp_path / "c" / "lease.json").exists() and not (tmp_path / "c" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:{port}", ["nothing answers", "RAY_ADDRESS"]),
        ("no.such.host.invalid:6379", ["no host is called", "no.such.host.invalid"]),
        ("elsewhere", ["elsewhere"]),
        ("http://127.0.0.1:8265", ["dashboard", "ray job submit", ":6379"]),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_line_soon(monkeypatch, address, parts):
    monkeypatch.setattr(join, "WAIT_FOR_HEAD", 0.5)
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=free_ports(1)[0]))
    start = time.monotonic()
    with pytest.raises(UserError) as refused:
        connect.connect()
    assert time.monotonic() - start < 30
    for part in parts:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_machine_too_busy_for_ray_is_told_and_a_mistake_stays_one(monkeypatch):
    import ray

    for error, kind in [
        (Exception("The current node timed out during startup."), UserError),
        (TypeError("init() got an unexpected keyword"), TypeError),
    ]:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(ray, "init", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(kind, match=r"timed out|unexpected keyword"):
            connect.connect()


def test_the_number_of_gpus_to_wait_for_is_a_number(monkeypatch):
    monkeypatch.setenv(join.GPUS, "six")
    with pytest.raises(UserError, match="DUSKFUSE_GPUS is 'six'"):
        join.wait_for_gpus(console.log_progress)


def test_gpus_are_asked_for_until_they_are_there(monkeypatch, capfd):
    import ray
    import ray.autoscaler.sdk

    counts, asked = iter([0, 0, 4, 6]), []
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(next(counts))})
    monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", lambda bundles: asked.append(len(bundles)))
    monkeypatch.setattr(join.time, "sleep", lambda seconds: None)
    monkeypatch.setenv(join.GPUS, "6")
    join.wait_for_gpus(console.log_progress)
    assert asked == [6, 6, 0]  # once more when some had come, and taken back at the end
    assert "waiting for GPUs: 4 of 6" in capfd.readouterr().err


def test_the_revision_without_a_repository(tmp_path, monkeypatch):
    """A copy knows its commit from DUSKFUSE_REVISION as long as its files are those it was said of."""
    for name in provenance.PACKAGES_HASHED:
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def revision(**environment: str) -> str:
        code = "from workflows.provenance import revision; print(revision())"
        environment = os.environ | environment
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    told = {provenance.REVISION_VARIABLE: f"abc@{provenance.source_fingerprint()}"}
    assert revision(**told) == "abc"
    assert revision() == f"sources-{provenance.source_fingerprint()}"
    with open(tmp_path / "fusion" / "seeds.py", "a") as file:
        file.write("# changed\n")
    assert revision(**told).startswith("sources-") and provenance.source_fingerprint() not in revision(**told)
