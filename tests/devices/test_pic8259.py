"""The 8259 pair, as the Intel 8259A data sheet describes it."""

from __future__ import annotations

import pytest

from trapgate.devices.pic8259 import PicPair

from .support import Line


def pair(icw4: int = 0x01) -> tuple[PicPair, Line]:
    """Initialized as Linux does: vectors 30h and 38h, nothing masked."""
    intr = Line()
    pic = PicPair(intr)
    for chip, base, cascade in ((pic.master, 0x30, 4), (pic.slave, 0x38, 2)):
        chip.write_port(0, 1, 0x11)
        chip.write_port(1, 1, base)
        chip.write_port(1, 1, cascade)
        chip.write_port(1, 1, icw4)
        chip.write_port(1, 1, 0)
    return pic, intr


def pulse(pic: PicPair, irq: int) -> None:
    pic.set_irq(irq, False)
    pic.set_irq(irq, True)


def test_an_edge_interrupts_once() -> None:
    pic, intr = pair()
    pic.set_irq(4, True)
    assert intr.level
    assert pic.acknowledge() == 0x34
    assert not intr.level
    pic.master.write_port(0, 1, 0x20)
    assert not intr.level  # the line is still high, but there was no new edge
    pulse(pic, 4)
    assert intr.level


def test_priority_is_fixed_and_in_service_blocks_lower_lines() -> None:
    pic, intr = pair()
    for irq in (5, 3, 6):
        pic.set_irq(irq, True)
    assert pic.acknowledge() == 0x33
    assert not intr.level
    pic.set_irq(1, True)
    assert pic.acknowledge() == 0x31  # nests
    pic.master.write_port(0, 1, 0x20)
    assert not intr.level
    pic.master.write_port(0, 1, 0x20)
    assert pic.acknowledge() == 0x35


def test_slave_lines_come_through_the_cascade() -> None:
    pic, intr = pair()
    pic.set_irq(12, True)
    assert intr.level
    assert pic.acknowledge() == 0x3C
    assert pic.master.isr == 0x04
    assert pic.slave.isr == 0x10
    pic.slave.write_port(0, 1, 0x20)
    pic.master.write_port(0, 1, 0x20)
    assert (pic.master.isr, pic.slave.isr, intr.level) == (0, 0, False)


def test_line_2_cannot_be_driven() -> None:
    pic, intr = pair()
    pic.set_irq(2, True)
    assert not intr.level


@pytest.mark.parametrize(("irq", "vector"), [(3, 0x37), (10, 0x37)])
def test_a_request_that_vanishes_is_spurious_on_line_7(irq: int, vector: int) -> None:
    pic, intr = pair()
    pic.set_irq(irq, True)
    pic.set_irq(irq, False)
    assert not intr.level
    assert pic.acknowledge() == vector
    assert pic.master.isr == 0
    assert pic.master.spurious == 1


def test_a_slave_request_that_vanishes_behind_the_master_is_its_line_7() -> None:
    pic, _ = pair()
    pic.slave.set_int = Line()  # the master does not see INT fall in time
    pic.master.set_line(2, True)
    assert pic.acknowledge() == 0x3F
    assert pic.master.isr == 4
    assert pic.slave.isr == 0


def test_masked_requests_wait() -> None:
    pic, intr = pair()
    pic.master.write_port(1, 1, 0x10)
    pic.set_irq(4, True)
    assert not intr.level
    assert pic.master.read_port(1, 1) == 0x10
    assert pic.master.read_port(0, 1) == 0x10  # IRR is read by default
    pic.master.write_port(1, 1, 0)
    assert intr.level


def test_level_triggered_lines_interrupt_again_after_eoi() -> None:
    pic, intr = pair()
    pic.elcr.write_port(1, 1, 0xFF)
    assert pic.elcr.read_port(1, 1) == 0xDE  # IRQ 8 and 13 are always edge
    pic.elcr.write_port(0, 1, 0xFF)
    assert pic.elcr.read_port(0, 1) == 0xF8
    pic.set_irq(10, True)
    assert pic.acknowledge() == 0x3A
    pic.slave.write_port(0, 1, 0x20)
    pic.master.write_port(0, 1, 0x20)
    assert intr.level
    pic.set_irq(10, False)
    assert not intr.level


def test_automatic_eoi_leaves_nothing_in_service() -> None:
    pic, intr = pair(icw4=0x03)
    pic.set_irq(8, True)
    pic.set_irq(9, True)
    assert pic.acknowledge() == 0x38
    assert intr.level  # the slave's next request makes an edge at the master
    assert pic.acknowledge() == 0x39
    assert (pic.master.isr, pic.slave.isr, intr.level) == (0, 0, False)


def test_rotation_makes_the_served_line_the_lowest() -> None:
    pic, _ = pair()
    pic.set_irq(3, True)
    assert pic.acknowledge() == 0x33
    pic.master.write_port(0, 1, 0xA0)  # rotate on non-specific EOI
    pulse(pic, 3)
    pic.set_irq(4, True)
    assert pic.acknowledge() == 0x34
    pic.master.write_port(0, 1, 0x60 | 4)  # specific EOI
    assert pic.acknowledge() == 0x33


def test_set_priority() -> None:
    pic, _ = pair()
    pic.master.write_port(0, 1, 0xC0 | 5)  # line 5 is lowest, so 6 is highest
    for irq in (0, 5, 6):
        pic.set_irq(irq, True)
    order = []
    for _ in range(3):
        order.append(pic.acknowledge())
        pic.master.write_port(0, 1, 0x20)
    assert order == [0x36, 0x30, 0x35]


def test_special_mask_mode_lets_lower_lines_through_a_masked_one() -> None:
    pic, intr = pair()
    pic.set_irq(1, True)
    assert pic.acknowledge() == 0x31
    pic.set_irq(6, True)
    assert not intr.level
    pic.master.write_port(1, 1, 0x02)
    pic.master.write_port(0, 1, 0x68)
    assert pic.acknowledge() == 0x36
    pic.master.write_port(0, 1, 0x20)  # a non-specific EOI does not see the masked line 1
    assert pic.master.isr == 0x02
    pic.master.write_port(0, 1, 0x48)
    pulse(pic, 6)
    assert not intr.level


def test_special_fully_nested_master_takes_a_second_interrupt_of_the_slave() -> None:
    pic, intr = pair(icw4=0x11)
    pic.set_irq(12, True)
    assert pic.acknowledge() == 0x3C
    pic.set_irq(14, True)
    assert not intr.level  # lower than line 12
    pic.set_irq(3, True)
    assert not intr.level  # lower than the cascade
    pic.set_irq(9, True)
    assert pic.acknowledge() == 0x39


def test_normal_master_does_not() -> None:
    pic, intr = pair()
    pic.set_irq(12, True)
    pic.acknowledge()
    pic.set_irq(9, True)
    assert not intr.level


def test_poll_acknowledges() -> None:
    pic, intr = pair()
    pic.master.write_port(0, 1, 0x0C)
    assert pic.master.read_port(0, 1) & 0x80 == 0
    pic.set_irq(5, True)
    pic.master.write_port(0, 1, 0x0C)
    assert pic.master.read_port(0, 1) == 0x85
    assert not intr.level
    pic.master.write_port(0, 1, 0x0B)
    assert pic.master.read_port(0, 1) == 0x20  # in service


def test_initialization_forgets_and_wants_new_edges() -> None:
    pic, intr = pair()
    pic.set_irq(1, True)
    pic.acknowledge()
    pic.set_irq(3, True)
    pic.master.write_port(1, 1, 0xFF)
    pic.master.write_port(0, 1, 0x11)
    assert (pic.master.irr, pic.master.isr, pic.master.imr) == (0, 0, 0)
    for value in (0x08, 4, 1):
        pic.master.write_port(1, 1, value)
    assert not intr.level
    pulse(pic, 3)
    assert pic.acknowledge() == 0x0B


def test_single_mode_skips_icw3_and_icw4_is_optional() -> None:
    pic, _ = pair()
    pic.master.write_port(0, 1, 0x12)  # single, no ICW4
    pic.master.write_port(1, 1, 0x50)
    pic.master.write_port(1, 1, 0xEF)  # already OCW1
    assert pic.master.imr == 0xEF
    pic.set_irq(4, True)
    assert pic.acknowledge() == 0x54
