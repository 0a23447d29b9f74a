"""Frozen dataclasses to JSON and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml

from fusion.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Return the dataclass as nested dicts, lists and plain values, ready for JSON.

    No class names are written: what is kept in checkpoints, settings of runs and fingerprints stays as it is when a
    class is renamed, and recipe files name settings alone. See `from_dict` for how unions are told apart.
    """
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(cls: type[T], data: dict[str, Any], path: str = "config") -> T:
    """Build the dataclass `cls` from what `to_dict` made; settings that are absent get their defaults.

    A field that may hold one of several dataclasses gets the one whose field names differ least from those in `data`
    (the first in the type hint on a tie). `path` is the path of settings that messages begin with.

    Raises UserError: unknown or missing fields, wrong types, and what the dataclass itself refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a table of settings for {cls.__name__}, found {data!r}")
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise UserError(f"{path}.{unknown[0]}: {cls.__name__} has no such setting; it has {', '.join(fields)}")
    values = {name: _parse_value(hints[name], data[name], f"{path}.{name}") for name in fields if name in data}
    for name, field in fields.items():
        if name not in data and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{path}.{name}: missing, and {cls.__name__} has no default for it")
    return cls(**values)


def from_yaml(text: str) -> Any:
    """Read plain values from YAML or JSON. 1e-4 is a number, as in YAML 1.2 (PyYAML alone takes it for text).

    Raises yaml.YAMLError.
    """

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))
    return yaml.load(text, Loader)  # a SafeLoader: plain values only


def fingerprint(value: Any) -> str:
    """Return the sha256 of the canonical JSON of a dataclass or JSON value: equal settings, equal fingerprint."""
    plain = to_dict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parse_value(hint: Any, value: Any, path: str) -> Any:
    """Return the JSON value as the type of the hint: a plain type, a union, a tuple or a dataclass."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _parse_union(typing.get_args(hint), value, path)
    if typing.get_origin(hint) is tuple:
        return _parse_tuple(typing.get_args(hint), value, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and (type(value) is not hint):
        raise UserError(f"{path}: expected {hint.__name__}, found {value!r}")
    return value


def _parse_union(members: Sequence[Any], value: Any, path: str) -> Any:
    """Return the value as one of the member types: the nearest dataclass for a table, else the first that fits."""
    if value is None and type(None) in members:
        return None
    candidates = [member for member in members if member is not type(None)]
    if isinstance(value, dict) and all(dataclasses.is_dataclass(candidate) for candidate in candidates):
        return from_dict(min(candidates, key=lambda candidate: _field_mismatch(candidate, value)), value, path)
    for candidate in candidates[:-1]:
        try:
            return _parse_value(candidate, value, path)
        except UserError:
            continue
    return _parse_value(candidates[-1], value, path)


def _parse_tuple(items: Sequence[Any], value: Any, path: str) -> tuple[Any, ...]:
    """Return the list as a tuple; `items` are the types of its items, or one type and Ellipsis."""
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{path}: expected a list, found {value!r}")
    hints = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
    if len(hints) != len(value):
        raise UserError(f"{path}: expected {len(hints)} values, found {len(value)}")
    return tuple(
        _parse_value(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _field_mismatch(cls: type[DataclassInstance], data: dict[str, Any]) -> int:
    """Count the settings that only one of `data` and the dataclass has."""
    return len({field.name for field in dataclasses.fields(cls)} ^ set(data))
