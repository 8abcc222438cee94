"""The keyboard controller and its devices, as Linux's i8042, atkbd and psmouse drivers probe them."""

from __future__ import annotations

import pytest

from trapgate.devices.i8042 import I8042
from trapgate.devices.system_control import A20Gate

from .support import Line


class Controller:
    """The controller with its surroundings."""

    def __init__(self) -> None:
        self.irq1 = Line()
        self.irq12 = Line()
        self.resets = 0
        self.a20 = A20Gate(lambda enabled: None)
        self.chip = I8042(self.irq1, self.irq12, self.a20, self._reset)

    def _reset(self) -> None:
        self.resets += 1

    def status(self) -> int:
        return self.chip.read_port(4, 1)

    def drain(self) -> list[int]:
        """Every byte that waits; those of the mouse as 100h + byte."""
        got = []
        while (status := self.status()) & 1:
            got.append(self.chip.read_port(0, 1) | (status & 0x20) << 3)
        return got

    def command(self, command: int, *parameters: int) -> list[int]:
        self.chip.write_port(4, 1, command)
        for parameter in parameters:
            self.chip.write_port(0, 1, parameter)
        return self.drain()

    def keyboard(self, *values: int) -> list[int]:
        for value in values:
            self.chip.write_port(0, 1, value)
        return self.drain()

    def mouse(self, *values: int) -> list[int]:
        got = []
        for value in values:
            got += self.command(0xD4, value)
        assert all(value & 0x100 for value in got)
        return [value & 0xFF for value in got]


def test_status_after_power_on() -> None:
    # System flag set, keyboard not locked, buffers empty: what Linux wants to see.
    assert Controller().status() == 0x14


def test_self_test_and_port_tests() -> None:
    controller = Controller()
    assert controller.command(0xAA) == [0x55]
    assert controller.command(0xA9) == [0x00]
    assert controller.command(0xAB) == [0x00]


def test_the_command_byte() -> None:
    controller = Controller()
    assert controller.command(0x20) == [0x44]
    controller.command(0x60, 0x47)
    assert controller.command(0x20) == [0x47]
    controller.command(0xA7)
    assert controller.command(0x20) == [0x67]
    controller.command(0xA8)
    controller.command(0xAD)
    assert controller.command(0x20) == [0x57]
    controller.command(0xAE)
    assert controller.command(0x20) == [0x47]


def test_the_auxiliary_port_loops_back() -> None:
    controller = Controller()
    assert controller.command(0xD3, 0x5A) == [0x15A]
    assert controller.command(0xD2, 0x5A) == [0x5A]


def test_interrupts_follow_the_command_byte_and_each_byte_makes_an_edge() -> None:
    controller = Controller()
    controller.command(0x60, 0x44)
    controller.chip.write_port(0, 1, 0xF2)
    assert not controller.irq1.level
    controller.drain()
    controller.command(0x60, 0x47)
    rises = controller.irq1.rises
    controller.chip.write_port(0, 1, 0xF2)
    assert controller.irq1.level
    assert controller.drain() == [0xFA, 0xAB, 0x41]
    assert controller.irq1.rises == rises + 3
    assert not controller.irq1.level
    controller.chip.write_port(4, 1, 0xD3)
    controller.chip.write_port(0, 1, 0xA5)
    assert (controller.irq12.level, controller.irq1.level) == (True, False)


def test_the_keyboard_answers() -> None:
    controller = Controller()
    controller.command(0x60, 0x04)  # no translation
    assert controller.keyboard(0xF2) == [0xFA, 0xAB, 0x83]
    assert controller.keyboard(0xED, 0x07) == [0xFA, 0xFA]
    assert controller.chip.keyboard.leds == 7
    assert controller.keyboard(0xF3, 0x00) == [0xFA, 0xFA]
    assert controller.keyboard(0xF0, 0x00) == [0xFA, 0xFA, 0x02]
    assert controller.keyboard(0xEE) == [0xEE]
    assert controller.keyboard(0xFF) == [0xFA, 0xAA]
    assert controller.keyboard(0x01) == [0xFE]


@pytest.mark.parametrize(
    ("command_byte", "pressed", "seen"),
    [
        (0x04, [0x1C, 0xF0, 0x1C], [0x1C, 0xF0, 0x1C]),  # A, set 2
        (0x44, [0x1C, 0xF0, 0x1C], [0x1E, 0x9E]),  # A, set 1
        (0x44, [0xE0, 0x75, 0xE0, 0xF0, 0x75], [0xE0, 0x48, 0xE0, 0xC8]),  # up
        (0x44, [0x83, 0x5A, 0x29, 0x76], [0x41, 0x1C, 0x39, 0x01]),  # F7, Enter, space, Esc
    ],
)
def test_keys(command_byte: int, pressed: list[int], seen: list[int]) -> None:
    controller = Controller()
    controller.command(0x60, command_byte)
    controller.chip.press(bytes(pressed))
    assert controller.drain() == seen
    controller.keyboard(0xF5)  # stop scanning
    controller.chip.press(bytes(pressed))
    assert controller.drain() == []


def test_a_disabled_keyboard_keeps_its_bytes() -> None:
    controller = Controller()
    controller.command(0xAD)
    controller.chip.press(b"\x1c")
    assert controller.drain() == []
    assert controller.command(0xAE) == [0x1E]


def test_the_mouse_answers() -> None:
    controller = Controller()
    assert controller.mouse(0xFF) == [0xFA, 0xAA, 0x00]
    assert controller.mouse(0xF2) == [0xFA, 0x00]
    assert controller.mouse(0xE8, 3) == [0xFA, 0xFA]
    assert controller.mouse(0xF3, 60, 0xE7, 0xF4) == [0xFA] * 4
    assert controller.mouse(0xE9) == [0xFA, 0x30, 3, 60]
    assert controller.mouse(0xF0) == [0xFA]
    assert controller.mouse(0xEB) == [0xFA, 0x08, 0, 0]
    assert controller.mouse(0xEE, 0x33) == [0xFA, 0x33]
    assert controller.mouse(0xEC) == [0xFA]
    assert controller.mouse(0xE1) == [0xFE]


def test_reset_pulses() -> None:
    controller = Controller()
    controller.command(0xFE)
    assert controller.resets == 1
    controller.command(0xFF)
    assert controller.resets == 1
    controller.command(0xD1, 0xFE)
    assert controller.resets == 2


def test_the_output_port_holds_a20() -> None:
    controller = Controller()
    assert controller.command(0xD0)[0] & 3 == 3
    controller.command(0xD1, 0xDD)
    assert not controller.a20.enabled
    assert controller.command(0xD0)[0] & 3 == 1
    controller.command(0xD1, 0xDF)
    assert controller.a20.enabled


def test_controller_memory_and_unknown_commands() -> None:
    controller = Controller()
    controller.command(0x65, 0x77)
    assert controller.command(0x25) == [0x77]
    assert controller.command(0x99) == []
    assert controller.status() & 0x08  # the last byte was a command


def test_a_flood_of_keys_is_bounded() -> None:
    controller = Controller()
    for _ in range(10_000):
        controller.chip.press(b"\x1c")
        controller.chip.write_port(4, 1, 0xAA)
        controller.chip.write_port(4, 1, 0xD4)
        controller.chip.write_port(0, 1, 0xF2)
    assert len(controller.drain()) < 1000
