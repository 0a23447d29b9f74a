"""Ray: connecting, what there is to use, and errors that come back from it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fusion.errors import UserError

# Ray reads these when it is imported. No usage statistics leave the machine, and token authentication is on only
# where RAY_AUTH_MODE asks for it (a bare ray.init() would turn it on for its own cluster and lock other clients out).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Threads that wait must not spin: workers share their cores with Ray, and a spinning pool then runs many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # the jobs show their own, in their own units
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line twice

if os.environ.get("RAY_ADDRESS", "") in ("", "local"):  # Ray on this machine, which asks for no token, on loopback
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

CHATTY = ("ray.data", "ray.data._internal.execution.streaming_executor", "ray.train")


def connect(crowd: int = 1) -> int:
    """Join the cluster of RAY_ADDRESS (set by `ray job submit`), or start Ray on this machine. Idempotent.

    Ray on this machine counts every CPU `crowd` times, for jobs whose processes mostly wait. Returns how often CPUs
    are counted: 1 in a cluster that was there.
    """
    import ray
    import ray.data

    from workflows import joining

    if ray.is_initialized():
        crowd = 1
    else:
        address = os.environ.get("RAY_ADDRESS", "")
        joins = address not in ("", "local")
        options = {"logging_level": logging.WARNING, "runtime_env": WORKERS}
        say(f"connecting to Ray at {address}" if joins else "starting Ray on this machine")
        crowd = 1 if joins else crowd
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            if joins:
                joining.check_head(address)
                ray.init(address=address, **options)
            else:
                # Ray Train and Tune ask the dashboard which actors live; it listens on this machine only.
                cpus = {"num_cpus": crowd * (os.cpu_count() or 1)} if crowd > 1 else {}
                ray.init(address="local", include_dashboard=True, **cpus, **options)
        except Exception as error:
            if (told := joining.in_words(address, error)) is None:
                raise
            raise told from error
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # ray.init has set its own
        joining.wait_for_gpus(say)
    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    quiet()
    return crowd


def quiet() -> None:
    """Keep Ray's running commentary out of the jobs' own lines, in this process; warnings and errors stay."""
    import ray

    # this one is named after its file
    context = os.path.join(os.path.dirname(ray.__file__), "train/v2/_internal/execution/context.py")
    for name in (*CHATTY, context):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # that its progress bars are off


def in_worker() -> None:
    """In every process that Ray starts for a job: quiet, and with this cluster's address.

    Without it, Ray Train's cleaner of a killed trial asks for "the" Ray of the machine, fails where there are two, and
    what the trial held is never given back (2.60).
    """
    import ray

    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    quiet()


WORKERS = {"worker_process_setup_hook": in_worker}  # the `runtime_env` of a job


def resources() -> tuple[float, int]:
    """(CPUs, GPUs) of the whole cluster."""
    import ray

    total = ray.cluster_resources()
    return float(total.get("CPU", 1)), int(total.get("GPU", 0))


Row = dict[str, Any]


def in_parallel(
    rows: list[Row], work: Callable[[Row], list[Row]] | type, *, make: Row | None = None, **options: Any
) -> Iterator[Row]:
    """Run `work` on every row, one task a row, and yield the rows it returns as they come.

    `work` is a function of an importable module, run in Ray tasks, or a class whose instances are called in actors of
    Ray Data and are made with the arguments `make`. Rows are JSON both ways. A UserError in a task is raised here,
    as it is. `options` go to the task or to `map_batches`. What is under way is cancelled when the caller stops.
    """
    results = _by_actors(rows, work, make or {}, options) if isinstance(work, type) else _by_tasks(rows, work, options)
    for result in results:
        if "user error" in result:
            raise UserError(result["user error"])
        yield result


def _by_tasks(rows: list[Row], work: Callable[[Row], list[Row]], options: Row) -> Iterator[Row]:
    # Plain tasks: with two or three for every core waiting, no core waits. Ray Data leaves a gap between tasks, which
    # cost a third of the time (benchmarks/corpus.py).
    import ray

    task = ray.remote(**({"num_cpus": 1, "max_retries": 5, "scheduling_strategy": "SPREAD"} | options))(unit_of_work)
    waiting = iter(rows)
    running: set = set()
    try:
        while True:
            room = max(4, int(2.5 * resources()[0])) - len(running)  # asked every time: clusters grow and shrink
            running |= {task.remote(work, row) for row in itertools.islice(waiting, max(room, 0))}
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            for found in done:
                running.remove(found)
                yield from ray.get(found)
    finally:
        for left in running:
            ray.cancel(left)


def unit_of_work(work: Callable[[Row], list[Row]], row: Row) -> list[Row]:
    """In a task or an actor. A UserError travels as a row, as Ray wraps exceptions into its own."""
    try:
        return work(row)
    except UserError as error:
        return [{"user error": str(error)}]


def _by_actors(rows: list[Row], work: type, make: Row, options: Row) -> Iterator[Row]:
    import ray.data

    dataset = ray.data.from_items([{"row": json.dumps(row)} for row in rows], override_num_blocks=len(rows))
    options = options | {"fn_constructor_kwargs": {"work": work, "make": make}}
    for result in dataset.map_batches(_Actor, batch_size=None, **options).iter_rows():
        yield json.loads(result["row"])


class _Actor:
    def __init__(self, work: type, make: Row) -> None:
        self.work = work(**make)

    def __call__(self, batch: dict) -> dict:
        results = [result for row in batch["row"] for result in unit_of_work(self.work, json.loads(str(row)))]
        return {"row": [json.dumps(result) for result in results]}


def say(text: str) -> None:
    """A line of progress, on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def user_error_in(error: BaseException) -> UserError | None:
    """The UserError that a remote task raised, however deep Ray wrapped it."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, UserError):
            return UserError(*current.args[:1])
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        failures = getattr(current, "worker_failures", None)
        queue += list(failures.values()) if isinstance(failures, dict) else []
    return None
