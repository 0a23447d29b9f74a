from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from fusion.errors import UserError
from workflows.cluster.connect import resources

JSON = dict[str, Any]


def in_parallel(
    rows: list[JSON], work: Callable[[JSON], list[JSON]] | type, *, make: JSON | None = None, **options: Any
) -> Iterator[JSON]:
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


def _by_tasks(rows: list[JSON], work: Callable[[JSON], list[JSON]], options: JSON) -> Iterator[JSON]:
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


def unit_of_work(work: Callable[[JSON], list[JSON]], row: JSON) -> list[JSON]:
    """In a task or an actor. A UserError travels as a row, as Ray wraps exceptions into its own."""
    try:
        return work(row)
    except UserError as error:
        return [{"user error": str(error)}]


def _by_actors(rows: list[JSON], work: type, make: JSON, options: JSON) -> Iterator[JSON]:
    import ray.data

    dataset = ray.data.from_items([{"row": json.dumps(row)} for row in rows], override_num_blocks=len(rows))
    options = options | {"fn_constructor_kwargs": {"work": work, "make": make}}
    for result in dataset.map_batches(_Actor, batch_size=None, **options).iter_rows():
        yield json.loads(result["row"])


class _Actor:
    def __init__(self, work: type, make: JSON) -> None:
        self.work = work(**make)

    def __call__(self, batch: dict) -> dict:
        results = [result for row in batch["row"] for result in unit_of_work(self.work, json.loads(str(row)))]
        return {"row": [json.dumps(result) for result in results]}
