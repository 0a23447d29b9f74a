"""Class names: what data sets call differently, under one name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fusion.errors import UserError

# What the public data sets call the same things (FLIR ADAS, M3FD, LLVIP, MSRS, DroneVehicle, KAIST), in lower case.
SAME = {
    "people": "person",
    "pedestrian": "person",
    "bike": "bicycle",
    "feright car": "freight car",
    "feright_car": "freight car",
    "motor": "motorcycle",
    "motorbike": "motorcycle",
}


def standard_name(name: str, same: Mapping[str, str] | None = None) -> str:
    """A class name as we compare it: lower case, and what data sets call differently under one name."""
    plain = " ".join(name.strip().lower().split())
    return (SAME if same is None else same).get(plain, plain)


def class_list(found: Iterable[str], same: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The standard names among `found`, each once, in order of the alphabet."""
    return tuple(sorted({standard_name(name, same) for name in found}))


def parse_same(text: str) -> dict[str, str]:
    """ "people=person,van=car" -> a table of names. UserError: not of that form."""
    table = dict(SAME)
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        ours, equals, theirs = part.partition("=")
        if not (equals and ours.strip() and theirs.strip()):
            raise UserError(f"--same {part!r} is not of the form NAME=NAME, for example people=person,van=car")
        table[ours.strip().lower()] = theirs.strip().lower()
    return table
