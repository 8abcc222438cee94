"""Where addresses come from, so that one look into the fast table serves several accesses.

While a region runs, nothing changes the fast tables. So an access that lies on a page which was looked up before, on
the way to it, needs no look of its own; and the accesses of a block that differ from one value by constants can be
looked up at the first of them, all at once. If they then turn out not to lie on one page, the region is left there, and
the cold tier carries them out one by one.

A value's origin is a key, equal for equal values, and a constant that is added to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from trapgate.isa.ir import Emitter, Loop, Value

Key = tuple[object, ...]
#: Accesses further apart than this many bytes are looked up one by one.
REACH = 512


class Origin(NamedTuple):
    """`key` plus `displacement`."""

    key: Key
    displacement: int


class TracingEmitter(Emitter):
    """An emitter that knows the origins of the values that addresses are made of."""

    def __init__(self, declarations: set[str] | None = None) -> None:
        super().__init__(declarations)
        self.origins: dict[str, Origin] = {}
        #: How many conditions and loops the current place is in.
        self.depth = 0

    @contextmanager
    def when(self, condition: Value, likely: bool | None = None) -> Iterator[None]:
        self.depth += 1
        with super().when(condition, likely):
            yield
        self.depth -= 1

    @contextmanager
    def loop(self) -> Iterator[Loop]:
        self.depth += 1
        with super().loop() as loop:
            yield loop
        self.depth -= 1

    def binary(self, operation: str, a: Value, b: Value) -> Value:
        result = super().binary(operation, a, b)
        origin = self.origins.get(a.name)
        if origin is None or operation not in ("add", "sub", "shl"):
            return result
        constant = _constant(b)
        if operation == "add":
            other = self.origins.get(b.name)
            if constant is not None:
                self.origins[result.name] = Origin(origin.key, origin.displacement + constant)
            elif other is not None:
                key = ("+", origin.key, other.key)
                self.origins[result.name] = Origin(key, origin.displacement + other.displacement)
        elif constant is not None:
            if operation == "sub":
                self.origins[result.name] = Origin(origin.key, origin.displacement - constant)
            else:
                self.origins[result.name] = Origin(("<<", origin.key, constant), origin.displacement << constant)
        return result

    def cast(self, operation: str, a: Value, width: int) -> Value:
        result = super().cast(operation, a, width)
        origin = self.origins.get(a.name)
        if origin is not None and operation in ("zext", "trunc"):
            # Sums that wrap around at the narrower width do so at a page's end, where the look-up fails.
            self.origins[result.name] = Origin((operation, a.width, origin.key), origin.displacement)
        return result


def _constant(value: Value) -> int | None:
    text = value.name
    return int(text) if text[0] != "%" and text.lstrip("-").isdigit() else None


class Access(NamedTuple):
    """An access of a block: `size` bytes at its origin."""

    origin: Origin
    size: int
    is_write: bool


@dataclass(slots=True)
class Span:
    """What is looked up at once: bytes from `low` to before `high`, seen from the key."""

    low: int
    high: int
    is_write: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What has been looked up: a span, and what to add to a linear address there to get the host's (i64)."""

    span: Span
    to_host: Value

    def holds(self, access: Access) -> bool:
        """Whether the access lies in it."""
        low = access.origin.displacement
        enough = self.span.is_write or not access.is_write
        return enough and self.span.low <= low and low + access.size <= self.span.high


class Plan:
    """The accesses of one block, in groups."""

    def __init__(self, accesses: list[Access]) -> None:
        self._spans: dict[Key, list[Span]] = {}
        for access in accesses:
            low = access.origin.displacement
            high = low + access.size
            spans = self._spans.setdefault(access.origin.key, [])
            for span in spans:
                if max(high, span.high) - min(low, span.low) <= REACH:
                    span.low, span.high = min(low, span.low), max(high, span.high)
                    span.is_write |= access.is_write
                    break
            else:
                spans.append(Span(low, high, access.is_write))

    def span(self, access: Access) -> Span:
        """What to look up for an access."""
        low = access.origin.displacement
        for span in self._spans.get(access.origin.key, ()):
            if span.low <= low and low + access.size <= span.high:
                return span
        return Span(low, low + access.size, access.is_write)
