"""Long tests of a corpus job that is stopped: the driver, a worker, a node; always the same bytes in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.jobs import duskfuse, end

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# two frames a second or so: slow enough to be stopped in the middle
WORDS = ["corpus", "--pairs", "scenes:64:480x360:3", "--preset", "noise2,haze2,stripes2", "--out", "corpus"]
WORDS += ["--shard-samples", 12, "--seed", 5]
SHARDS = 18  # 64 pairs in three splits, four pairs a shard


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "corpus" / "shards").glob("[0-9]*.parquet"))


def contents(folder: Path) -> dict[str, bytes]:
    root = folder / "corpus"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def wait_for(job: subprocess.Popen, ready, seconds: float = 240) -> None:
    deadline = time.time() + seconds
    while not ready():
        assert job.poll() is None, job.stderr.read()
        assert time.time() < deadline, "the job makes no progress"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    job = duskfuse(*WORDS, cwd=folder)
    assert job.wait(timeout=400) == 0, job.stderr.read()
    assert len(shards(folder)) == SHARDS
    return contents(folder)


def test_a_driver_killed_again_and_again(undisturbed, tmp_path):
    """At the claim, early, late, and once more after the last shard but one: the rest is built, nothing twice."""
    done: dict[Path, int] = {}
    for count in (None, 1, 6, SHARDS - 1):
        job = duskfuse(*WORDS, cwd=tmp_path)
        if count is None:
            wait_for(job, lambda: (tmp_path / "corpus" / "plan.json").exists())
        else:
            wait_for(job, lambda count=count: len(shards(tmp_path)) >= count)
        end(job)
        assert not (tmp_path / "corpus" / "manifest.json").exists()
        records = {path.stem for path in (tmp_path / "corpus" / "records").glob("[0-9]*.json")}
        done |= {path: path.stat().st_mtime_ns for path in shards(tmp_path) if path.stem in records}
    assert 6 <= len(done) <= SHARDS
    last = duskfuse(*WORDS, cwd=tmp_path)
    assert last.wait(timeout=400) == 0, last.stderr.read()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    left = {name for name in contents(tmp_path) if ".part" in name}  # of files that were being written when killed
    assert {n: d for n, d in contents(tmp_path).items() if n not in left} == undisturbed


def test_killed_workers(undisturbed, tmp_path):
    """Ray's processes that build shards are killed, one after the other: their shards are built by others."""
    job = duskfuse(*WORDS, cwd=tmp_path)
    killed = set()
    for count in (1, 4, 8):
        wait_for(job, lambda count=count: len(shards(tmp_path)) >= count)
        for process in psutil.Process(job.pid).children(recursive=True):
            try:
                if "ray::unit_of_work" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.add(process.pid)
                    break
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
    assert job.wait(timeout=400) == 0, job.stderr.read()
    assert killed
    assert {n: d for n, d in contents(tmp_path).items() if ".part" not in n} == undisturbed


def test_a_second_job_is_told_who_writes(tmp_path):
    first = duskfuse(*WORDS, cwd=tmp_path)
    wait_for(first, lambda: (tmp_path / "corpus" / "lease.json").exists())
    second = duskfuse(*WORDS, cwd=tmp_path)
    _, err = second.communicate(timeout=120)
    end(first)
    assert second.returncode == 2
    assert f"is being written by process {first.pid} on " in err.strip().splitlines()[-1]


def test_two_nodes_and_one_of_them_dies(undisturbed, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        env = os.environ | {"RAY_ADDRESS": cluster.address}
        job = duskfuse(*WORDS, cwd=tmp_path, env=env)
        wait_for(job, lambda: len(shards(tmp_path)) >= 4)
        cluster.remove_node(node, allow_graceful=False)
        assert job.wait(timeout=500) == 0, job.stderr.read()
    finally:
        cluster.shutdown()
    assert {n: d for n, d in contents(tmp_path).items() if ".part" not in n} == undisturbed
