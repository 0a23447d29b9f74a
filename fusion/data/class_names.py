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
    """Return a class name as compared here: lower case, one space between words, aliases (ALIASES) resolved."""
    plain = " ".join(name.strip().lower().split())
    return (ALIASES if class_aliases is None else class_aliases).get(plain, plain)


def class_list(names: Iterable[str], class_aliases: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the standard names of `names`, each once, in alphabetical order."""
    return tuple(sorted({standard_name(name, class_aliases) for name in names}))


def parse_aliases(text: str) -> dict[str, str]:
    """Parse "people=person,van=car" into a table of names (alias -> class), beside ALIASES.

    Names are followed to the end: with person=human, "people" is "human" too. Raises UserError: another form, a circle.
    """
    table = dict(ALIASES)
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        alias, equals, name = (" ".join(word.lower().split()) for word in part.partition("="))
        if not (equals and alias and name):
            raise UserError(f"--class-aliases {part!r} is not of the form NAME=NAME, for example people=person,van=car")
        if alias != name:
            table[alias] = name
    for alias in list(table):
        seen = {alias}
        while table[alias] in table:
            if table[alias] in seen:
                raise UserError(f"--class-aliases: {alias!r} goes round in a circle")
            seen.add(table[alias])
            table[alias] = table[table[alias]]
    return table
