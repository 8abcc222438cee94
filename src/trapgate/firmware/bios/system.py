"""INT 15h: memory sizes, A20, waits, block moves, the configuration table.

Sources: Ralf Brown's Interrupt List, INT 15h; ACPI specification 6.5, chapter 15 (E820h); IBM PS/2 and PC BIOS
Interface Technical Reference.
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area, rom
from trapgate.firmware.bios.call import ES, Call
from trapgate.firmware.bios.host import Host
from trapgate.firmware.bios.waiting import Waiting
from trapgate.firmware.memory_map import BDA_EBDA_SEGMENT, low_memory_top, memory_map
from trapgate.machine.clock import Event
from trapgate.machine.device import PlainState

UNSUPPORTED = 0x86
SMAP = 0x534D4150
ENTRY_LENGTH = 20
KB, MB = 1 << 10, 1 << 20
PORT_92 = 0x92
A20 = 0x02
#: A wait longer than this many microseconds sleeps until the next interrupt; the rest is waited in slices.
LONG_WAIT = 60_000
EVENT_DONE = 0x80
#: Microseconds per word that INT 15h AH=87h moves.
MOVE_WORDS_PER_MICROSECOND = 8
MAX_MOVE_WORDS = 0x8000
DESCRIPTOR = 8
MOVE_SOURCE, MOVE_TARGET = 2 * DESCRIPTOR, 3 * DESCRIPTOR


class System(PlainState):
    """The system service."""

    STATE = ("_deadline", "_event_place", "_event_at")

    def __init__(self, host: Host, waiting: Waiting) -> None:
        self._host = host
        self._waiting = waiting
        self._deadline: int | None = None
        self._event: Event | None = None
        #: Linear address of the byte that the wait of function 83h sets, and when it does.
        self._event_place = self._event_at = 0

    def call(self, call: Call) -> None:
        """INT 15h."""
        by_ax = {0xE820: self._memory_map, 0xE801: self._memory_sizes}
        by_ah = {
            0x24: self._a20, 0x4F: self._key, 0x83: self._event_wait, 0x86: self._wait, 0x87: self._move,
            0x88: self._extended_memory, 0x90: self._device, 0x91: self._device, 0xC0: self._configuration,
            0xC1: self._ebda,
        }  # fmt: skip
        function = by_ax.get(call.ax) or by_ah.get(call.ah)
        if function is None:
            self._unsupported(call)
        else:
            function(call)

    def _unsupported(self, call: Call) -> None:
        self._host.note(f"{call.describe()}: not supported")
        call.ah = UNSUPPORTED
        call.set_carry(True)

    # Memory

    def _memory_map(self, call: Call) -> None:
        entries = memory_map(self._host.memory)
        index = call.ebx
        if call.edx != SMAP or call.ecx < ENTRY_LENGTH or index >= len(entries):
            call.ah = UNSUPPORTED
            call.set_carry(True)
            return
        call.write(ES, call.di, entries[index].pack())
        call.eax, call.ecx = SMAP, ENTRY_LENGTH
        call.ebx = index + 1 if index + 1 < len(entries) else 0
        call.set_carry(False)

    def _memory_sizes(self, call: Call) -> None:
        """KB from 1 MB to 16 MB, and units of 64 KB above."""
        top = low_memory_top(self._host.memory)
        call.ax = call.cx = min(max(top - MB, 0), 15 * MB) // KB
        call.bx = call.dx = max(top - 16 * MB, 0) // (64 * KB)
        call.set_carry(False)

    def _extended_memory(self, call: Call) -> None:
        """KB above 1 MB, at most 63 MB: what fits in 16 bits, as a whole number of MB."""
        call.ax = min((low_memory_top(self._host.memory) - MB) // KB, 63 * KB)
        call.set_carry(False)

    def _a20(self, call: Call) -> None:
        host = self._host
        port = host.inb(PORT_92)
        if call.al in (0, 1):
            host.outb(PORT_92, port & ~1 & ~A20 | (A20 if call.al else 0))
        elif call.al == 2:
            call.al = bool(port & A20)
        elif call.al == 3:
            call.bx = 3  # by the keyboard controller and by port 92h
        else:
            self._unsupported(call)
            return
        call.ah = 0
        call.set_carry(False)

    def _move(self, call: Call) -> None:
        """CX words from the base of descriptor 2 to that of descriptor 3 of the table at ES:SI."""
        table = call.read(ES, call.si, 6 * DESCRIPTOR)
        source, target = _base(table[MOVE_SOURCE:]), _base(table[MOVE_TARGET:])
        words, memory = call.cx, self._host.memory
        inside = memory.is_ram(source, 2 * words) and memory.is_ram(target, 2 * words)
        if words > MAX_MOVE_WORDS or not inside:
            self._host.note(f"{call.describe()}: {words} words from {source:#x} to {target:#x} are not all RAM")
            call.ah = 2  # exception
            call.set_carry(True)
            return
        memory.write(target, memory.read(source, 2 * words))
        self._host.charge_microseconds(words // MOVE_WORDS_PER_MICROSECOND)
        call.ah = 0
        call.set_carry(False)
        call.set_zero(True)

    # Time

    def _wait(self, call: Call) -> None:
        """CX:DX microseconds."""
        clock = self._host.clock
        if self._deadline is None:
            self._deadline = clock.now + (call.cx << 16 | call.dx) * clock.hz // 1_000_000
        left = self._deadline - clock.now
        if left > LONG_WAIT * clock.hz // 1_000_000:
            self._waiting.sleep(call)
        elif left > 0:
            self._waiting.slice(call)
        else:
            self._deadline = None
            call.set_carry(False)

    def _event_wait(self, call: Call) -> None:
        """AL=0: after CX:DX microseconds set bit 7 of the byte at ES:BX; AL=1: do not."""
        host, clock = self._host, self._host.clock
        if call.al == 1:
            if self._event is not None:
                clock.cancel(self._event)
                self._end_event()
            call.set_carry(False)
            return
        if call.al != 0 or self._event is not None:
            call.ah = UNSUPPORTED if call.al else 0x83  # a wait is going on
            call.set_carry(True)
            return
        self._event_place = call.linear(ES, call.bx)
        self._event_at = clock.now + (call.cx << 16 | call.dx) * clock.hz // 1_000_000
        host.memory.write_u8(data_area.WAIT_ACTIVE, 1)
        self._event = clock.schedule(self._event_at, self._event_done)
        call.set_carry(False)

    def _event_done(self) -> None:
        memory, place = self._host.memory, self._event_place
        if memory.is_ram(place):
            memory.write_u8(place, memory.read_u8(place) | EVENT_DONE)
        self._end_event()

    def after_restore(self) -> None:
        """Schedule the end of the wait."""
        clock = self._host.clock
        if self._event is not None:
            clock.cancel(self._event)
        self._event = clock.schedule(self._event_at, self._event_done) if self._event_at else None

    def _end_event(self) -> None:
        self._event = None
        self._event_at = 0
        self._host.memory.write_u8(data_area.WAIT_ACTIVE, 0)

    # Others

    def _key(self, call: Call) -> None:
        """A key before INT 09h handles it. CF says that it is to be handled; programs take the vector to change it."""
        call.set_carry(True)

    def _device(self, call: Call) -> None:
        """Device busy, interrupt complete: hooks for a multitasker; nothing to do here."""
        call.ah = 0
        call.set_carry(False)

    def _configuration(self, call: Call) -> None:
        call.load_segment(ES, rom.SEGMENT)
        call.bx = rom.CONFIGURATION_TABLE
        call.ah = 0
        call.set_carry(False)

    def _ebda(self, call: Call) -> None:
        call.load_segment(ES, self._host.memory.read_u16(BDA_EBDA_SEGMENT))
        call.set_carry(False)


def _base(descriptor: bytes) -> int:
    """The base address in a segment descriptor."""
    return int.from_bytes(descriptor[2:5], "little") | descriptor[7] << 24
