"""One local Ray for each module that asks for it."""

import os

import pytest

import workflows  # noqa: F401  sets Ray's environment before ray is imported


@pytest.fixture(scope="module")
def local_ray():
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="error", log_to_driver=True)
    yield ray
    ray.shutdown()


@pytest.fixture
def command(capfd):
    """Run a `duskfuse` command in this process: (exit code, stdout, stderr)."""
    from workflows.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run
