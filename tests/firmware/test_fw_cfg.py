"""QEMU's fw_cfg: items through the ports, the file directory, DMA, and what a hostile guest can send."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.firmware.fw_cfg import FwCfg
from trapgate.machine.memory import PhysicalMemory

from .images import bzimage


def device() -> FwCfg:
    config = FwCfg(PhysicalMemory(4 << 20), {"opt/test": b"value"})
    config.set_boot_files(b"KERNEL", b"INITRD!", "console=ttyS0")
    return config


def read_item(config: FwCfg, item: int, length: int) -> bytes:
    config.write_port(0, 2, item)
    return bytes(config.read_port(1, 1) for _ in range(length))


def transfer(config: FwCfg, control: int, length: int, target: int, at: int = 0x5000) -> int:
    """Start a DMA transfer as a guest does, in two big-endian halves; returns the control word afterwards."""
    config.memory.write(at, struct.pack(">IIQ", control, length, target))
    for offset, half in ((4, at >> 32), (8, at & 0xFFFF_FFFF)):
        data = half.to_bytes(4, "big")
        for piece in (0, 2):  # as the bus splits it for this device
            config.write_port(offset + piece, 2, int.from_bytes(data[piece : piece + 2], "little"))
    return int.from_bytes(config.memory.read(at, 4), "big")


def test_items() -> None:
    config = device()
    assert read_item(config, 0, 6) == b"QEMU\0\0"
    assert read_item(config, 1, 4) == b"\3\0\0\0"
    assert read_item(config, 3, 8) == struct.pack("<Q", 4 << 20)
    assert read_item(config, 5, 2) == b"\1\0"
    assert read_item(config, 0x08, 4) == b"\6\0\0\0"
    assert read_item(config, 0x11, 6) == b"KERNEL"
    assert read_item(config, 0x12, 8) == b"INITRD!\0"
    assert read_item(config, 0x15, 14) == b"console=ttyS0\0"
    assert read_item(config, 0x7777, 4) == bytes(4)


def test_bzimage_comes_in_two_parts() -> None:
    config = device()
    config.set_boot_files(bzimage(setup_sectors=3, payload=b"\x90" * 0x1000))
    assert read_item(config, 0x17, 4) == struct.pack("<I", 2048)
    assert read_item(config, 0x18, 0x206)[0x202:] == b"HdrS"
    assert read_item(config, 0x08, 4) == struct.pack("<I", 0x1000)
    assert read_item(config, 0x11, 2) == b"\x90\x90"


def test_file_directory() -> None:
    config = device()
    count = int.from_bytes(read_item(config, 0x19, 4), "big")
    directory = read_item(config, 0x19, 4 + 64 * count)[4:]
    files = {}
    for index in range(count):
        size, item, _, name = struct.unpack_from(">IHH56s", directory, 64 * index)
        files[name.rstrip(b"\0").decode()] = read_item(config, item, size)
    assert list(files) == ["etc/e820", "opt/test"]
    assert files["opt/test"] == b"value"
    assert struct.unpack("<QQI", files["etc/e820"][-20:]) == (1 << 20, 3 << 20, 1)


def test_dma() -> None:
    config = device()
    memory = config.memory
    signature = b"".join(config.read_port(offset, 2).to_bytes(2, "little") for offset in (4, 6, 8, 10))
    assert signature == b"QEMU CFG"
    memory.write(0x6000, b"\xaa" * 16)
    assert transfer(config, 0x11 << 16 | 8 | 2, 8, 0x6000) == 0
    assert memory.read(0x6000, 10) == b"KERNEL\0\0\xaa\xaa"
    assert transfer(config, 0x11 << 16 | 8 | 4, 3, 0) == 0
    assert transfer(config, 2, 2, 0x6000) == 0
    assert memory.read(0x6000, 3) == b"NEN"[:2] + b"R"
    assert transfer(config, 0x11 << 16 | 8 | 2, 8, 0xFFFF_FFFF_0000) == 1
    assert transfer(config, 0x11 << 16 | 8 | 0x10, 8, 0x6000) == 1


def test_reset_and_snapshot() -> None:
    config = device()
    read_item(config, 0x11, 2)
    state = config.snapshot()
    assert config.read_port(1, 1) == ord("R")
    config.restore(state)
    assert config.read_port(1, 1) == ord("R")
    config.reset()
    assert config.read_port(1, 1) == ord("Q")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 11), st.sampled_from([1, 2]), st.integers(0, 0xFFFF)), max_size=40)
)
def test_no_access_raises(accesses: list[tuple[bool, int, int, int]]) -> None:
    config = device()
    for write, offset, width, value in accesses:
        if write:
            config.write_port(offset, width, value & (1 << 8 * width) - 1)
        else:
            assert 0 <= config.read_port(offset, width) < 1 << 8 * width
