"""INT 08h, the timer's tick; INT 1Ah, ticks and the real-time clock; INT 70h, the clock's interrupt.

Sources: IBM PC AT Technical Reference, BIOS listing, INT 08h, 1Ah and 70h; Motorola MC146818 data sheet.
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area, rom
from trapgate.firmware.bios.call import Call
from trapgate.firmware.bios.host import Host

#: Ticks of a day: 24 hours of 1193182 / 65536 Hz, as every BIOS counts.
TICKS_PER_DAY = 0x1800B0
CRYSTAL = 1_193_182
DIVISOR = 65_536
RTC_INDEX, RTC_DATA = 0x70, 0x71
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
DAY, MONTH, YEAR = 7, 8, 9
REGISTER_B, REGISTER_C = 0x0B, 0x0C
CENTURY = 0x32
B_SET, B_ALARM, B_DAYLIGHT = 0x80, 0x20, 0x01
C_ALARM = 0x20
PIC_1, PIC_2 = 0x20, 0xA0
PIC_2_MASK = 0xA1
END_OF_INTERRUPT = 0x20
CLOCK_MASK = 0x01


class TimeOfDay:
    """The services of time."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def initialise(self) -> None:
        """Set the count of ticks from the real-time clock."""
        hours, minutes, seconds = (_from_bcd(self._read(register)) for register in (HOURS, MINUTES, SECONDS))
        total = (hours * 60 + minutes) * 60 + seconds
        self._host.memory.write_u32(data_area.TICKS, total * CRYSTAL // DIVISOR)

    def tick(self, call: Call) -> None:
        """INT 08h, before INT 1Ch and the end of interrupt, which are in ROM."""
        memory = self._host.memory
        ticks = memory.read_u32(data_area.TICKS) + 1
        if ticks >= TICKS_PER_DAY:
            ticks = 0
            memory.write_u8(data_area.MIDNIGHT, 1)
        memory.write_u32(data_area.TICKS, ticks)

    def alarm(self, call: Call) -> None:
        """INT 70h: acknowledge the clock; its alarm calls INT 4Ah."""
        host = self._host
        cause = self._read(REGISTER_C)
        host.outb(PIC_2, END_OF_INTERRUPT)
        host.outb(PIC_1, END_OF_INTERRUPT)
        if cause & C_ALARM and self._read(REGISTER_B) & B_ALARM:
            call.processor.jump(rom.ALARM)

    def call(self, call: Call) -> None:
        """INT 1Ah."""
        functions = (
            self._get_ticks, self._set_ticks, self._get_time, self._set_time, self._get_date, self._set_date,
            self._set_alarm, self._reset_alarm,
        )  # fmt: skip
        if call.ah >= len(functions):
            self._host.note(f"{call.describe()}: not supported")
            call.set_carry(True)
            return
        functions[call.ah](call)

    def _read(self, register: int) -> int:
        self._host.outb(RTC_INDEX, register)
        return self._host.inb(RTC_DATA)

    def _write(self, register: int, value: int) -> None:
        self._host.outb(RTC_INDEX, register)
        self._host.outb(RTC_DATA, value)

    def _get_ticks(self, call: Call) -> None:
        memory = self._host.memory
        ticks = memory.read_u32(data_area.TICKS)
        call.cx, call.dx = ticks >> 16, ticks & 0xFFFF
        call.ax = memory.read_u8(data_area.MIDNIGHT)
        memory.write_u8(data_area.MIDNIGHT, 0)
        call.set_carry(False)

    def _set_ticks(self, call: Call) -> None:
        memory = self._host.memory
        memory.write_u32(data_area.TICKS, call.cx << 16 | call.dx)
        memory.write_u8(data_area.MIDNIGHT, 0)
        call.ah = 0
        call.set_carry(False)

    def _get_time(self, call: Call) -> None:
        call.dh, call.cl, call.ch = self._read(SECONDS), self._read(MINUTES), self._read(HOURS)
        call.dl = self._read(REGISTER_B) & B_DAYLIGHT
        call.ah, call.al = 0, call.ch
        call.set_carry(False)

    def _set_time(self, call: Call) -> None:
        kept = self._read(REGISTER_B) & ~(B_SET | B_DAYLIGHT)
        self._write(REGISTER_B, kept | B_SET)
        for register, value in ((SECONDS, call.dh), (MINUTES, call.cl), (HOURS, call.ch)):
            self._write(register, value)
        self._write(REGISTER_B, kept | call.dl & B_DAYLIGHT)
        call.ah = 0
        call.set_carry(False)

    def _get_date(self, call: Call) -> None:
        call.dl, call.dh = self._read(DAY), self._read(MONTH)
        call.cl, call.ch = self._read(YEAR), self._read(CENTURY)
        call.ah, call.al = 0, call.ch
        call.set_carry(False)

    def _set_date(self, call: Call) -> None:
        kept = self._read(REGISTER_B) & ~B_SET
        self._write(REGISTER_B, kept | B_SET)
        for register, value in ((DAY, call.dl), (MONTH, call.dh), (YEAR, call.cl), (CENTURY, call.ch)):
            self._write(register, value)
        self._write(REGISTER_B, kept)
        call.ah = 0
        call.set_carry(False)

    def _set_alarm(self, call: Call) -> None:
        """Once a day at CH:CL:DH in BCD; an error when one is set already."""
        kept = self._read(REGISTER_B)
        if kept & B_ALARM:
            call.ax = 0
            call.set_carry(True)
            return
        for register, value in ((SECONDS_ALARM, call.dh), (MINUTES_ALARM, call.cl), (HOURS_ALARM, call.ch)):
            self._write(register, value)
        self._host.outb(PIC_2_MASK, self._host.inb(PIC_2_MASK) & ~CLOCK_MASK)
        self._write(REGISTER_B, kept & ~B_SET | B_ALARM)
        call.set_carry(False)

    def _reset_alarm(self, call: Call) -> None:
        self._write(REGISTER_B, self._read(REGISTER_B) & ~(B_ALARM | B_SET))
        call.set_carry(False)


def _from_bcd(value: int) -> int:
    return (value >> 4) * 10 + (value & 0xF)
