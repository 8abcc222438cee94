"""Options as plain values, and back: for files that begin with what a run is made of."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A dataclass of options as a dict; paths as absolute ones, tuples as lists."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """Options of class `kind`, from what `to_plain` gave. Raises ValueError for anything else."""
    made: T = _value(kind, value)
    return made


def _value(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(one for one in arguments if one is not type(None)), value)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"wanted one of {arguments}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"wanted a list, got {value!r}")
        if arguments[1:] == (...,):
            return tuple(_value(arguments[0], item) for item in value)
        return tuple(_value(one, item) for one, item in zip(arguments, value, strict=True))
    if is_dataclass(kind):
        return _options(kind, value)
    if kind is Path:
        return Path(_checked(str, value))
    return _checked(kind, value)


def _checked(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"wanted {kind.__name__}, got {value!r}")
    return value


def _options(kind: Any, value: Any) -> Any:
    hints = typing.get_type_hints(kind)
    names = {field.name for field in fields(kind)}
    if not isinstance(value, dict) or set(value) - names:
        raise ValueError(f"wanted the options of {kind.__name__}, got {value!r}")
    return kind(**{name: _value(hints[name], item) for name, item in value.items()})
