"""A local Ray that all modules share, and commands that run in this process.

Ray is imported where it is used: `workflows`, imported here at the top, sets its environment before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.helpers.s3_server import Store
from workflows.cli import main
from workflows.cluster.connect import WORKER_RUNTIME_ENV


@pytest.fixture(scope="session")
def no_ray_address() -> Iterator[None]:
    """Jobs start a Ray on this machine, whatever cluster the tests run beside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_num_workers_soft_limit", "12")  # fewer idle processes are started, which cost most
        yield


@pytest.fixture(scope="session")
def ray_ends() -> Iterator[None]:
    """End Ray with the session."""
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="module")
def local_ray(s3: Store, no_ray_address: None, ray_ends: None) -> None:
    """Ray with four CPUs, started as a job starts it, by the first module that asks; a test may end it.

    The store comes first: Ray's workers have the environment, with the store's address, of the time when it starts.
    """
    import ray

    if not ray.is_initialized():
        options = {"include_dashboard": True, "logging_level": "error", "runtime_env": WORKER_RUNTIME_ENV}
        ray.init(address="local", num_cpus=4, **options)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a `duskfuse` command in this process: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run
