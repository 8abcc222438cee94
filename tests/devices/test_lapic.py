"""The local APIC, as the AMD64 manual (volume 2, chapter 16) describes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.devices.lapic import LocalApic
from trapgate.machine.clock import Clock

from .support import HZ, Pins, advance, microseconds

TPR, PPR, EOI, LDR, DFR, SVR, ESR = 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0, 0x280
ISR, TMR, IRR = 0x100, 0x180, 0x200
ICR_LOW, ICR_HIGH = 0x300, 0x310
TIMER, LINT0, LINT1, ERROR = 0x320, 0x350, 0x360, 0x370
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
FIXED = 0


class Apic:
    """A local APIC, enabled, with its surroundings."""

    def __init__(self) -> None:
        self.clock = Clock(HZ)
        self.pins = Pins()
        self.lapic = LocalApic(self.clock, self.pins)
        self.store(SVR, 0x1FF)

    def load(self, register: int) -> int:
        return self.lapic.read_memory(register, 4)

    def store(self, register: int, value: int) -> None:
        self.lapic.write_memory(register, 4, value)

    def interrupt(self, vector: int, level: bool = False) -> bool:
        return self.lapic.receive(0, False, FIXED, vector, level)

    def bits(self, first: int) -> list[int]:
        return [index * 32 + bit for index in range(8) for bit in range(32) if self.load(first + index * 16) >> bit & 1]


def test_registers_after_reset() -> None:
    lapic = LocalApic(Clock(HZ), Pins(), apic_id=0)
    assert lapic.apic_base == 0xFEE0_0900
    read = lapic.read_memory
    assert read(0x20, 4) == 0
    assert read(0x30, 4) == 0x0005_0010
    assert read(SVR, 4) == 0xFF
    assert read(DFR, 4) == 0xFFFF_FFFF
    assert [read(register, 4) for register in range(0x320, 0x380, 0x10)] == [0x10000] * 6
    assert read(TPR, 4) == 0


def test_an_interrupt_goes_through_irr_isr_and_eoi() -> None:
    apic = Apic()
    assert apic.interrupt(0x41)
    assert apic.pins.intr
    assert apic.bits(IRR) == [0x41]
    assert apic.lapic.take() == 0x41
    assert (apic.bits(IRR), apic.bits(ISR), apic.pins.intr) == ([], [0x41], False)
    assert apic.load(PPR) == 0x40
    apic.store(EOI, 0)
    assert apic.bits(ISR) == []
    assert apic.lapic.interrupts[0x41] == 1


def test_priority_classes_nest() -> None:
    apic = Apic()
    apic.interrupt(0x41)
    apic.lapic.take()
    apic.interrupt(0x4F)  # the same class does not nest
    assert not apic.pins.intr
    apic.interrupt(0x50)
    assert apic.pins.intr
    assert apic.lapic.take() == 0x50
    apic.store(EOI, 0)
    assert not apic.pins.intr
    apic.store(EOI, 0)
    assert apic.lapic.take() == 0x4F


def test_task_priority_and_cr8_are_one_register() -> None:
    apic = Apic()
    apic.store(TPR, 0x45)
    assert apic.lapic.read_cr8() == 4
    assert apic.load(PPR) == 0x45
    apic.interrupt(0x4F)
    assert not apic.pins.intr
    apic.lapic.write_cr8(3)
    assert apic.load(TPR) == 0x30
    assert apic.pins.intr
    apic.lapic.write_cr8(15)
    assert not apic.pins.intr
    assert apic.lapic.take() == -1


@given(st.lists(st.integers(16, 255), min_size=1), st.integers(0, 15))
def test_the_highest_vector_above_the_task_priority_is_taken(vectors: list[int], cr8: int) -> None:
    apic = Apic()
    apic.lapic.write_cr8(cr8)
    for vector in vectors:
        apic.interrupt(vector)
    taken = []
    while apic.pins.intr:
        taken.append(apic.lapic.take())
        apic.store(EOI, 0)
    assert taken == sorted({vector for vector in vectors if vector >> 4 > cr8}, reverse=True)


def test_level_interrupts_tell_the_io_apic_when_they_end() -> None:
    apic = Apic()
    ended: list[int] = []
    apic.lapic.end_level = ended.append
    apic.interrupt(0x60, level=True)
    apic.interrupt(0x71)
    assert apic.bits(TMR) == [0x60]
    for _ in range(2):
        apic.lapic.take()
        apic.store(EOI, 0)
    assert ended == [0x60]


@pytest.mark.parametrize(
    ("register", "divisor"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)]
)
def test_the_timer_divides_its_200_mhz(register: int, divisor: int) -> None:
    apic = Apic()
    apic.store(DIVIDE, register)
    assert apic.load(DIVIDE) == register
    apic.store(INITIAL, 1_000_000)
    advance(apic.clock, HZ // 1000)
    assert apic.load(CURRENT) == 1_000_000 - 200_000 // divisor


def test_one_shot() -> None:
    apic = Apic()
    apic.store(TIMER, 0x30)
    apic.store(DIVIDE, 0x0B)
    apic.store(INITIAL, 200)  # 1 us
    advance(apic.clock, microseconds(1) - 1)
    assert not apic.pins.intr
    advance(apic.clock, 1)
    assert apic.lapic.take() == 0x30
    assert apic.load(CURRENT) == 0
    apic.store(EOI, 0)
    advance(apic.clock, HZ)
    assert not apic.pins.intr


def test_periodic() -> None:
    apic = Apic()
    apic.store(TIMER, 0x20030)
    apic.store(DIVIDE, 0x0B)
    apic.store(INITIAL, 200_000)  # 1 ms
    taken = 0
    for _ in range(100):
        advance(apic.clock, HZ // 10_000)
        while apic.pins.intr:
            taken += apic.lapic.take() == 0x30
            apic.store(EOI, 0)
    assert taken == 10
    apic.store(INITIAL, 0)
    assert apic.clock.deadline is None


def test_a_masked_timer_counts_and_schedules_nothing() -> None:
    apic = Apic()
    apic.store(TIMER, 0x10030)
    apic.store(INITIAL, 0xFFFF_FFFF)
    assert apic.clock.deadline is None
    advance(apic.clock, HZ)
    assert apic.load(CURRENT) == 0xFFFF_FFFF - 100_000_000
    apic.store(TIMER, 0x30)
    assert apic.clock.deadline is not None


def test_changing_the_divisor_keeps_the_count() -> None:
    apic = Apic()
    apic.store(DIVIDE, 0x0B)
    apic.store(INITIAL, 1000)
    advance(apic.clock, microseconds(2))
    assert apic.load(CURRENT) == 600
    apic.store(DIVIDE, 0x00)
    assert apic.load(CURRENT) == 600
    advance(apic.clock, microseconds(2))
    assert apic.load(CURRENT) == 400


def test_a_late_expiry_is_not_lost_when_the_timer_is_set_again() -> None:
    apic = Apic()
    apic.store(TIMER, 0x30)
    apic.store(INITIAL, 10)
    apic.clock.now += microseconds(5)
    apic.store(INITIAL, 1_000_000)
    assert apic.lapic.take() == 0x30


@pytest.mark.parametrize(
    ("ldr", "dfr", "destination", "logical", "accepted"),
    [
        (0x00, 0xFFFF_FFFF, 0x00, False, True),
        (0x00, 0xFFFF_FFFF, 0xFF, False, True),
        (0x00, 0xFFFF_FFFF, 0x01, False, False),
        (0x02, 0xFFFF_FFFF, 0x06, True, True),
        (0x02, 0xFFFF_FFFF, 0x05, True, False),
        (0x12, 0x0FFF_FFFF, 0x16, True, True),
        (0x12, 0x0FFF_FFFF, 0x26, True, False),
        (0x12, 0x0FFF_FFFF, 0xFF, True, True),
    ],
)
def test_destinations(ldr: int, dfr: int, destination: int, logical: bool, accepted: bool) -> None:
    apic = Apic()
    apic.store(LDR, ldr << 24)
    apic.store(DFR, dfr)
    assert apic.lapic.receive(destination, logical, FIXED, 0x40, False) is accepted


def test_self_interrupts() -> None:
    apic = Apic()
    apic.store(ICR_LOW, 1 << 18 | 0x55)
    assert apic.lapic.take() == 0x55
    apic.store(EOI, 0)
    apic.store(ICR_HIGH, 0)
    apic.store(ICR_LOW, 0x66)
    assert apic.lapic.take() == 0x66
    apic.store(ICR_LOW, 3 << 18 | 0x77)  # all but self: nobody
    assert not apic.pins.intr
    assert apic.load(ICR_LOW) == 3 << 18 | 0x77  # delivery status is idle


def test_nmi_and_init_by_command() -> None:
    apic = Apic()
    apic.store(ICR_LOW, 0x4400)
    assert apic.pins.nmis == 1
    apic.store(ICR_LOW, 0x4500)
    assert apic.pins.resets == 1
    apic.store(ICR_LOW, 0x8500)  # de-assert
    assert apic.pins.resets == 1


def test_smi_by_command_and_by_a_local_vector() -> None:
    apic = Apic()
    apic.store(ICR_LOW, 0x4200)
    assert apic.pins.smis == 1
    apic.store(LINT0, 0x200)
    apic.lapic.set_lint0(True)
    assert apic.pins.smis == 2
    assert not apic.pins.intr


def test_a_start_up_message_to_the_bootstrap_processor_is_accepted_and_does_nothing() -> None:
    apic = Apic()
    apic.store(ICR_LOW, 0x4608)
    apic.store(ESR, 0)
    assert apic.load(ESR) == 0  # no send accept error
    assert (apic.pins.nmis, apic.pins.smis, apic.pins.resets, apic.pins.intr) == (0, 0, 0, False)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [(0x200, True), (0x400, True), (0x500, True), (0x10400, False), (0x700, False), (0x30, False)],
)
def test_lint0_may_be_a_source_of_what_if_does_not_mask(entry: int, expected: bool) -> None:
    apic = Apic()
    apic.store(LINT0, entry)
    assert apic.lapic.lint0_unmaskable() is expected
    apic.lapic.apic_base = 0xFEE0_0000  # disabled
    assert not apic.lapic.lint0_unmaskable()


def test_illegal_vectors_and_registers_are_errors() -> None:
    apic = Apic()
    apic.store(ERROR, 0xFE)
    apic.store(ICR_LOW, 1 << 18 | 0x05)
    assert apic.lapic.take() == 0xFE
    apic.interrupt(0x0F)
    apic.load(0x40)
    assert apic.load(ESR) == 0
    apic.store(ESR, 0)
    assert apic.load(ESR) == 0x20 | 0x40 | 0x80
    apic.store(ESR, 0)
    assert apic.load(ESR) == 0


def test_software_disable_masks_the_local_vectors_and_refuses_interrupts() -> None:
    apic = Apic()
    apic.store(TIMER, 0x30)
    apic.store(SVR, 0xFF)
    assert apic.load(TIMER) == 0x10030
    apic.store(TIMER, 0x30)
    assert apic.load(TIMER) == 0x10030
    assert not apic.interrupt(0x40)


def test_hardware_disable_resets_and_passes_the_pic_through() -> None:
    apic = Apic()
    apic.interrupt(0x40)
    apic.lapic.apic_base &= ~(1 << 11)
    assert not apic.pins.intr
    assert apic.load(SVR) == 0xFF
    apic.lapic.set_lint0(True)
    assert apic.pins.intr
    apic.lapic.apic_base |= 1 << 11
    assert not apic.pins.intr  # LINT0 is masked after reset


def test_lint0_as_extint_passes_the_pic_through() -> None:
    apic = Apic()
    apic.store(LINT0, 0x700)
    apic.lapic.set_lint0(True)
    assert apic.pins.intr
    assert apic.lapic.take() == -1
    apic.store(LINT0, 0x10700)
    assert not apic.pins.intr


def test_lint1_is_nmi() -> None:
    apic = Apic()
    apic.lapic.set_lint1(True)
    assert apic.pins.nmis == 0
    apic.lapic.set_lint1(False)
    apic.store(LINT1, 0x400)
    apic.lapic.set_lint1(True)
    assert apic.pins.nmis == 1


def test_lint0_as_a_level_interrupt_repeats_until_it_falls() -> None:
    apic = Apic()
    apic.store(LINT0, 0x8048)
    apic.lapic.set_lint0(True)
    assert apic.lapic.take() == 0x48
    assert apic.load(LINT0) == 0xC048  # remote IRR
    apic.store(EOI, 0)
    assert apic.lapic.take() == 0x48
    apic.lapic.set_lint0(False)
    apic.store(EOI, 0)
    assert not apic.pins.intr


def test_odd_accesses() -> None:
    apic = Apic()
    assert apic.lapic.read_memory(0x31, 1) == 0x00
    assert apic.lapic.read_memory(0x32, 2) == 0x0005
    assert apic.lapic.read_memory(0x30, 8) == 0x0005_0010
    assert apic.lapic.read_memory(0x34, 4) == 0
    apic.lapic.write_memory(TPR + 1, 4, 0xFF)
    apic.lapic.write_memory(TPR, 1, 0xFF)
    assert apic.load(TPR) == 0
