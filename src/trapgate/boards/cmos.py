"""What a PC's firmware leaves in CMOS memory: how much RAM there is, which equipment, a checksum.

Source: IBM PC AT Technical Reference, "Real-time Clock/CMOS RAM Information"; for 34h and up the layout that SeaBIOS
and QEMU share (QEMU, hw/i386/pc.c, `pc_cmos_init`).
"""

from __future__ import annotations

KB = 1 << 10
MB = 1 << 20

EQUIPMENT = 0x14
BASE_MEMORY = 0x15
EXTENDED_MEMORY = 0x17
CHECKSUM_FIRST = 0x10
CHECKSUM_LAST = 0x2D
CHECKSUM = 0x2E
EXTENDED_MEMORY_ACTUAL = 0x30
ABOVE_16MB = 0x34
ABOVE_4GB = 0x5B

#: A numeric coprocessor; no diskette, no display adapter.
EQUIPMENT_FPU = 0x02
BASE_MEMORY_KB = 640


def fill_cmos(cmos: bytearray, ranges: list[range]) -> None:
    """Describe RAM at the guest-physical `ranges` in the 128 bytes of `cmos`."""
    low = ranges[0].stop
    high = sum(len(r) for r in ranges[1:])

    def put(index: int, value: int, length: int) -> None:
        cmos[index : index + length] = min(value, (1 << 8 * length) - 1).to_bytes(length, "little")

    cmos[EQUIPMENT] = EQUIPMENT_FPU
    put(BASE_MEMORY, BASE_MEMORY_KB, 2)
    extended = max(0, low - MB) // KB
    put(EXTENDED_MEMORY, extended, 2)
    put(EXTENDED_MEMORY_ACTUAL, extended, 2)
    put(ABOVE_16MB, max(0, low - 16 * MB) // (64 * KB), 2)
    put(ABOVE_4GB, high // (64 * KB), 3)
    checksum = sum(cmos[CHECKSUM_FIRST : CHECKSUM_LAST + 1]) & 0xFFFF
    cmos[CHECKSUM : CHECKSUM + 2] = checksum.to_bytes(2, "big")
