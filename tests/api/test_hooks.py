"""Hooks, and devices written in Python."""

from __future__ import annotations

import pytest

from trapgate.api import ExceptionEvent, InstructionEvent, InterruptEvent, MemoryEvent, PortEvent, StopRequested
from trapgate.api.errors import InvalidAnswer

from .code import HOOKED
from .conftest import Maker

pytestmark = pytest.mark.engine

#: mov dx, 300h; in ax, dx; out dx, al; hlt
SENSOR = bytes.fromhex("ba 00 03 ed ee f4")
#: 32-bit accesses from unreal segments: mov ebx, 0d0000h (in the first MB: no RAM only above 1 MB) is not needed; the
#: local APIC is reached through FS with a base that the test loads. fs: mov eax, [30h]; hlt
APIC = bytes.fromhex("64 66 a1 30 00 f4")


def test_hooks_see_what_happens(booted: Maker) -> None:
    machine = booted(HOOKED)
    seen: list[object] = []
    machine.on_instruction("cpuid", seen.append)
    machine.on_port(0xE9, seen.append)
    machine.on_exception(6, seen.append)
    machine.on_interrupt(None, lambda event: (seen.append(event), machine.stop())[0])
    assert machine.run() == StopRequested()
    cpuid, port, exception, interrupt = seen
    assert isinstance(cpuid, InstructionEvent)
    assert (cpuid.name, cpuid.text, cpuid.rip) == ("cpuid", "cpuid", 0x7C03)
    assert isinstance(port, PortEvent)
    assert (port.port, port.width, port.value, port.is_write, port.rip) == (0xE9, 1, 0x41, True, 0x7C07)
    assert isinstance(exception, ExceptionEvent)
    assert (exception.vector, exception.error, exception.rip) == (6, None, 0x7C15)
    assert isinstance(interrupt, InterruptEvent)
    assert (interrupt.vector, interrupt.is_software, interrupt.rip) == (0x80, True, 0x7C1D)


def test_hooks_change_values_and_can_be_removed(booted: Maker) -> None:
    machine = booted(HOOKED)
    hook = machine.on_port(range(0xE0, 0xF0), lambda event: ord("B"))
    never: list[object] = []
    removed = machine.on_instruction("cpuid", never.append)
    removed.remove()
    removed.remove()
    machine.run(until="B", seconds=0.001)
    assert machine.console.text == "B"
    hook.remove()
    assert never == []


def test_memory_hooks(booted: Maker) -> None:
    machine = booted(APIC)
    machine.registers.fs.load(0, 0xFEE0_0000, 0xFFFF, 0x93)
    seen: list[MemoryEvent] = []

    def change(event: MemoryEvent) -> int:
        seen.append(event)
        return 0x1234

    machine.on_memory(range(0xFEE0_0000, 0xFEE0_1000), change)
    machine.run()
    assert [(event.address, event.width, event.is_write, event.rip) for event in seen] == [
        (0xFEE0_0030, 4, False, 0x7C00)
    ]
    assert machine.registers.rax == 0x1234


class Sensor:
    """Counts its reads."""

    name = "thermometer"

    def __init__(self, answer: object = 0x51234) -> None:
        self.answer = answer
        self.written: list[tuple[int, int, int]] = []

    def read_port(self, offset: int, width: int) -> int:
        return self.answer  # type: ignore[return-value]

    def write_port(self, offset: int, width: int, value: int) -> None:
        self.written.append((offset, width, value))


def test_a_device_on_a_port(booted: Maker) -> None:
    machine = booted(SENSOR)
    sensor = Sensor()
    machine.add_port_device(0x300, sensor, 2)
    machine.run()
    assert machine.registers.rax == 0x1234
    assert sensor.written == [(0, 1, 0x34)]
    assert machine.statistics().port_accesses["thermometer"] == 2


def test_an_error_of_a_device_comes_out(booted: Maker) -> None:
    machine = booted(SENSOR)
    machine.add_port_device(0x300, Sensor("warm"))
    with pytest.raises(InvalidAnswer):
        machine.run()


def test_a_device_in_memory(booted: Maker) -> None:
    class Register:
        def read_memory(self, offset: int, width: int) -> int:
            return offset << 8 | width

        def write_memory(self, offset: int, width: int, value: int) -> None:
            raise AssertionError

    machine = booted(APIC)
    machine.registers.fs.load(0, 0xE000_0000, 0xFFFF, 0x93)
    machine.add_memory_device(0xE000_0000, Register())
    machine.run()
    assert machine.registers.rax == 0x3004
    assert machine.statistics().memory_accesses["Register"] == 1
