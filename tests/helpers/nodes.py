"""A Ray cluster of several nodes on this machine, each in its own process group, to be killed one by one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.helpers.jobs import CHECKOUT, end, free_ports, is_ready, start_head

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",  # Ray is polite: at its 15 others on the machine would decide how long a test takes
}
TRIES = 8
PATIENCE = 1200  # seconds; a machine shared by many is slow to start processes


class Nodes:
    """A head, and nodes that are added: `with Nodes(cpus=3) as nodes: second = nodes.add(cpus=3)`.

    `environment` is for everything that runs there, such as the address of a store.
    """

    def __init__(self, cpus: int, environment: dict[str, str] | None = None) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = kept | ENVIRONMENT | (environment or {}) | {"PYTHONPATH": str(CHECKOUT)}
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # paths of sockets must be short
        self.running: list[subprocess.Popen] = []
        self.started = 0
        folder = self.folder / "head"
        folder.mkdir()
        head, gcs, _ = start_head(str(folder), cpus, self.environment, TRIES)
        self.running.append(head)
        self.address = f"127.0.0.1:{gcs}"

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.running):
            end(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def head(self) -> subprocess.Popen:
        return self.running[0]

    def add(self, cpus: int) -> subprocess.Popen:
        """Another node; returns when it is part of the cluster. A raylet ends where its agents take over 15 s."""
        before = len(self.alive())
        for _ in range(TRIES):
            self.started += 1
            (agent,) = free_ports(1)
            command = [*RAY, "start", "--address", self.address, "--num-cpus", str(cpus), "--block"]
            command += ["--temp-dir", str(self.folder / f"n{self.started}"), "--object-store-memory", "200000000"]
            command += ["--dashboard-agent-listen-port", str(agent), "--min-worker-port", "0", "--max-worker-port", "0"]
            log = self.folder / f"log{self.started}"
            with open(log, "w") as file:
                node = subprocess.Popen(command, env=self.environment, stdout=file, stderr=file, start_new_session=True)
            if is_ready(node, agent, str(log)) and self.counts(before + 1):
                self.running.append(node)
                return node
            end(node)
        raise RuntimeError(f"no node started in {TRIES} tries:\n{log.read_text()[-2000:]}")

    def kill(self, node: subprocess.Popen) -> None:
        """All of a node at once, as when its machine goes."""
        end(node)
        self.running.remove(node)

    def alive(self) -> list[str]:
        """The ids of the nodes that the cluster thinks alive, the oldest first."""
        from ray._raylet import GcsClient

        found = GcsClient(address=self.address).get_all_node_info(timeout=30).values()
        nodes = sorted((node for node in found if node.state == 0), key=lambda node: node.start_time_ms)
        return [node.node_id.hex() for node in nodes]

    def counts(self, number: int, seconds: float = 60) -> bool:
        """Whether the cluster has so many nodes, soon."""
        limit = time.monotonic() + seconds
        while len(self.alive()) != number:
            if time.monotonic() > limit:
                return False
            time.sleep(0.5)
        return True

    def give_notice(self, node: str, seconds: int) -> None:
        """Tell the cluster that a node, by its id, will be taken away: what an autoscaler does of a spot notice."""
        words = ["--address", self.address, "--node-id", node, "--deadline-remaining-seconds", str(seconds)]
        words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        subprocess.run([*RAY, "drain-node", *words], env=self.environment, check=True, capture_output=True)

    def workers(self, node: subprocess.Popen) -> list[psutil.Process]:
        """The training workers on a node."""
        return [child for child in _children(node.pid) if _named(child, "RayTrainWorker")]


def _children(process: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return


def _named(process: psutil.Process, name: str) -> bool:
    try:
        return name in " ".join(process.cmdline())
    except psutil.Error:
        return False


class Job:
    """A `duskfuse` command whose lines are read while it runs."""

    def __init__(self, nodes: Nodes, folder: Path, *words: object) -> None:
        self.log = folder / f"job-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "workflows", *map(str, words)]
        environment = nodes.environment | {"RAY_ADDRESS": nodes.address}
        with open(self.log, "w") as file:
            self.process = subprocess.Popen(
                command, env=environment, cwd=CHECKOUT, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def verdict(self) -> str:
        """The one line of its own that it ends with. What workers print may reach the driver still later."""
        (line,) = [line for line in self.text.splitlines() if line.startswith("duskfuse")]
        return line

    def until(self, ready: Callable[[], object], what: str, seconds: float = PATIENCE) -> float:
        """Wait while the job runs; returns the seconds it took."""
        begin = time.monotonic()
        while not ready():
            assert self.process.poll() is None, f"ended before {what}:\n{self.text[-3000:]}"
            assert time.monotonic() - begin < seconds, f"not {what} in {seconds} s:\n{self.text[-3000:]}"
            time.sleep(0.1)
        return time.monotonic() - begin

    def says(self, text: str, times: int = 1, seconds: float = PATIENCE) -> float:
        """Wait until it has said a text so often; returns the seconds it took."""
        return self.until(lambda: self.text.count(text) >= times, text, seconds)

    def ends(self, code: int = 0, seconds: float = PATIENCE) -> None:
        self.process.wait(timeout=seconds)
        assert self.process.returncode == code, self.text[-3000:]

    def signal(self, number: int = signal.SIGKILL) -> None:
        """To the driver alone."""
        self.process.send_signal(number)
