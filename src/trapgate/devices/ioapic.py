"""The I/O APIC: 24 inputs, each with a redirection entry that turns it into a message to a local APIC.

Inputs are logical: True is asserted, so an entry's polarity bit is kept and has no effect.

Source: Intel 82093AA data sheet (order 290566-001), section 3.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from trapgate.machine.device import IrqLine, PlainState

#: Guest-physical address and size of the registers in a PC.
BASE = 0xFEC0_0000
SIZE = 4096
PINS = 24

# Memory-mapped registers.
SELECT = 0x00
WINDOW = 0x10

# Registers behind the window.
ID = 0x00
VERSION = 0x01
ARBITRATION = 0x02
REDIRECTION = 0x10

VERSION_VALUE = (PINS - 1) << 16 | 0x11
ID_MASK = 0x0F00_0000

# Redirection entry.
VECTOR_MASK = 0xFF
DELIVERY_SHIFT = 8
LOGICAL = 1 << 11
DELIVERY_STATUS = 1 << 12
REMOTE_IRR = 1 << 14
LEVEL = 1 << 15
MASKED = 1 << 16
DESTINATION_SHIFT = 56
WRITABLE_LOW = 0x0001_AFFF
WRITABLE_HIGH = 0xFF00_0000

EXTINT = 7
#: SMI, NMI and INIT, which a processor takes with RFLAGS.IF clear too (section 3.2.4, "Delivery Mode").
UNMASKABLE = frozenset((2, 4, 5))


class InterruptMessages(Protocol):
    """Who takes the messages: the local APICs."""

    def receive(self, destination: int, logical: bool, delivery: int, vector: int, level: bool) -> bool:
        """A message to `destination` (an 8-bit APIC or logical ID); True when a local APIC accepted it."""


class IoApic(PlainState):
    """Memory-mapped at BASE: the select register and the window."""

    __slots__ = ("apic_id", "entries", "extint", "extint_line", "levels", "messages", "name", "select")

    STATE: ClassVar[tuple[str, ...]] = ("apic_id", "entries", "extint", "levels", "select")

    def __init__(self, messages: InterruptMessages, extint_line: IrqLine) -> None:
        """`extint_line` is asserted while an ExtINT entry is open and its input asserted (an 8259 behind it)."""
        self.name = "ioapic"
        self.messages = messages
        self.extint_line = extint_line
        self.levels = 0
        self.extint = False
        self.entries: list[int] = [MASKED] * PINS
        self.reset()

    def reset(self) -> None:
        """Every entry masked. The levels of the inputs stay: devices drive them."""
        self.apic_id = 0
        self.select = 0
        self.entries = [MASKED] * PINS
        self._update_extint()

    # Inputs

    def set_pin(self, pin: int, level: bool) -> None:
        """Drive input `pin` (0..23)."""
        bit = 1 << pin
        if level:
            if self.levels & bit:
                return
            self.levels |= bit
            self._service(pin, edge=True)
        else:
            if not self.levels & bit:
                return
            self.levels &= ~bit
        if self.entries[pin] >> DELIVERY_SHIFT & 7 == EXTINT:
            self._update_extint()

    def _service(self, pin: int, edge: bool) -> None:
        """Send the message of an asserted input. An edge on a masked input is lost (data sheet, "Interrupt Mask")."""
        entry = self.entries[pin]
        delivery = entry >> DELIVERY_SHIFT & 7
        if entry & MASKED or delivery == EXTINT:
            return
        level = bool(entry & LEVEL) and delivery < 2
        if level:
            if entry & REMOTE_IRR:
                return
        elif not edge:
            return
        accepted = self.messages.receive(
            entry >> DESTINATION_SHIFT, bool(entry & LOGICAL), delivery, entry & VECTOR_MASK, level
        )
        if level and accepted:
            self.entries[pin] |= REMOTE_IRR

    def sends_unmaskable(self) -> bool:
        """True while an open entry makes an input's requests NMI, SMI or INIT."""
        return any(not entry & MASKED and entry >> DELIVERY_SHIFT & 7 in UNMASKABLE for entry in self.entries)

    def _update_extint(self) -> None:
        level = False
        for pin, entry in enumerate(self.entries):
            if entry >> DELIVERY_SHIFT & 7 == EXTINT and not entry & MASKED and self.levels >> pin & 1:
                level = True
        if level != self.extint:
            self.extint = level
            self.extint_line(level)

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC ended level-triggered `vector`: inputs that are still asserted interrupt again."""
        for pin, entry in enumerate(self.entries):
            if entry & REMOTE_IRR and entry & VECTOR_MASK == vector:
                self.entries[pin] = entry & ~REMOTE_IRR
                if self.levels >> pin & 1:
                    self._service(pin, edge=False)

    # Access

    def _read_register(self) -> int:
        select = self.select
        if select >= REDIRECTION:
            pin, high = divmod(select - REDIRECTION, 2)
            if pin >= PINS:
                return 0xFFFF_FFFF
            entry = self.entries[pin]
            return entry >> 32 if high else entry & 0xFFFF_FFFF
        if select == VERSION:
            return VERSION_VALUE
        if select in (ID, ARBITRATION):
            return self.apic_id
        return 0xFFFF_FFFF

    def read_memory(self, offset: int, width: int) -> int:
        """The select register or the selected one; accesses are 32 bits wide, narrower ones see their bytes."""
        register = offset & ~15
        if register == SELECT:
            value = self.select
        elif register == WINDOW:
            value = self._read_register()
        else:
            value = 0xFFFF_FFFF
        return value >> 8 * (offset & 15) & (1 << 8 * width) - 1

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """Write the select register or the selected one; only whole 32-bit writes to the latter count."""
        if offset == SELECT:
            self.select = value & 0xFF
        elif offset == WINDOW and width >= 4:
            self._write_register(value & 0xFFFF_FFFF)

    def _write_register(self, value: int) -> None:
        select = self.select
        if select == ID:
            self.apic_id = value & ID_MASK
        elif select >= REDIRECTION:
            pin, high = divmod(select - REDIRECTION, 2)
            if pin >= PINS:
                return
            entry = self.entries[pin]
            if high:
                self.entries[pin] = entry & 0xFFFF_FFFF | (value & WRITABLE_HIGH) << 32
                return
            # Remote IRR belongs to level-triggered entries: turning one to edge clears it.
            kept = entry & REMOTE_IRR if value & LEVEL else 0
            self.entries[pin] = entry >> 32 << 32 | value & WRITABLE_LOW | kept
            self._update_extint()
            if self.levels >> pin & 1:
                self._service(pin, edge=False)
