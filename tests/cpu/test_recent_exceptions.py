"""The exceptions that a report shows: every one that was delivered, however it came about."""

from __future__ import annotations

import pytest

from trapgate import Machine
from trapgate.api import GuestExited, TripleFault
from trapgate.cpu.control import Control
from trapgate.cpu.tasks import Tasks

pytestmark = pytest.mark.engine


def booted(code: str) -> Machine:
    machine = Machine("1M")
    machine.boot(image=bytes.fromhex(code), address=0x7C00)
    return machine


def test_int1_is_remembered_and_hooked() -> None:
    # mov word [4], handler; int1; handler: mov al, 0; out f4h, al
    machine = booted("c7 06 04 00 0d 7c c7 06 06 00 00 00 f1 b0 00 e6 f4")
    seen: list[tuple[int, int]] = []
    machine.on_exception(None, lambda event: seen.append((event.vector, event.rip)))
    assert machine.run() == GuestExited(1)
    # A trap: rip is behind the instruction.
    assert list(machine._processor.recent_exceptions) == [(1, None, 0x7C0D, None)]
    assert seen == [(1, 0x7C0D)]
    assert "last exceptions:\n  #DB at rip=0000000000007c0d\n" in machine.report()


def test_a_shutdown_shows_what_led_to_it() -> None:
    """An interrupt table of no length: #UD, which makes #GP, #GP again, #DF, and one more #GP."""
    machine = booted("0f 01 1e 07 7c 0f 0b 00 00 00 00 00 00")  # lidt [7c07h]; ud2
    seen: list[int] = []
    machine.on_exception(None, lambda event: seen.append(event.vector))
    assert machine.run() == TripleFault()
    recent = [(vector, rip) for vector, _, rip, _ in machine._processor.recent_exceptions]
    assert recent == [(6, 0x7C05), (13, 0x7C05), (13, 0x7C05), (8, 0x7C05), (13, 0x7C05)]
    # What made the double fault and the shutdown was not delivered.
    assert seen == [6, 13, 8]
    assert machine.statistics().exceptions == {6: 1, 13: 1, 8: 1}


@pytest.mark.parametrize("instruction", ["cc", "ce", "cd 80"])
def test_software_interrupts_can_be_hooked(instruction: str) -> None:
    # mov ax, 8800h; sahf does not set OF: add al, al does, from 40h; the vector leads to 0000:0000.
    machine = booted(f"b0 40 00 c0 {instruction}")
    seen: list[tuple[int, bool]] = []

    def take(event: object) -> None:
        seen.append((event.vector, event.is_software))  # type: ignore[attr-defined]
        machine.stop()

    machine.on_interrupt(None, take)
    machine.run()
    assert seen == [({"cc": 3, "ce": 4, "cd 80": 0x80}[instruction], True)]


def test_what_a_processor_lacks_cannot_be_forgotten() -> None:
    """The pieces of the processor name what they need of each other, and none of them is a processor by itself."""
    assert Tasks.__abstractmethods__ == {"deliver_exception", "set_cr3", "write_dr"}
    assert Control.__abstractmethods__ == {"control_smm", "drive_ignne", "set_time_stamp", "time_stamp", "write_dr"}
    with pytest.raises(TypeError, match="abstract"):
        Control(None, None, 0, None)  # type: ignore[abstract,arg-type]
