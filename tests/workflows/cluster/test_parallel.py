"""Tasks and results on their way through actors, without Ray."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fusion.errors import UserError
from workflows.cluster.parallel import TaskError, _decode, _encode, _RayActor


@dataclass(frozen=True)
class Square:
    number: int


@dataclass(frozen=True)
class Word:
    text: str
    parts: tuple[str, ...] = ()


class Worker:
    """Answers a word with itself, and a number with its square; refuses negative ones."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self, task: Square | Word) -> list[Square | Word]:
        if isinstance(task, Word):
            return [Word(self.prefix + task.text, task.parts)]
        if task.number < 0:
            raise UserError("negative")
        return [Square(task.number**2), Square(task.number)]


def test_every_task_and_result_keeps_its_class():
    actor = _RayActor(Worker, "a ", (Square, Word))
    tasks = [Square(3), Word("b", ("c",)), Square(-1)]
    rows = actor({"row": [_encode(task) for task in tasks]})["row"]
    results = [_decode(row, (Square, Word, TaskError)) for row in rows]
    assert results == [Square(9), Square(3), Word("a b", ("c",)), TaskError("negative")]


def test_a_result_of_another_class_is_a_bug():
    with pytest.raises(KeyError, match="Word"):
        _decode(_encode(Word("x")), (Square,))
