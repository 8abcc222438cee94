"""HLT with IF clear: NMI, SMI, INIT or the program's own callback can end it, and the run waits for one that can."""

from __future__ import annotations

import pytest

from trapgate import Machine
from trapgate.api import GuestExited, Halted, StopRequested

from .code import ORIGIN
from .conftest import Maker

pytestmark = pytest.mark.engine

#: An NMI handler that counts in bl and lets the code behind HLT go on; the PIT's channel 0 every 4096 ticks.
SLEEPER = bytes.fromhex(
    "fa"  #                 7c00 cli
    "c7 06 08 00 1e 7c"  #  7c01 mov word [2 * 4], handler
    "c7 06 0a 00 00 00"  #  7c07 mov word [2 * 4 + 2], 0
    "b0 34"  #              7c0d mov al, 34h
    "e6 43"  #              7c0f out 43h, al
    "b0 00"  #              7c11 mov al, 0
    "e6 40"  #              7c13 out 40h, al
    "b0 10"  #              7c15 mov al, 10h
    "e6 40"  #              7c17 out 40h, al
    "f4"  #                 7c19 hlt
    "88 d8"  #              7c1a mov al, bl
    "e6 f4"  #              7c1c out f4h, al
    "43"  #                 7c1e handler: inc bx
    "cf"  #                 7c1f iret
)
TIMER_PIN = 2


def open_timer_pin(machine: Machine, delivery: int) -> None:
    """Program the I/O APIC as a guest would: the timer's requests as messages of that delivery mode to APIC 0."""
    bus = machine._bare.board.bus
    bus.write_memory(0xFEC0_0000, 4, 0x10 + 2 * TIMER_PIN)
    bus.write_memory(0xFEC0_0010, 4, delivery << 8)


def test_nothing_unmaskable_is_expected(booted: Maker) -> None:
    machine = booted(SLEEPER)
    assert machine.run() == Halted()
    assert machine.registers.rip == 0x7C1A


@pytest.mark.parametrize("delivery", [0, 7])
def test_the_timer_as_an_ordinary_interrupt_does_not_count(booted: Maker, delivery: int) -> None:
    machine = booted(SLEEPER)
    open_timer_pin(machine, delivery)
    assert machine.run() == Halted()


def test_the_timer_as_nmi_wakes_the_processor(booted: Maker) -> None:
    machine = booted(SLEEPER)
    open_timer_pin(machine, 4)
    assert machine.run() == GuestExited(3)  # one NMI: (1 << 1) | 1
    assert machine.statistics().interrupts == {2: 1}
    # 4096 ticks of 1193182 Hz
    assert 0.0034 < machine.seconds < 0.0035


def test_the_timer_as_smi_wakes_it_until_rsm(booted: Maker) -> None:
    machine = booted(SLEEPER)
    open_timer_pin(machine, 2)
    # The handler at SMBASE + 8000h: mov al, 8; out f4h, al
    machine.memory[0x3_8000:0x3_8004] = bytes.fromhex("b0 08 e6 f4")
    assert machine.run() == GuestExited(17)


def test_the_timer_as_init_resets_it(booted: Maker) -> None:
    machine = booted(SLEEPER)
    open_timer_pin(machine, 5)
    assert "execution outside RAM" in str(machine.run())


def test_the_programs_callbacks_come_too(booted: Maker) -> None:
    machine = booted(SLEEPER)
    machine.after(5_000_000, machine.stop)
    assert machine.run() == StopRequested()
    assert machine.cycles >= 5_000_000
    machine.after(5_000_000, machine.pulse_nmi)
    assert machine.run() == GuestExited(3)
    assert booted(SLEEPER).run() == Halted()


def test_smm_holds_everything_back(booted: Maker) -> None:
    machine = booted(SLEEPER)
    open_timer_pin(machine, 2)
    machine.memory[0x3_8000:0x3_8001] = bytes.fromhex("f4")
    assert machine.run() == Halted()
    assert ORIGIN not in (machine.registers.rip, machine.registers.linear_rip)
