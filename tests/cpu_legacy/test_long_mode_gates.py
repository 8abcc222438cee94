"""Call gates of long mode: 16 bytes, 64-bit offset and code, stacks without parameters (APM vol. 2, 4.8.4)."""

from __future__ import annotations

import pytest

from engine.assembly import Code
from engine.harness import CODE, CODE32, CODE64, DATA, FREE, GDT, INTERRUPT_STACK, STACK, USER64, USER_DATA, Guest
from trapgate.engine.handlers import HandlerStore

_TARGET = CODE + 0x1000


def _guest(handlers: HandlerStore, code: int = CODE64, kind: int = 0xEC, upper: int = 0, high: int = 0) -> Guest:
    guest = Guest(handlers).enter_long(cpl=3)
    low = _TARGET & 0xFFFF | code << 16 | kind << 40 | (_TARGET >> 16 & 0xFFFF) << 48
    guest.memory.write_u64(GDT + FREE, low)
    guest.memory.write_u64(GDT + FREE + 8, high | upper << 40)
    guest.memory.write(_TARGET, b"\xf4")
    # call far [rbx], of 32 bits
    guest.memory.write_u32(DATA, 0xDEAD_BEEF)
    guest.memory.write_u16(DATA + 4, FREE)
    return guest.load(Code(b"\xff\x1b", CODE)).set(rbx=DATA)


def test_call_to_inner_level(handlers: HandlerStore) -> None:
    """SS, RSP, CS and RIP as quadwords on RSP0; SS becomes null."""
    guest = _guest(handlers)
    guest.run_to_halt()
    assert guest["rip"] == _TARGET + 1
    assert guest["rsp"] == INTERRUPT_STACK - 32
    frame = [guest.memory.read_u64(INTERRUPT_STACK - 32 + 8 * i) for i in range(4)]
    assert frame == [CODE + 2, USER64, STACK, USER_DATA]
    assert guest.processor.cpl == 0
    assert guest.processor.segments[2].selector == 0


@pytest.mark.parametrize(
    ("change", "vector", "error"),
    [
        ({"code": CODE32}, 13, CODE32),  # not 64-bit code
        ({"kind": 0xE4}, 13, FREE),  # a 16-bit gate: no such type
        ({"kind": 0x8C}, 13, FREE),  # DPL 0
        ({"kind": 0x6C}, 11, FREE),  # not present
        ({"kind": 0xE5}, 13, FREE),  # task gate
        ({"kind": 0xE9}, 13, FREE),  # TSS
        ({"upper": 0x0C}, 13, FREE),  # the type of the upper half must be 0
        ({"high": 0x0001_0000}, 13, 0),  # not canonical
    ],
)
def test_errors(handlers: HandlerStore, change: dict[str, int], vector: int, error: int) -> None:
    guest = _guest(handlers, **change)
    frame = guest.run_to_exception()
    assert (frame.vector, frame.error, frame.rip, frame.rsp) == (vector, error, CODE, STACK)
