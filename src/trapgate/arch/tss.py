"""Task-state segments of legacy mode (APM vol. 2, 12.2.4 and 12.2.5)."""

from __future__ import annotations

from typing import NamedTuple

#: Type bits of a TSS's descriptor: busy, 32 bits.
BUSY, WIDE = 2, 8
#: Offsets: back link, CR3 and the T bit (32-bit TSSs).
LINK, CR3, TRAP = 0, 0x1C, 0x64


class Layout(NamedTuple):
    """Bytes of a field; the lowest limit; where the saved registers begin (rIP, rFLAGS, eight registers, selectors of
    ES, CS, SS, DS, and in a 32-bit TSS FS, GS); where LDTR's selector is."""

    size: int
    limit: int
    registers: int
    ldt: int
    segments: int


LAYOUT16, LAYOUT32 = Layout(2, 0x2B, 0x0E, 0x2A, 4), Layout(4, 0x67, 0x20, 0x60, 6)


def layout_of(attributes: int) -> Layout:
    """The layout of a TSS by its descriptor's attributes."""
    return LAYOUT32 if attributes & WIDE else LAYOUT16


class Image:
    """A new task's state, as its TSS holds it."""

    def __init__(self, data: bytes, layout: Layout) -> None:
        def value(index: int) -> int:
            at = layout.registers + layout.size * index
            return int.from_bytes(data[at : at + layout.size], "little")

        wide = layout.size == 4
        self.rip, self.rflags = value(0), value(1)
        #: The upper halves are not in a 16-bit TSS; they are left undefined, here all ones.
        self.registers = [value(2 + number) | (0 if wide else 0xFFFF_0000) for number in range(8)]
        #: ES, CS, SS, DS, FS, GS.
        self.selectors = [value(10 + i) & 0xFFFF for i in range(layout.segments)] + [0] * (6 - layout.segments)
        self.ldt = int.from_bytes(data[layout.ldt : layout.ldt + 2], "little")
        self.cr3 = int.from_bytes(data[CR3 : CR3 + 4], "little") if wide else None
        #: The T bit: #DB before the task's first instruction (13.1.4.6).
        self.trap = wide and bool(data[TRAP] & 1)


def saved(layout: Layout, rip: int, flags: int, registers: list[int], selectors: list[int], old: bytes) -> bytes:
    """What a switch writes into the old task's TSS from `layout.registers` on.

    `old` are the bytes there now: the upper halves of selector fields are reserved and stay.
    """
    size, mask = layout.size, (1 << 8 * layout.size) - 1
    data = b"".join((value & mask).to_bytes(size, "little") for value in (rip, flags, *registers))
    for selector in selectors[: layout.segments]:
        at = len(data)
        data += selector.to_bytes(2, "little") + old[at + 2 : at + size]
    return data
