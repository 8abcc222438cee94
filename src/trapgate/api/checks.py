"""Checks of what a program gives to the API: a wrong argument is refused where it is given, not where it is used."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection
from datetime import datetime

from trapgate.api.errors import InvalidArgument, InvalidDeadline

_VECTORS = range(256)


def whole(value: object) -> int | None:
    """`value` as an int: whole floats such as 1e6 and the numbers of other packages are taken too. None: no number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def deadline(name: str, value: object) -> int | None:
    """A number of instructions or cycles above 0; None stays None. Raises InvalidDeadline."""
    number = whole(value)
    if value is not None and (number is None or number <= 0):
        raise InvalidDeadline(name, "a whole number", value)
    return number


def seconds(value: object) -> float | None:
    """A time above 0; None stays None. Raises InvalidDeadline."""
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidDeadline("seconds", "a number", value)
    return value


def number(name: str, value: object, limit: int, what: str) -> int:
    """A whole number from 0 up to but not including `limit`; `what` calls it in the message. Raises InvalidArgument."""
    result = whole(value)
    if result is None or not 0 <= result < limit:
        raise InvalidArgument(f"{what} for {name}", repr(value), f"correct {name}")
    return result


def address(name: str, value: object) -> int:
    """A linear address. Raises InvalidArgument."""
    return number(name, value, 1 << 64, "an address of at most 64 bits, or a symbol's name,")


def places(name: str, value: object, limit: int, what: str) -> range:
    """A number below `limit`, or a range of such numbers without gaps. Raises InvalidArgument."""
    if isinstance(value, range):
        if len(value) and value.step == 1 and value.start >= 0 and value.stop <= limit:
            return value
    elif (first := whole(value)) is not None and 0 <= first < limit:
        return range(first, first + 1)
    raise InvalidArgument(f"{what}, or a range of them without gaps, for {name}", repr(value), f"correct {name}")


def vectors(name: str, value: object) -> frozenset[int]:
    """One vector or several. Raises InvalidArgument."""
    given = value if isinstance(value, Collection) and not isinstance(value, str | bytes) else (value,)
    numbers = [whole(vector) for vector in given]
    if not numbers or not all(vector in _VECTORS for vector in numbers):
        raise InvalidArgument(
            f"a vector from 0 to 255, or several of them, for {name}", repr(value), "see trapgate.arch.vectors"
        )
    return frozenset(vector for vector in numbers if vector is not None)


def function(name: str, value: object) -> None:
    """Something that can be called. Raises InvalidArgument."""
    if not callable(value):
        raise InvalidArgument(f"a function for {name}", repr(value), "give one that takes the event")


def pattern(value: object) -> None:
    """What can be looked for on the console. Raises InvalidArgument."""
    text = value.pattern if isinstance(value, re.Pattern) else value
    if not isinstance(text, str) or not text:
        raise InvalidArgument(
            "a text, or a compiled pattern of text, to look for", repr(value), "use until_address= for an address"
        )


def words(value: object) -> tuple[str, ...] | None:
    """A guest's command. Raises InvalidArgument."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(word, str) for word in value):
        raise InvalidArgument("a list of words for command=", repr(value), "write ['ls', '-l'], or use shlex.split()")
    return tuple(value)


def time(value: object) -> None:
    """A date for the RTC. Raises InvalidArgument."""
    if value is not None and not isinstance(value, datetime):
        raise InvalidArgument("a datetime for start_time=", repr(value), "see datetime.datetime")


def device(value: object, *methods: str) -> None:
    """An object with the methods of a device. Raises InvalidArgument."""
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        got = f"the class {value.__name__}" if isinstance(value, type) else f"one of {type(value).__name__}"
        raise InvalidArgument(f"a device with the methods {' and '.join(methods)}", got, "give an object that has both")
