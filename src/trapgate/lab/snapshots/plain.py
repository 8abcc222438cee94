"""Plain values as bytes, with their types: None, booleans, integers, strings, bytes; lists, tuples, dicts of them.

A value is one letter, then what follows from it; lengths and integers are written seven bits a byte, the low ones
first, with bit 7 set where another byte follows. Nothing that is read is carried out.
"""

from __future__ import annotations

from typing import Any

_NONE, _TRUE, _FALSE, _INTEGER, _NEGATIVE, _TEXT, _BYTES, _LIST, _TUPLE, _DICT = b"NTFI-SBLUD"
#: Values inside each other at most: far more than any device has.
DEEPEST = 50


class NotPlain(TypeError):
    """A value of another type: its owner's snapshot is at fault."""


class Malformed(ValueError):
    """Bytes that no value was written as."""


def encode(value: Any) -> bytes:
    """`value` as bytes. Raises NotPlain."""
    out = bytearray()
    _encode(value, out)
    return bytes(out)


def _length(value: int, out: bytearray) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _encode(value: Any, out: bytearray) -> None:
    if value is None:
        out.append(_NONE)
    elif value is True or value is False:
        out.append(_TRUE if value else _FALSE)
    elif type(value) is int:
        out.append(_INTEGER if value >= 0 else _NEGATIVE)
        _length(abs(value), out)
    elif type(value) is str:
        data = value.encode("utf-8", "surrogateescape")
        out.append(_TEXT)
        _length(len(data), out)
        out += data
    elif type(value) in (bytes, bytearray):
        out.append(_BYTES)
        _length(len(value), out)
        out += value
    elif type(value) in (list, tuple):
        out.append(_LIST if type(value) is list else _TUPLE)
        _length(len(value), out)
        for item in value:
            _encode(item, out)
    elif isinstance(value, dict):
        out.append(_DICT)
        _length(len(value), out)
        for key, item in value.items():
            _encode(key, out)
            _encode(item, out)
    else:
        raise NotPlain(f"wanted a plain value in a snapshot, got a {type(value).__name__}: {value!r:.80}")


def decode(data: bytes) -> Any:
    """The value that `data` is, and nothing behind it. Raises Malformed."""
    reader = _Reader(data)
    try:
        value = reader.value(0)
    except (IndexError, UnicodeDecodeError, TypeError) as error:
        raise Malformed(str(error)) from error
    if reader.position != len(data):
        raise Malformed("bytes behind the value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def _number(self) -> int:
        data, value, shift = self._data, 0, 0
        while True:
            byte = data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _take(self) -> bytes:
        length = self._number()
        start, end = self.position, self.position + length
        if end > len(self._data):
            raise Malformed("a length beyond the end")
        self.position = end
        return self._data[start:end]

    def value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise Malformed("values inside each other without end")
        letter = self._data[self.position]
        self.position += 1
        if letter == _INTEGER:
            return self._number()
        if letter == _NEGATIVE:
            return -self._number()
        if letter == _BYTES:
            return self._take()
        if letter == _TEXT:
            return self._take().decode("utf-8", "surrogateescape")
        if letter in (_LIST, _TUPLE):
            items = [self.value(depth + 1) for _ in range(self._number())]
            return items if letter == _LIST else tuple(items)
        if letter == _DICT:
            return {self.value(depth + 1): self.value(depth + 1) for _ in range(self._number())}
        if letter == _NONE:
            return None
        if letter in (_TRUE, _FALSE):
            return letter == _TRUE
        raise Malformed(f"no type has the letter {letter:#x}")
