"""Run a function, or actors that hold a model, over many tasks on Ray. Tasks and results are dataclasses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from fusion.config import from_dict
from fusion.errors import UserError
from workflows.cluster.connect import resources

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


@dataclass(frozen=True)
class ActorPool:
    """How many actors run, and what each takes of the cluster."""

    size: int
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class TaskError:
    """A UserError of a task. It travels as a result, as Ray wraps exceptions into its own."""

    message: str


def in_parallel(tasks: Sequence[T], work: Callable[[T], Sequence[R]]) -> Iterator[R]:
    """Call `work`, a function of an importable module, on every task in Ray tasks; yield the results as they come.

    A UserError in a task is raised here, as it is. Running tasks are cancelled when the caller stops.
    """
    # Plain tasks: with two or three for every core waiting, no core waits. Ray Data leaves a gap between tasks, which
    # cost a third of the time (benchmarks/corpus.py).
    import ray

    remote: Any = ray.remote(num_cpus=1, max_retries=5, scheduling_strategy="SPREAD")(run_task)
    waiting = iter(tasks)
    running: set[Any] = set()
    try:
        while True:
            free = max(4, int(2.5 * resources()[0])) - len(running)  # asked every time: clusters grow and shrink
            running |= {remote.remote(work, task) for task in itertools.islice(waiting, max(free, 0))}
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                running.remove(reference)
                outcome = ray.get(reference)
                if isinstance(outcome, TaskError):
                    raise UserError(outcome.message)
                yield from outcome
    finally:
        for reference in running:
            ray.cancel(reference)


def in_actors(
    tasks: Sequence[T],
    actor: Callable[[S], Callable[[T], Sequence[R]]],
    settings: S,
    results: tuple[type[R], ...],
    pool: ActorPool,
) -> Iterator[R]:
    """Call `actor(settings)`, made once in every actor of Ray Data, on every task; yield the results as they come.

    `actor` is a class of an importable module; `results` are the classes of what it returns. Tasks and results
    travel as JSON. A UserError in an actor is raised here, as it is.
    """
    import ray.data
    from ray.data import ActorPoolStrategy

    dataset = ray.data.from_items([{"row": _encode(task)} for task in tasks], override_num_blocks=len(tasks))
    kinds = tuple({type(task) for task in tasks})
    rows = dataset.map_batches(
        _RayActor,
        batch_size=None,
        compute=ActorPoolStrategy(size=min(pool.size, len(tasks))),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        fn_constructor_kwargs={"actor": actor, "settings": settings, "kinds": kinds},
    )
    for row in rows.iter_rows():
        result = _decode(row["row"], (*results, TaskError))
        if isinstance(result, TaskError):
            raise UserError(result.message)
        yield result


def run_task(work: Callable[[T], Sequence[R]], task: T) -> Sequence[R] | TaskError:
    """Run `work` on a task, in a process of Ray."""
    try:
        return work(task)
    except UserError as error:
        return TaskError(str(error))


class _RayActor:
    """An actor as Ray Data calls it: a batch of JSON rows in, one out."""

    def __init__(self, actor: Callable[[Any], Callable[[Any], Sequence[Any]]], settings: Any, kinds: tuple[type, ...]):
        self.work = actor(settings)
        self.kinds = kinds

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        outcomes = [run_task(self.work, _decode(str(row), self.kinds)) for row in batch["row"]]
        parts = [[outcome] if isinstance(outcome, TaskError) else outcome for outcome in outcomes]
        return {"row": [_encode(result) for part in parts for result in part]}


def _encode(value: Any) -> str:
    """Write a dataclass as JSON, with the name of its class."""
    return json.dumps([type(value).__name__, value if isinstance(value, dict) else asdict(value)])


def _decode(row: str, kinds: tuple[type, ...]) -> Any:
    """Read what `_encode` wrote of one of these classes."""
    name, data = json.loads(row)
    kind = {one.__name__: one for one in kinds}[name]
    return data if kind is dict else from_dict(kind, data, name)
