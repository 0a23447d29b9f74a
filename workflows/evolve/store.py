from __future__ import annotations

import json

from fusion import storage
from fusion.errors import UserError
from fusion.training import evolution
from workflows.fuse.methods import load_network
from workflows.legacy import upgrade_evolution


def write_labels(folder: str, text: str) -> None:
    """FOLDER/labels.csv. UserError when a training of other labels has begun there."""

    path = storage.join(folder, "labels.csv")
    if storage.exists(storage.join(folder, "training", "settings.json")) and storage.read_bytes(path).decode() != text:
        raise UserError(
            f"{folder} was begun with another library and is not finished. Run that command again first; "
            "or delete the folder, and the evolution begins with this library."
        )
    storage.write_text(path, text)


def image_path(out: str, method: str, key: str) -> str:

    return storage.join(out, "library", method, f"{key}.png")


def latest(out: str) -> tuple[int, dict]:
    """The number of the last finished evolution, and what it says of itself."""

    number = 0
    while storage.exists(storage.join(out, "evolutions", str(number + 1), "evolution.json")):
        number += 1
    return number, read(out, number) if number else {}


def read(out: str, number: int) -> dict:

    return upgrade_evolution(
        json.loads(storage.read_bytes(storage.join(out, "evolutions", str(number), "evolution.json")))
    )


def read_labels(out: str, number: int) -> dict:

    if number == 0:
        return {}
    path = storage.join(out, "evolutions", str(number), "labels.csv")
    return evolution.from_csv(storage.read_bytes(path).decode(), path)


def spec_of(out: str, name: str) -> dict:

    return json.loads(storage.read_bytes(storage.join(out, "library", name, "method.json")))


def network_spec(out: str, number: int) -> dict:
    """The network of an evolution as a method."""

    where = storage.absolute(storage.join(out, "evolutions", str(number), "training", "checkpoint"))
    return {"kind": "checkpoint", "where": where, "identity": load_network(where)[2]}
