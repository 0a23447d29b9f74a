"""Class names: what data sets call differently, under one name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fusion.errors import UserError

# What the public data sets call the same things (FLIR ADAS, M3FD, LLVIP, MSRS, DroneVehicle, KAIST), in lower case.
ALIASES = {
    "people": "person",
    "pedestrian": "person",
    "bike": "bicycle",
    "feright car": "freight car",
    "feright_car": "freight car",
    "motor": "motorcycle",
    "motorbike": "motorcycle",
}


def standard_name(name: str, class_aliases: Mapping[str, str] | None = None) -> str:
    """A class name as we compare it: lower case, and what data sets call differently under one name."""
    plain = " ".join(name.strip().lower().split())
    return (ALIASES if class_aliases is None else class_aliases).get(plain, plain)


def class_list(found: Iterable[str], class_aliases: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The standard names among `found`, each once, in order of the alphabet."""
    return tuple(sorted({standard_name(name, class_aliases) for name in found}))


def parse_aliases(text: str) -> dict[str, str]:
    """A table of names out of "people=person,van=car", beside ALIASES. UserError: not of that form, or a circle.

    Names are followed to the end: with person=human, "people" is "human" too.
    """
    table = dict(ALIASES)
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        ours, equals, theirs = (" ".join(word.lower().split()) for word in part.partition("="))
        if not (equals and ours and theirs):
            raise UserError(f"--same {part!r} is not of the form NAME=NAME, for example people=person,van=car")
        if ours != theirs:
            table[ours] = theirs
    for name in list(table):
        seen = {name}
        while table[name] in table:
            if table[name] in seen:
                raise UserError(f"--same: {name!r} goes round in a circle")
            seen.add(table[name])
            table[name] = table[table[name]]
    return table
