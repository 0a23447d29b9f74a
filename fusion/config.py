"""Frozen dataclasses to JSON and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from typing import Any, TypeVar

import yaml

from fusion.errors import UserError

T = TypeVar("T")
EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dicts, lists and plain values, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], data: dict[str, Any], where: str = "config") -> T:
    """Build the dataclass `cls` from what `to_dict` made. Unknown or missing fields and wrong types: UserError."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a table of settings for {cls.__name__}, found {data!r}")
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise UserError(f"{where}.{unknown[0]}: {cls.__name__} has no such setting; it has {', '.join(fields)}")
    values = {name: _parse_value(hints[name], data[name], f"{where}.{name}") for name in fields if name in data}
    for name, field in fields.items():
        if name not in data and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}.{name}: missing, and {cls.__name__} has no default for it")
    return cls(**values)


def from_yaml(text: str) -> Any:
    """Plain values out of YAML, or JSON. 1e-4 is a number, as in YAML 1.2 (PyYAML alone takes it for text).

    Raises yaml.YAMLError.
    """

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))
    return yaml.load(text, Loader)  # a SafeLoader: plain values only


def _parse_value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        candidates = [a for a in arguments if a is not type(None)]
        if isinstance(value, dict) and all(dataclasses.is_dataclass(a) for a in candidates):
            return from_dict(min(candidates, key=lambda a: _field_mismatch(a, value)), value, where)
        for candidate in candidates[:-1]:
            try:
                return _parse_value(candidate, value, where)
            except UserError:
                continue
        return _parse_value(candidates[-1], value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list, found {value!r}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise UserError(f"{where}: expected {len(kinds)} values, found {len(value)}")
        return tuple(
            _parse_value(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and (type(value) is not hint):
        raise UserError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def _field_mismatch(cls: type, data: dict[str, Any]) -> int:
    """How many settings `data` and the dataclass do not share: of several classes, it was made from the nearest."""
    return len({field.name for field in dataclasses.fields(cls)} ^ set(data))


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of a dataclass or JSON value: equal settings, equal fingerprint."""
    plain = to_dict(value) if dataclasses.is_dataclass(value) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
