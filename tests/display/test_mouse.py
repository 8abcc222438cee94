"""The mouse: packets, buttons, the wheel. Source: IBM PS/2 Hardware Interface Technical Reference, "Mouse"; Microsoft's
IntelliMouse for the wheel."""

from __future__ import annotations

from devices.support import Line
from trapgate.devices.i8042 import I8042, MOVEMENT
from trapgate.devices.system_control import A20Gate


class Rig:
    def __init__(self) -> None:
        self.aux = Line()
        self.chip = I8042(Line(), self.aux, A20Gate(lambda on: None), lambda: None)
        self.chip.write_port(4, 1, 0x60)
        self.chip.write_port(0, 1, 0x03)

    def tell(self, *values: int) -> bytes:
        for value in values:
            self.chip.write_port(4, 1, 0xD4)
            self.chip.write_port(0, 1, value)
        return self.drain()

    def drain(self) -> bytes:
        data = bytearray()
        while self.chip.read_port(4, 1) & 1:
            assert self.chip.read_port(4, 1) & 0x20
            data.append(self.chip.read_port(0, 1))
        return bytes(data)

    def move(self, dx: int = 0, dy: int = 0, dz: int = 0, buttons: int = 0) -> None:
        self.chip.move(MOVEMENT.pack(dx, dy, dz, buttons))


def test_nothing_is_reported_before_a_driver_asks_for_it() -> None:
    rig = Rig()
    rig.move(5, 5)
    assert rig.drain() == b""
    assert rig.tell(0xF4) == b"\xfa"
    assert rig.drain() == b""  # and what was before is forgotten


def test_a_movement_is_a_packet_with_an_interrupt() -> None:
    rig = Rig()
    rig.tell(0xF4)
    before = rig.aux.rises
    rig.move(3, -2, buttons=1)  # up on the screen is up for the mouse
    assert rig.aux.rises == before + 1
    assert rig.drain() == bytes((0x09, 3, 2))
    rig.move(-3, 2, buttons=1)
    assert rig.drain() == bytes((0x08 | 1 | 0x10 | 0x20, 0xFD, 0xFE))
    rig.move(buttons=6)
    assert rig.drain() == bytes((0x0E, 0, 0))
    rig.move(buttons=6)
    assert rig.drain() == b""


def test_what_moves_while_nobody_reads_becomes_one_packet() -> None:
    rig = Rig()
    rig.tell(0xF4)
    for _ in range(10):
        rig.move(4, 0)
    assert rig.drain() == bytes((0x08, 4, 0, 0x08, 36, 0))
    rig.move(600, 0)
    assert rig.drain() == bytes((0x08, 255, 0, 0x08, 255, 0, 0x08, 90, 0))


def test_presses_are_not_lost_while_nobody_reads() -> None:
    rig = Rig()
    rig.tell(0xF4)
    rig.move(1, 0)
    rig.move(2, 0)
    rig.move(buttons=1)
    rig.move(buttons=0)
    rig.move(4, 0)
    assert rig.drain() == bytes((8, 1, 0, 8, 2, 0, 9, 0, 0, 8, 0, 0, 8, 4, 0))
    for n in range(1000):
        rig.move(buttons=n & 1)
    assert len(rig.drain()) < 300


def test_a_knock_makes_it_a_mouse_with_a_wheel() -> None:
    rig = Rig()
    assert rig.tell(0xF2) == b"\xfa\x00"
    rig.tell(0xF4)
    rig.move(dz=1)
    assert rig.drain() == b""
    rig.tell(0xF3, 200, 0xF3, 100, 0xF3, 80)
    assert rig.tell(0xF2) == b"\xfa\x03"
    rig.move(1, 0, dz=-1)
    assert rig.drain() == bytes((0x08, 1, 0, 0xFF))
    assert rig.tell(0xFF) == b"\xfa\xaa\x00"
    assert rig.tell(0xF2) == b"\xfa\x00"


def test_remote_mode_reports_when_it_is_asked() -> None:
    rig = Rig()
    rig.tell(0xF4, 0xF0)
    rig.move(7, 0)
    assert rig.drain() == b""
    assert rig.tell(0xEB) == bytes((0xFA, 0x08, 7, 0))
    assert rig.tell(0xEB) == bytes((0xFA, 0x08, 0, 0))


def test_scaling_two_to_one() -> None:
    rig = Rig()
    rig.tell(0xF4, 0xE7)
    shown = []
    for counts in (1, 2, 3, 4, 5, 6, -3):
        rig.move(counts, 0)
        shown.append(rig.drain()[1])
    assert shown == [1, 1, 3, 6, 9, 12, 0xFD]


def test_status_shows_the_buttons() -> None:
    rig = Rig()
    rig.move(buttons=1 | 4)
    assert rig.tell(0xE9)[1] == 0b110


def test_garbage_is_no_movement() -> None:
    rig = Rig()
    rig.tell(0xF4)
    rig.chip.move(b"")
    rig.chip.move(b"12345")
    rig.chip.move(b"1234567")
    assert rig.drain() == b""


def test_keys_in_scan_code_set_1() -> None:
    rig = Rig()
    rig.chip.write_port(4, 1, 0x60)
    rig.chip.write_port(0, 1, 0x00)  # no translation
    rig.chip.write_port(0, 1, 0xF0)
    rig.chip.write_port(0, 1, 0x01)
    while rig.chip.read_port(4, 1) & 1:
        rig.chip.read_port(0, 1)
    rig.chip.press(b"\x1c\xf0\x1c\xe0\x75\xe0\xf0\x75")
    sent = []
    while rig.chip.read_port(4, 1) & 1:
        sent.append(rig.chip.read_port(0, 1))
    assert bytes(sent) == b"\x1e\x9e\xe0\x48\xe0\xc8"


def test_a_snapshot_in_the_middle_of_a_packet() -> None:
    rig, other = Rig(), Rig()
    rig.tell(0xF3, 200, 0xF3, 100, 0xF3, 80, 0xF2, 0xF4)
    rig.move(3, 0)
    rig.move(9, 9, 1, 2)
    rig.chip.read_port(0, 1)
    other.chip.restore(rig.chip.snapshot())
    assert other.drain() == rig.drain() != b""
