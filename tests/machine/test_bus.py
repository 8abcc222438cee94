"""The bus: splitting, unmapped accesses, conflicts, counts."""

from __future__ import annotations

import pytest

from trapgate.machine.bus import Bus
from trapgate.machine.errors import InvalidMapping, MappingConflict


class Recorder:
    """A device that answers with its offsets and keeps what is written."""

    def __init__(self, name: str = "recorder", port_width: int = 1) -> None:
        self.name = name
        self.port_width = port_width
        self.writes: list[tuple[int, int, int]] = []

    def read_port(self, offset: int, width: int) -> int:
        return sum((offset + i) << (8 * i) for i in range(width))

    def write_port(self, offset: int, width: int, value: int) -> None:
        self.writes.append((offset, width, value))

    read_memory = read_port
    write_memory = write_port

    def reset(self) -> None:
        self.writes.clear()


def test_unmapped_ports_read_all_ones_and_ignore_writes() -> None:
    bus = Bus()
    assert [bus.read_port(0xCF8, width) for width in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]
    bus.write_port(0xCFC, 4, 1)
    assert bus.port_accesses == {"unmapped": 4}


def test_wide_accesses_to_byte_devices_are_split_little_endian() -> None:
    bus = Bus()
    device = Recorder()
    bus.map_ports(0x10, 4, device, offset=1)
    assert bus.read_port(0x10, 4) == 0x04030201
    assert bus.read_port(0x12, 4) == 0xFFFF0403
    bus.write_port(0x10, 2, 0xBBAA)
    assert device.writes == [(1, 1, 0xAA), (2, 1, 0xBB)]


def test_wide_accesses_go_whole_to_wide_devices() -> None:
    bus = Bus()
    device = Recorder(port_width=2)
    bus.map_ports(0x510, 2, device)
    bus.write_port(0x510, 2, 0x1234)
    bus.write_port(0x510, 4, 0x9ABC_5678)
    assert device.writes == [(0, 2, 0x1234), (0, 2, 0x5678)]


def test_the_last_port_wraps_to_the_first() -> None:
    bus = Bus()
    bus.map_ports(0xFFFF, 1, Recorder(), offset=5)
    bus.map_ports(0, 1, Recorder("zero"), offset=7)
    assert bus.read_port(0xFFFF, 2) == 0x0705


def test_two_devices_cannot_have_one_port() -> None:
    bus = Bus()
    bus.map_ports(0x60, 1, Recorder("keyboard"))
    with pytest.raises(
        MappingConflict, match="timer: wanted port 0x60, got one that keyboard has: move one of the two"
    ):
        bus.map_ports(0x5F, 2, Recorder("timer"))
    assert bus.read_port(0x5F, 1) == 0xFF
    with pytest.raises(InvalidMapping, match=r"wanted ports within 0\.\.0xffff"):
        bus.map_ports(0xFFFF, 2, Recorder())


def test_memory_mappings() -> None:
    bus = Bus()
    device = Recorder()
    bus.map_memory(0xFEC0_0000, 8192, device)
    assert bus.read_memory(0xFEC0_1004, 1) == 0x1004  # the recorder answers with its offset
    bus.write_memory(0xFEC0_1FF8, 8, 77)
    assert device.writes == [(0x1FF8, 8, 77)]
    assert bus.read_memory(0xFEC0_2000, 8) == (1 << 64) - 1
    bus.write_memory(0x1_0000_0000_0000, 4, 1)
    assert bus.memory_accesses == {"unmapped": 2, "recorder": 2}
    with pytest.raises(MappingConflict):
        bus.map_memory(0xFEC0_1000, 4096, Recorder())
    with pytest.raises(InvalidMapping, match="4096-byte pages"):
        bus.map_memory(0xFEE0_0010, 4096, Recorder())
    bus.unmap_memory(0xFEC0_0000)
    assert bus.read_memory(0xFEC0_0000, 4) == 0xFFFF_FFFF
    with pytest.raises(InvalidMapping):
        bus.unmap_memory(0xFEC0_0000)


def test_accesses_are_counted_by_name() -> None:
    bus = Bus()
    bus.map_ports(0, 2, Recorder("pic"))
    bus.map_ports(0xA0, 2, Recorder("pic"))
    for port in (0, 1, 0xA0, 0xA1, 0xA1):
        bus.read_port(port, 1)
    bus.write_port(0, 2, 0)
    assert bus.port_accesses == {"unmapped": 0, "pic": 6}
