"""SSE to SSE3, SSE4a and MMX instructions (APM vol. 4, 26568, and vol. 5, 26569)."""

from trapgate.isa.simd import (
    checked,
    compare,
    conversion,
    floating,
    integer,
    mmx,
    moves,
    shuffle,
    sse4a,
    state,
    state_python,
)

__all__ = [
    "checked",
    "compare",
    "conversion",
    "floating",
    "integer",
    "mmx",
    "moves",
    "shuffle",
    "sse4a",
    "state",
    "state_python",
]
