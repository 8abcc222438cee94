"""What DR0 to DR3 and DR7 ask for (APM vol. 2, 13.1.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

# DR6 (13.1.1.3)
DR6_BD, DR6_BS, DR6_BT = 1 << 13, 1 << 14, 1 << 15
#: L0 to L3 of DR7, which a task switch clears (13.1.1.4).
DR7_LOCAL = 0x55
EXECUTE, WRITE, PORT, READ_WRITE = range(4)
_LENGTHS = (1, 2, 8, 4)
_M64 = (1 << 64) - 1


class Breakpoint(NamedTuple):
    """An enabled breakpoint: its number, R/W field, register, and the first and last byte (linear, or a port)."""

    number: int
    kind: int
    address: int
    first: int
    last: int


def enabled(dr7: int, addresses: Sequence[int]) -> Iterator[Breakpoint]:
    """The enabled breakpoints; `addresses` are DR0 to DR3. Low bits below the length do not count (13.1.1.1)."""
    for i in range(4):
        if dr7 >> 2 * i & 3:
            length = _LENGTHS[dr7 >> 18 + 4 * i & 3]
            first = addresses[i] & ~(length - 1) & _M64
            yield Breakpoint(i, dr7 >> 16 + 4 * i & 3, addresses[i], first, first + length - 1)


def port_hits(dr7: int, addresses: Sequence[int], port: int, size: int) -> int:
    """Bits 3:0 of DR6 for an access to ports; CR4.DE must be set (13.1.1.4)."""
    return sum(
        1 << point.number
        for point in enabled(dr7, addresses)
        if point.kind == PORT and port <= point.last & 0xFFFF and port + size - 1 >= point.first & 0xFFFF
    )
