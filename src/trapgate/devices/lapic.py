"""The local APIC of one processor: interrupt priorities, the timer, local vectors and messages.

Its lines go to the processor: `set_intr` follows whether a vector can be delivered now, either one of its own or one of
the 8259 behind LINT0 (ExtINT).

Source: AMD64 Architecture Programmer's Manual, volume 2 (24593), chapter 16, "Advanced Programmable Interrupt
Controller".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from trapgate.devices import lapic_registers as reg
from trapgate.devices.lapic_timer import LapicTimer
from trapgate.machine.clock import Clock
from trapgate.machine.device import PlainState, Snapshot
from trapgate.machine.pins import ProcessorPins


class LocalApic(PlainState):
    """Memory-mapped at the address in `apic_base`."""

    __slots__ = (
        "_apic_base",
        "_irr",
        "_isr",
        "_tmr",
        "_tpr",
        "dfr",
        "end_level",
        "errors",
        "extint_message",
        "icr_high",
        "icr_low",
        "id",
        "interrupts",
        "intr",
        "ldr",
        "lint0",
        "lint1",
        "lvt",
        "name",
        "on_move",
        "pending_errors",
        "pins",
        "svr",
        "timer",
    )

    STATE: ClassVar[tuple[str, ...]] = (
        "_irr",
        "_isr",
        "_tmr",
        "_tpr",
        "dfr",
        "errors",
        "extint_message",
        "icr_high",
        "icr_low",
        "id",
        "interrupts",
        "intr",
        "ldr",
        "lint0",
        "lint1",
        "pending_errors",
        "svr",
    )
    NESTED: ClassVar[tuple[str, ...]] = ("apic_base", "lvt", "timer")

    def __init__(self, clock: Clock, pins: ProcessorPins, apic_id: int = 0) -> None:
        self.name = "lapic"
        self.pins = pins
        self.timer = LapicTimer(clock, self._on_timer)
        #: Called with the vector when a level-triggered interrupt ends: the I/O APICs'.
        self.end_level: Callable[[int], None] = lambda vector: None
        #: Called with (old, new) guest-physical address (None when disabled) when the registers move.
        self.on_move: Callable[[int | None, int | None], None] = lambda old, new: None
        self.id = apic_id
        #: Interrupts that the processor took, by vector (metric).
        self.interrupts: list[int] = [0] * 256
        self.intr = False
        self.lint0 = False
        self.lint1 = False
        self.extint_message = False
        self._apic_base = reg.BASE | reg.BASE_BOOTSTRAP | reg.BASE_ENABLED
        self.lvt: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """Power-on state (volume 2, section 16.3.2); the levels of LINT0 and LINT1 stay."""
        self._reset_registers()
        self.apic_base = reg.BASE | reg.BASE_BOOTSTRAP | reg.BASE_ENABLED
        self.update()

    def _reset_registers(self) -> None:
        self._irr = 0
        self._isr = 0
        self._tmr = 0
        self._tpr = 0
        self.ldr = 0
        self.dfr = 0xFFFF_FFFF
        self.svr = 0xFF
        self.errors = 0
        self.pending_errors = 0
        self.icr_low = 0
        self.icr_high = 0
        self.lvt = dict.fromkeys(reg.LVT_WRITABLE, reg.LVT_MASKED)
        self.timer.reset()

    def enter_virtual_wire(self) -> None:
        """Pass the 8259's interrupts and NMI through, as firmware leaves the bootstrap processor.

        Intel MultiProcessor Specification 1.4, section 3.6.2.2, "Virtual Wire Mode".
        """
        self.svr = reg.SVR_ENABLED | 0x0F
        self.lvt[reg.LVT_LINT0] = reg.EXTINT << 8
        self.lvt[reg.LVT_LINT1] = reg.NMI << 8
        self.update()

    # The base address register, CR8

    @property
    def apic_base(self) -> int:
        """MSR 1Bh. Setting bit 11 to 0 disables the APIC and resets it; the address moves the registers."""
        return self._apic_base

    @apic_base.setter
    def apic_base(self, value: int) -> None:
        old = self._apic_base
        # Whether this is the bootstrap processor cannot be written.
        self._apic_base = value = value & ~reg.BASE_BOOTSTRAP | old & reg.BASE_BOOTSTRAP
        if old & reg.BASE_ENABLED and not value & reg.BASE_ENABLED:
            self._reset_registers()
        self._announce_move(old, value)
        self.update()

    def _announce_move(self, old: int, new: int) -> None:
        old_address = old & reg.BASE_ADDRESS_MASK if old & reg.BASE_ENABLED else None
        new_address = new & reg.BASE_ADDRESS_MASK if new & reg.BASE_ENABLED else None
        if old_address != new_address:
            self.on_move(old_address, new_address)

    @property
    def enabled(self) -> bool:
        """True unless MSR 1Bh disables the APIC."""
        return bool(self._apic_base & reg.BASE_ENABLED)

    def read_cr8(self) -> int:
        """CR8: bits 7:4 of the task priority (volume 2, section 16.6.4)."""
        return self._tpr >> 4

    def write_cr8(self, value: int) -> None:
        """Set the task priority from CR8's low 4 bits."""
        self._tpr = (value & 15) << 4
        self.update()

    # Priorities and delivery

    def processor_priority(self) -> int:
        """The processor priority register (volume 2, section 16.6.4)."""
        served = (self._isr.bit_length() - 1) & 0xF0 if self._isr else 0
        return self._tpr if self._tpr & 0xF0 >= served else served

    def deliverable(self) -> int:
        """The vector that the processor would take now, or -1."""
        irr = self._irr
        if not irr or not self._apic_base & reg.BASE_ENABLED:
            return reg.NO_VECTOR
        vector = irr.bit_length() - 1
        served = (self._isr.bit_length() - 1) & 0xF0 if self._isr else 0
        tpr = self._tpr & 0xF0
        return vector if vector & 0xF0 > (tpr if tpr > served else served) else reg.NO_VECTOR

    def extint_pending(self) -> bool:
        """True when the 8259's request reaches the processor: LINT0 as ExtINT, or a disabled APIC."""
        if not self._apic_base & reg.BASE_ENABLED:
            return self.lint0
        if self.extint_message:
            return True
        return self.lint0 and self.lvt[reg.LVT_LINT0] & (reg.LVT_MASKED | 0x700) == reg.EXTINT << 8

    def lint0_unmaskable(self) -> bool:
        """True when LINT0's vector entry makes the 8259s' requests NMI, SMI or INIT."""
        entry = self.lvt[reg.LVT_LINT0]
        return self.enabled and not entry & reg.LVT_MASKED and entry >> 8 & 7 in reg.UNMASKABLE

    def update(self) -> None:
        """Drive INTR."""
        level = self.deliverable() >= 0 or self.extint_pending()
        if level != self.intr:
            self.intr = level
            self.pins.set_intr(level)

    def take(self) -> int:
        """The processor takes the deliverable vector: it is in service now. -1 when there is none."""
        vector = self.deliverable()
        if vector < 0:
            return reg.NO_VECTOR
        bit = 1 << vector
        self._irr ^= bit
        self._isr |= bit
        self.interrupts[vector] += 1
        self.update()
        return vector

    @property
    def spurious_vector(self) -> int:
        """The vector given when a request vanished before it was taken (volume 2, section 16.4.7)."""
        return self.svr & 0xFF

    def _end_of_interrupt(self) -> None:
        isr = self._isr
        if not isr:
            return
        vector = isr.bit_length() - 1
        bit = 1 << vector
        self._isr = isr ^ bit
        if self._tmr & bit:
            self.end_level(vector)
        if self.lvt[reg.LVT_LINT0] & 0xFF == vector and self.lvt[reg.LVT_LINT0] & reg.LVT_REMOTE_IRR:
            self.lvt[reg.LVT_LINT0] &= ~reg.LVT_REMOTE_IRR
            if self.lint0:
                self._deliver_local(reg.LVT_LINT0)
        self.update()

    def _accept(self, vector: int, level: bool) -> bool:
        """Take a fixed interrupt into the IRR."""
        if vector < 16:
            self._error(reg.ERROR_RECEIVED_ILLEGAL_VECTOR)
            return False
        if not self.svr & reg.SVR_ENABLED or not self._apic_base & reg.BASE_ENABLED:
            return False
        bit = 1 << vector
        self._irr |= bit
        if level:
            self._tmr |= bit
        else:
            self._tmr &= ~bit
        self.update()
        return True

    def _error(self, bit: int) -> None:
        self.pending_errors |= bit
        entry = self.lvt[reg.LVT_ERROR]
        # An illegal vector in the error entry itself must not raise errors for ever.
        if not entry & reg.LVT_MASKED and entry & 0xFF >= 16:
            self._accept(entry & 0xFF, False)

    # Messages

    def _addressed(self, destination: int, logical: bool) -> bool:
        if not logical:
            return destination in (self.id, reg.BROADCAST)
        if destination == reg.BROADCAST:
            return True
        own = self.ldr >> 24
        if self.dfr >> 28 == 0:  # cluster model
            return own >> 4 == destination >> 4 and bool(own & destination & 15)
        return bool(own & destination)

    def receive(self, destination: int, logical: bool, delivery: int, vector: int, level: bool) -> bool:
        """A message from an I/O APIC or from an ICR. True when it was for this APIC and accepted."""
        if not self._apic_base & reg.BASE_ENABLED or not self._addressed(destination, logical):
            return False
        return self._deliver(delivery, vector, level)

    def _deliver(self, delivery: int, vector: int, level: bool) -> bool:
        if delivery in (reg.FIXED, reg.LOWEST_PRIORITY):
            return self._accept(vector, level)
        if delivery == reg.NMI:
            self.pins.pulse_nmi()
        elif delivery == reg.SMI:
            self.pins.pulse_smi()
        elif delivery == reg.INIT:
            self.pins.request_reset()
        # A start-up message is accepted and does nothing: only a processor that waits for one acts on it, and behind
        # INIT the bootstrap processor goes on at the reset vector instead (volume 2, sections 14.1.3 and 16.5).
        return True

    def _send(self) -> None:
        """Send what the interrupt command register says."""
        icr = self.icr_low
        delivery = icr >> 8 & 7
        vector = icr & 0xFF
        shorthand = icr >> reg.SHORTHAND_SHIFT & 3
        if delivery in (reg.FIXED, reg.LOWEST_PRIORITY) and vector < 16:
            self._error(reg.ERROR_SENT_ILLEGAL_VECTOR)
            return
        if delivery == reg.INIT and icr & reg.ICR_LEVEL and not icr & reg.ICR_ASSERT:
            return  # INIT level de-assert only sets arbitration IDs
        if shorthand == reg.OTHERS:
            return  # there is no other processor
        if shorthand in (reg.SELF, reg.ALL):
            # Only fixed interrupts may go to oneself (volume 2, section 16.5, table 16-3).
            if delivery in (reg.FIXED, reg.LOWEST_PRIORITY):
                self._accept(vector, False)
            return
        if not self.receive(self.icr_high >> 24, bool(icr & reg.ICR_LOGICAL), delivery, vector, False):
            self.pending_errors |= reg.ERROR_SEND_ACCEPT

    # Local interrupts

    def set_lint0(self, level: bool) -> None:
        """Drive LINT0, the 8259's INTR."""
        rises = level and not self.lint0
        self.lint0 = level
        if rises:
            self._deliver_local(reg.LVT_LINT0)
        self.update()

    def set_lint1(self, level: bool) -> None:
        """Drive LINT1, the board's NMI."""
        rises = level and not self.lint1
        self.lint1 = level
        if rises:
            if self._apic_base & reg.BASE_ENABLED:
                self._deliver_local(reg.LVT_LINT1)
            else:
                self.pins.pulse_nmi()

    def set_extint_message(self, level: bool) -> None:
        """Assert the 8259's request as an I/O APIC's ExtINT messages carry it."""
        self.extint_message = level
        self.update()

    def _deliver_local(self, register: int) -> None:
        entry = self.lvt[register]
        if entry & reg.LVT_MASKED:
            return
        delivery = entry >> 8 & 7
        if delivery == reg.FIXED:
            level = bool(entry & reg.LVT_LEVEL) and register == reg.LVT_LINT0
            if level:
                if entry & reg.LVT_REMOTE_IRR:
                    return
                self.lvt[register] = entry | reg.LVT_REMOTE_IRR
            self._accept(entry & 0xFF, level)
        elif delivery != reg.EXTINT:
            self._deliver(delivery, entry & 0xFF, False)

    def _on_timer(self) -> None:
        entry = self.lvt[reg.LVT_TIMER]
        if not entry & reg.LVT_MASKED:
            self._accept(entry & 0xFF, False)

    # Access

    def read_memory(self, offset: int, width: int) -> int:
        """A register. They are 32 bits wide, 16 bytes apart; narrower reads see their bytes, wider ones zeros above."""
        register = offset & 0xFF0
        shift = 8 * (offset & 15)
        if shift >= 32:
            return 0
        value = self._read_register(register) >> shift
        return value if width >= 4 else value & (1 << 8 * width) - 1

    def _read_register(self, register: int) -> int:
        if register == reg.CURRENT_COUNT:
            return self.timer.current()
        if register in self.lvt:
            return self.lvt[register]
        if reg.ISR <= register < reg.ESR:
            bits = self._isr if register < reg.TMR else self._tmr if register < reg.IRR else self._irr
            return bits >> (register & 0x70) * 2 & 0xFFFF_FFFF
        reader = _READERS.get(register)
        if reader is None:
            if register not in (reg.EOI, reg.RRD):
                self._error(reg.ERROR_ILLEGAL_REGISTER)
            return 0
        return reader(self)

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """A register. Writes must be 32 bits wide and aligned; others are ignored (volume 2, section 16.3.2)."""
        if offset & 15 or width < 4:
            return
        self._write_register(offset & 0xFF0, value & 0xFFFF_FFFF)

    def _write_register(self, register: int, value: int) -> None:
        if register == reg.EOI:
            self._end_of_interrupt()
        elif register == reg.TPR:
            self._tpr = value & 0xFF
            self.update()
        elif register == reg.INITIAL_COUNT:
            self.timer.set_initial(value)
        elif register == reg.ICR_LOW:
            self.icr_low = value & reg.ICR_WRITABLE
            self._send()
        elif register == reg.ICR_HIGH:
            self.icr_high = value & 0xFF00_0000
        elif register in reg.LVT_WRITABLE:
            self._write_lvt(register, value)
        elif register == reg.SVR:
            self._write_svr(value)
        elif register == reg.ESR:
            self.errors = self.pending_errors
            self.pending_errors = 0
        elif register == reg.DIVIDE:
            self.timer.set_divide(value)
        elif register == reg.LDR:
            self.ldr = value & 0xFF00_0000
        elif register == reg.DFR:
            self.dfr = value | 0x0FFF_FFFF
        elif register == reg.ID:
            self.id = value >> 24
        elif register not in _READERS and not reg.ISR <= register < reg.ESR:
            self._error(reg.ERROR_ILLEGAL_REGISTER)

    def _write_lvt(self, register: int, value: int) -> None:
        if register == reg.LVT_TIMER:
            self.timer.catch_up()
        entry = value & reg.LVT_WRITABLE[register]
        if not self.svr & reg.SVR_ENABLED:
            entry |= reg.LVT_MASKED
        if entry & reg.LVT_LEVEL:
            entry |= self.lvt[register] & reg.LVT_REMOTE_IRR
        opened = self.lvt[register] & reg.LVT_MASKED and not entry & reg.LVT_MASKED
        self.lvt[register] = entry
        if register == reg.LVT_TIMER:
            self.timer.set_mode(periodic=bool(entry & 1 << 17), masked=bool(entry & reg.LVT_MASKED))
        elif register == reg.LVT_LINT0:
            if opened and entry & reg.LVT_LEVEL and self.lint0:
                self._deliver_local(reg.LVT_LINT0)
            self.update()

    def _write_svr(self, value: int) -> None:
        self.timer.catch_up()
        self.svr = value & reg.SVR_WRITABLE
        if not self.svr & reg.SVR_ENABLED:
            # Software disable masks every local vector (volume 2, section 16.4.7).
            for register in self.lvt:
                self.lvt[register] |= reg.LVT_MASKED
            self.timer.set_mode(periodic=bool(self.lvt[reg.LVT_TIMER] & 1 << 17), masked=True)
        self.update()

    # Snapshot

    def snapshot(self) -> Snapshot:
        """Registers, timer and the base address register."""
        return super().snapshot() | {
            "apic_base": self._apic_base,
            "lvt": [self.lvt[register] for register in reg.LVT_WRITABLE],
            "timer": self.timer.snapshot(),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave, move the registers and schedule the timer."""
        super().restore(snapshot)
        old, self._apic_base = self._apic_base, snapshot["apic_base"]
        self._announce_move(old, self._apic_base)
        self.lvt = dict(zip(reg.LVT_WRITABLE, snapshot["lvt"], strict=True))
        self.timer.restore(snapshot["timer"])
        self.pins.set_intr(self.intr)


_READERS: dict[int, Callable[[LocalApic], int]] = {
    reg.ID: lambda apic: apic.id << 24,
    reg.VERSION: lambda apic: reg.VERSION_VALUE,
    reg.TPR: lambda apic: apic._tpr,
    reg.APR: lambda apic: apic.processor_priority(),
    reg.PPR: lambda apic: apic.processor_priority(),
    reg.LDR: lambda apic: apic.ldr,
    reg.DFR: lambda apic: apic.dfr,
    reg.SVR: lambda apic: apic.svr,
    reg.ESR: lambda apic: apic.errors,
    reg.ICR_LOW: lambda apic: apic.icr_low,
    reg.ICR_HIGH: lambda apic: apic.icr_high,
    reg.INITIAL_COUNT: lambda apic: apic.timer.initial,
    reg.DIVIDE: lambda apic: apic.timer.divide_register,
}
