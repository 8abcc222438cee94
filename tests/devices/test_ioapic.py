"""The I/O APIC, as the 82093AA data sheet describes it."""

from __future__ import annotations

from trapgate.devices.ioapic import IoApic

from .support import Line


class Messages:
    """Records the messages that the I/O APIC sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bool, int, int, bool]] = []
        self.accept = True

    def receive(self, destination: int, logical: bool, delivery: int, vector: int, level: bool) -> bool:
        self.sent.append((destination, logical, delivery, vector, level))
        return self.accept


class Chip:
    """The chip with its surroundings."""

    def __init__(self) -> None:
        self.messages = Messages()
        self.extint = Line()
        self.chip = IoApic(self.messages, self.extint)

    def get(self, register: int) -> int:
        self.chip.write_memory(0, 4, register)
        return self.chip.read_memory(0x10, 4)

    def put(self, register: int, value: int) -> None:
        self.chip.write_memory(0, 4, register)
        self.chip.write_memory(0x10, 4, value)

    def route(self, pin: int, low: int, high: int = 0) -> None:
        self.put(0x11 + 2 * pin, high)
        self.put(0x10 + 2 * pin, low)


def test_identification() -> None:
    chip = Chip()
    assert chip.get(1) == 0x0017_0011
    chip.put(0, 0xFFFF_FFFF)
    assert chip.get(0) == 0x0F00_0000
    assert [chip.get(0x10 + 2 * pin) for pin in range(24)] == [0x10000] * 24


def test_read_only_bits_stay() -> None:
    chip = Chip()
    chip.put(0x10, 0xFFFF_FFFF)
    assert chip.get(0x10) == 0x0001_AFFF
    chip.put(0x11, 0xFFFF_FFFF)
    assert chip.get(0x11) == 0xFF00_0000
    assert chip.get(0x40) == 0xFFFF_FFFF


def test_edges_send_one_message_each() -> None:
    chip = Chip()
    chip.route(4, 0x0934, 0x0F00_0000)
    for level in (True, True, False, True):
        chip.chip.set_pin(4, level)
    assert chip.messages.sent == [(0x0F, True, 1, 0x34, False)] * 2


def test_an_edge_on_a_masked_input_is_lost() -> None:
    chip = Chip()
    chip.chip.set_pin(4, True)
    chip.route(4, 0x34)
    assert chip.messages.sent == []


def test_a_level_waits_for_the_end_of_interrupt() -> None:
    chip = Chip()
    chip.chip.set_pin(9, True)
    chip.route(9, 0x8049)
    assert chip.messages.sent == [(0, False, 0, 0x49, True)]
    assert chip.get(0x22) == 0xC049
    chip.chip.set_pin(9, False)
    chip.chip.set_pin(9, True)
    assert len(chip.messages.sent) == 1
    chip.chip.end_of_interrupt(0x48)
    assert len(chip.messages.sent) == 1
    chip.chip.end_of_interrupt(0x49)
    assert len(chip.messages.sent) == 2
    chip.chip.set_pin(9, False)
    chip.chip.end_of_interrupt(0x49)
    assert chip.get(0x22) == 0x8049
    assert len(chip.messages.sent) == 2


def test_a_refused_level_is_not_remembered() -> None:
    chip = Chip()
    chip.messages.accept = False
    chip.route(9, 0x8049)
    chip.chip.set_pin(9, True)
    assert chip.get(0x22) == 0x8049


def test_turning_an_entry_to_edge_clears_remote_irr() -> None:
    # Linux does this to end a level interrupt by hand on version 11h.
    chip = Chip()
    chip.route(9, 0x8049)
    chip.chip.set_pin(9, True)
    chip.put(0x22, 0x1_0049)
    assert chip.get(0x22) == 0x1_0049
    chip.put(0x22, 0x8049)
    assert len(chip.messages.sent) == 2


def test_extint_follows_the_input() -> None:
    chip = Chip()
    chip.chip.set_pin(0, True)
    chip.route(0, 0x700)
    assert chip.extint.level
    chip.chip.set_pin(0, False)
    assert not chip.extint.level
    chip.chip.set_pin(0, True)
    chip.put(0x10, 0x1_0700)
    assert not chip.extint.level
    assert chip.messages.sent == []
