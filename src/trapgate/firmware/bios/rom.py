"""The BIOS ROM's bytes: routines that call the services, and the tables that guests read.

Routines stand at the entry points of IBM's BIOS, because programs call some of them directly (IBM PC AT Technical
Reference, BIOS listing; the list of fixed entries is in Phoenix, "System BIOS for IBM PCs, Compatibles, and EISA
Computers", "Compatibility table"). A routine is `OUT SERVICE_PORT, AL` and `IRET`; which service is meant follows from
where the OUT stands, so no register is needed for it.
"""

from __future__ import annotations

import struct

SEGMENT = 0xF000
ROM_BASE = 0xF0000
#: The offset in segment F000h from which on the ROM is the BIOS's; tables of firmware/ lie below.
FIRST = 0xC000
#: An 8-bit port that no chip of a PC has.
SERVICE_PORT = 0xB8

#: Offsets of routines by vector. Others stand at GENERIC + 4 * vector.
ENTRIES = {
    0x05: 0xFF54, 0x08: 0xFEA5, 0x09: 0xE987, 0x10: 0xF065, 0x11: 0xF84D, 0x12: 0xF841, 0x13: 0xE3FE,
    0x14: 0xE739, 0x15: 0xF859, 0x16: 0xE82E, 0x17: 0xEFD2, 0x19: 0xE6F2, 0x1A: 0xFE6E,
}  # fmt: skip
GENERIC = 0xD000
#: IBM's entry for diskettes, which programs jump to.
DISKETTE_ENTRY = 0xEC59
POST_ENTRY = 0xE05B
CONFIGURATION_TABLE = 0xE6F5
DISKETTE_TABLE = 0xEFC7
RESET_VECTOR = 0xFFF0
DATE = 0xFFF5
MODEL = 0xFFFE

#: What is keyed beside vectors 00h to FFh: a reset of the machine.
POST = 0x100

#: Vectors that are data pointers or the user's own, and so have no routine.
DATA_VECTORS = frozenset({0x1D, 0x1E, 0x1F, 0x41, 0x43, 0x46, *range(0x60, 0x68)})
#: Vectors that do nothing until a program takes them: print screen, Ctrl-Break, timer tick, alarm.
QUIET_VECTORS = frozenset({0x05, 0x1B, 0x1C, 0x4A})

#: Services that may have to wait. Each has two more routines: one sleeps until an interrupt, one lets interrupts in.
WAITING = (0x14, 0x15, 0x16, 0x17)
SLEEP = 0xD400
YIELD = 0xD440
WAIT_STRIDE = 8
ALARM = 0xD480
HALT = 0xD490

_OUT = bytes((0xE6, SERVICE_PORT))
_IRET = b"\xcf"
_STI, _CLI, _HLT, _NOP = b"\xfb", b"\xfa", b"\xf4", b"\x90"
#: MOV AL, 20h; OUT 20h, AL: end of interrupt to the first 8259.
_EOI = bytes((0xB0, 0x20, 0xE6, 0x20))

#: Model FCh (AT), submodel 1, revision 0; features: second 8259, real-time clock, INT 15h AH=4Fh on keys, EBDA.
MODEL_AT = 0xFC
SUBMODEL = 0x01
FEATURES = 0x40 | 0x20 | 0x10 | 0x04
#: Diskette parameters for 1.44 MB: step rate, DMA, motor-off ticks, 512-byte sectors, 18 a track, gaps, filler, delays.
DISKETTE_PARAMETERS = bytes((0xAF, 0x02, 0x25, 0x02, 18, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08))


def entry(vector: int) -> int:
    """The offset in segment F000h of a vector's routine."""
    return ENTRIES.get(vector, GENERIC + 4 * vector)


def sleep_entry(vector: int) -> int:
    """A routine that sleeps until an interrupt came, and then calls the service again."""
    return SLEEP + WAIT_STRIDE * WAITING.index(vector)


def yield_entry(vector: int) -> int:
    """A routine that lets pending interrupts in, and then calls the service again."""
    return YIELD + WAIT_STRIDE * WAITING.index(vector)


class Rom:
    """`data` goes to guest-physical ROM_BASE + FIRST. `services` maps the IP behind an OUT to what it calls."""

    def __init__(self) -> None:
        self._bytes = bytearray(0x10000 - FIRST)
        self.services: dict[int, int] = {}
        self._place_routines()
        self._place_tables()
        self.data = bytes(self._bytes)

    def _put(self, offset: int, code: bytes, service: int | None = None) -> None:
        """Place `code`; the OUT in it, if there is one, calls `service`."""
        self._bytes[offset - FIRST : offset - FIRST + len(code)] = code
        if service is not None:
            self.services[offset + code.index(_OUT) + len(_OUT)] = service

    def _place_routines(self) -> None:
        for vector in range(256):
            if vector in QUIET_VECTORS:
                self._put(entry(vector), _IRET)
            elif vector not in (0x08, 0x09):
                self._put(entry(vector), _OUT + _IRET, vector)
        self._put(DISKETTE_ENTRY, _OUT + _IRET, 0x13)
        # Count the tick, INT 1Ch, PUSH AX, end of interrupt, POP AX.
        self._put(entry(0x08), _OUT + b"\xcd\x1c\x50" + _EOI + b"\x58" + _IRET, 0x08)
        # PUSH AX; IN AL, 60h; MOV AH, 4Fh; STC; INT 15h, which may take the key or change it; JNC over the service.
        self._put(entry(0x09), b"\x50\xe4\x60\xb4\x4f\xf9\xcd\x15\x73\x02" + _OUT + _EOI + b"\x58" + _IRET, 0x09)
        for vector in WAITING:
            self._put(sleep_entry(vector), _STI + _HLT + _CLI + _OUT + _IRET, vector)
            self._put(yield_entry(vector), _STI + _NOP + _CLI + _OUT + _IRET, vector)
        self._put(ALARM, b"\xcd\x4a" + _IRET)
        # CLI; HLT; JMP back to it.
        self._put(HALT, _CLI + _HLT + b"\xeb\xfc")
        self._put(POST_ENTRY, _CLI + _OUT + _HLT + b"\xeb\xfd", POST)
        self._put(RESET_VECTOR, b"\xea" + struct.pack("<HH", POST_ENTRY, SEGMENT))

    def _place_tables(self) -> None:
        table = struct.pack("<HBBBB4x", 8, MODEL_AT, SUBMODEL, 0, FEATURES)
        self._put(CONFIGURATION_TABLE, table)
        self._put(DISKETTE_TABLE, DISKETTE_PARAMETERS)
        self._put(DATE, b"09/10/07")
        self._bytes[MODEL - FIRST] = MODEL_AT

    def vectors(self) -> bytes:
        """The interrupt vector table: 256 times offset and segment."""
        table = bytearray()
        for vector in range(256):
            if vector == 0x1E:
                table += struct.pack("<HH", DISKETTE_TABLE, SEGMENT)
            elif vector in DATA_VECTORS:
                table += bytes(4)
            else:
                table += struct.pack("<HH", entry(vector), SEGMENT)
        return bytes(table)
