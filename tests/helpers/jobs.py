"""Jobs and Ray heads in processes of their own, which tests kill with all of their Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent


def duskfuse(*words: object, **options) -> subprocess.Popen:
    """A job in its own process group, so that all of its Ray can be ended with it."""
    command = [sys.executable, "-m", "workflows", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


def end(process: subprocess.Popen) -> None:
    """SIGKILL to the whole group: as when the machine stops."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@dataclass(frozen=True)
class Head:
    """A Ray head of its own: its address for drivers, its dashboard for `ray job`, the environment that both need."""

    address: str
    dashboard: str
    environment: dict[str, str]

    def duskfuse(self, *words: object, **changes: str) -> subprocess.CompletedProcess:
        """A job as a driver on this machine that joins the cluster; `changes` to the environment."""
        command = [sys.executable, "-m", "workflows", *map(str, words)]
        environment = self.environment | {"RAY_ADDRESS": self.address} | changes
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    def job(self, *words: object, **changes: str) -> subprocess.CompletedProcess:
        """`ray job WORDS`, as people type it in a checkout."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", *map(str, words)]
        environment = self.environment | {"RAY_API_SERVER_ADDRESS": self.dashboard} | changes
        return subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=600)

    def submit(self, module: str, *words: object, options: Sequence[str] = (), **changes: str):
        """`ray job submit --working-dir . -- python -m MODULE WORDS`, with `options` of `submit`."""
        return self.job("submit", "--working-dir", ".", *options, "--", "python", "-m", module, *words, **changes)


@contextlib.contextmanager
def head(token: str | None = None, cpus: int = 4) -> Iterator[Head]:
    """`ray start --head` in its own process group, on free ports and in its own folder; with a token or open."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "disabled" if token is None else "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
    }
    environment |= {} if token is None else {"RAY_AUTH_TOKEN": token}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # for sockets
        process, gcs, dashboard = start_head(folder, cpus, environment)
        try:
            yield Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", environment)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            end(process)


def start_head(folder: str, cpus: int, environment: dict[str, str], tries: int = 3):
    """(process, port of the head, port of its dashboard). Ray gives up after 30 s, which a busy machine may need."""
    while True:
        tries -= 1
        gcs, dashboard, client, agent = free_ports(4)
        ports = {"port": gcs, "dashboard-port": dashboard, "ray-client-server-port": client}
        ports |= {"dashboard-agent-listen-port": agent, "min-worker-port": 0, "max-worker-port": 0}
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--temp-dir", folder]
        command += ["--num-cpus", str(cpus), "--object-store-memory", "200000000"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        log = os.path.join(folder, f"start-{tries}.log")
        with open(log, "w") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        if is_ready(process, agent, log):
            return process, gcs, dashboard
        end(process)
        if not tries:
            raise RuntimeError(f"ray start did not come up:\n{Path(log).read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def is_ready(process: subprocess.Popen, agent: int, log: str, seconds: float = 120) -> bool:
    """Wait until `ray start` says so and the node's agent, which runs jobs, is there. False: it ended, or too late."""
    limit = time.monotonic() + seconds
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < limit:
        if "Ray runtime started" in Path(log).read_text():
            with contextlib.suppress(OSError), direct.open(f"http://127.0.0.1:{agent}/api/local_raylet_healthz"):
                return True
        time.sleep(0.5)
    return False
