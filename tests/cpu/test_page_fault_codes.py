"""Error codes of page faults, with CR2 and rip (APM vol. 2, 8.4.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.assembly import assemble
from engine.harness import USER64, Guest

Make = Callable[[], Guest]

PAGE_FAULTS = [
    # (entry bits, CPL, kind, WP, error) of an access to a page
    (0, 0, "read", 1, 0x00), (0, 0, "write", 1, 0x02), (0, 3, "read", 1, 0x04), (0, 3, "write", 1, 0x06),
    (0, 0, "fetch", 1, 0x10), (0, 3, "fetch", 1, 0x14),
    (1, 3, "read", 1, 0x05), (3, 3, "write", 1, 0x07), (3, 3, "fetch", 1, 0x15),
    (1, 0, "write", 1, 0x03), (1, 0, "write", 0, None), (5, 3, "write", 0, 0x07), (5, 3, "read", 1, None),
    (7 | 1 << 63, 0, "fetch", 1, 0x11), (7 | 1 << 63, 3, "fetch", 1, 0x15), (7 | 1 << 63, 3, "write", 1, None),
    (7 | 1 << 51, 0, "read", 1, 0x09), (7 | 1 << 51, 3, "write", 1, 0x0F), (7 | 1 << 51, 0, "fetch", 1, 0x19),
    (7 | 1 << 51, 3, "fetch", 1, 0x1D),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "cpl", "kind", "write_protect", "error"), PAGE_FAULTS)
def test_page_faults(guest: Make, bits: int, cpl: int, kind: str, write_protect: int, error: int | None) -> None:
    code = assemble(
        64,
        """
        read:
        41 8b 40 05  mov eax, [r8 + 5]
        0f 0b        ud2
        write:
        41 89 40 05  mov [r8 + 5], eax
        0f 0b        ud2
        fetch:
        41 ff e0     jmp r8
        """,
    )
    g = guest().enter_long(cpl=cpl).load(code)
    g.map(0x20_0000, 0x10_0000, bits)
    g.memory.write(0x10_0000, b"\x0f\x0b")
    if not write_protect:
        g.processor.set_cr0(g.processor.cr0 & ~(1 << 16))
    g.set(r8=0x20_0000)
    g.go(code[kind])
    frame = g.run_to_exception()
    if error is None:
        assert frame.vector == 6
        return
    assert (frame.vector, frame.error) == (14, error)
    assert g.processor.cr2 == 0x20_0000 + (0 if kind == "fetch" else 5)
    assert frame.rip == (0x20_0000 if kind == "fetch" else code[kind])
    assert frame.cs == (USER64 if cpl else 8)
