"""Threads that work side by side, each of them on one thread of torch: no barrier inside an operation."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def processors() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """`count` threads of this `process`; a fork has none of them. In `own` each thread keeps what it likes."""

    def __init__(self, count: int) -> None:
        self.process = os.getpid()
        self.own = threading.local()
        started = threading.Barrier(count + 1)

        def begin() -> None:
            torch.get_num_threads()  # at its first call a thread takes the default; later it would undo the next line
            torch.set_num_threads(1)
            started.wait()

        # torch.set_num_threads is of the calling thread, but also what threads begin with that come after
        before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "realtime")
        waiting = [self._pool.submit(begin) for _ in range(count)]
        started.wait()
        for one in waiting:
            one.result()
        torch.set_num_threads(before)

    def run(self, tasks: list[Callable[[], Any]]) -> None:
        """Do all tasks, in any order; raises what the first failing one raised, once all have ended."""
        waiting = [self._pool.submit(_inference, task) for task in tasks]
        errors = [one.exception() for one in waiting]
        for error in errors:
            if error is not None:
                raise error


def _inference(task: Callable[[], Any]) -> None:
    with torch.inference_mode():  # which is of a thread, too
        task()
