"""Jobs in processes of their own, which tests kill with all of their Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def duskfuse(*words: object, **options) -> subprocess.Popen:
    """A job in its own process group, so that all of its Ray can be ended with it."""
    command = [sys.executable, "-m", "workflows.cli", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


def end(process: subprocess.Popen) -> None:
    """SIGKILL to the whole group: as when the machine stops."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
