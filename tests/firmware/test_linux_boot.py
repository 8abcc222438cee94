"""The Linux boot protocol: what is where in memory, which state the processor starts in, and what is refused."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.firmware.errors import (
    CommandLineTooLong,
    CorruptImage,
    FirmwareError,
    InitrdTooLarge,
    InvalidCommandLine,
    NotAKernel,
    TooLittleMemory,
    UnsupportedImage,
)
from trapgate.firmware.image import REGISTER_NAMES, SEGMENT_NAMES
from trapgate.firmware.linux import LinuxImage
from trapgate.machine.memory import PhysicalMemory

from .images import bzimage

MB = 1 << 20


def check_message(error: FirmwareError) -> None:
    """One line: what was wanted, what was got, what to do."""
    assert re.fullmatch(r"wanted .+, got .+: .+", str(error))


def translate(memory: PhysicalMemory, root: int, address: int) -> int:
    """A walk of four-level tables by the manual (AMD64 volume 2, 5.3), large pages included."""
    table = root
    for shift in (39, 30, 21, 12):
        entry = memory.read_u64(table + 8 * (address >> shift & 0x1FF))
        assert entry & 3 == 3, f"{address:#x} is not mapped writable"
        if shift == 12 or (shift < 39 and entry & 0x80):
            mask = (1 << shift) - 1
            return entry & 0xF_FFFF_FFFF_F000 & ~mask | address & mask
        table = entry & 0xF_FFFF_FFFF_F000
    raise AssertionError


def test_entry64_state() -> None:
    memory = PhysicalMemory(64 * MB)
    entry = LinuxImage(bzimage()).load(memory)
    assert entry.mode == "long64"
    assert set(entry.registers) == set(REGISTER_NAMES)
    assert set(entry.segments) == set(SEGMENT_NAMES)
    assert entry.registers["rip"] == 0x100_0200
    assert entry.registers["rflags"] == 2
    assert (entry.segments["cs"].selector, entry.segments["ds"].selector) == (0x10, 0x18)
    assert entry.cr0 & 0x8000_0001 == 0x8000_0001
    assert entry.cr4 & 0x20
    assert entry.efer & 0x500 == 0x500
    for address in (0, 0x1F_FFFF, 0x100_0200, entry.registers["rsi"], 0xFEE0_0020, 0xFFFF_FFFF):
        assert translate(memory, entry.cr3, address) == address
    gdt = struct.unpack("<4Q", memory.read(entry.gdt.base, entry.gdt.limit + 1))
    # Linux's own boot GDT has these descriptors (boot.rst: flat, execute/read and read/write).
    assert gdt == (0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)


def test_zero_page() -> None:
    memory = PhysicalMemory(64 * MB)
    initrd = b"initrd" * 1000
    entry = LinuxImage(bzimage(), initrd, "console=ttyS0").load(memory, rsdp=0xE0000)
    page = entry.registers["rsi"]
    assert memory.read(page + 0x202, 4) == b"HdrS"
    assert memory.read_u8(page + 0x1EF) == 0, "the sentinel says that the page was cleared"
    assert memory.read_u8(page + 0x210) == 0xFF
    assert memory.read_u64(page + 0x70) == 0xE0000
    line = memory.read_u32(page + 0x228)
    assert memory.read(line, 14) == b"console=ttyS0\0"
    place, size = memory.read_u32(page + 0x218), memory.read_u32(page + 0x21C)
    assert memory.read(place, size) == initrd
    assert place % 4096 == 0
    assert 64 * MB - place - size < 4096, "the initrd lies as high as it can"
    count = memory.read_u8(page + 0x1E8)
    entries = [struct.unpack("<QQI", memory.read(page + 0x2D0 + 20 * i, 20)) for i in range(count)]
    assert entries == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xE0000, 0x20000, 2),
        (0x100000, 63 * MB, 1),
    ]
    assert memory.read(0x100_0000, 0x1000) == b"\x90" * 0x1000


def test_memory_above_4g_is_reported() -> None:
    memory = PhysicalMemory(4096 * MB)
    entry = LinuxImage(bzimage(), b"x" * 5000).load(memory)
    page = entry.registers["rsi"]
    entries = [
        struct.unpack("<QQI", memory.read(page + 0x2D0 + 20 * i, 20)) for i in range(memory.read_u8(page + 0x1E8))
    ]
    assert entries[-2:] == [(MB, (3 << 30) - MB, 1), (4 << 30, 1 << 30, 1)]
    assert memory.read_u32(page + 0x218) + 5000 <= 0x8000_0000


@pytest.mark.parametrize("changes", [{"xloadflags": 0}, {"protocol": 0x020B}])
def test_entry32_state(changes: dict[str, Any]) -> None:
    memory = PhysicalMemory(64 * MB)
    entry = LinuxImage(bzimage(**changes)).load(memory)
    assert entry.mode == "protected32"
    assert entry.registers["rip"] == 0x100_0000
    assert entry.cr0 & 0x8000_0001 == 1
    assert (entry.cr3, entry.cr4, entry.efer) == (0, 0, 0)
    gdt = struct.unpack("<4Q", memory.read(entry.gdt.base, entry.gdt.limit + 1))
    assert gdt == (0, 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
    assert entry.registers["rbx"] == entry.registers["rbp"] == entry.registers["rdi"] == 0


def test_kernel_that_cannot_move_is_loaded_where_it_says() -> None:
    memory = PhysicalMemory(64 * MB)
    entry = LinuxImage(bzimage(relocatable=False, code32_start=0x20_0000)).load(memory)
    assert entry.registers["rip"] == 0x20_0200
    assert memory.read(0x20_0000, 4) == b"\x90" * 4


def test_too_little_memory() -> None:
    # The numbers of Debian's 6.1 cloud kernel.
    image = LinuxImage(bzimage(init_size=0x337_8000), bytes(2 * MB))
    message = (
        "wanted at least 69.5 MB of memory for this kernel, which takes 0x1000000 to 0x4378000 to start, got 64 MB: "
        "use --memory 72M or more"
    )
    with pytest.raises(TooLittleMemory, match=f"^{re.escape(message)}$"):
        image.load(PhysicalMemory(64 * MB))
    image.load(PhysicalMemory(72 * MB))


def test_initrd_too_large() -> None:
    memory = PhysicalMemory(32 * MB)
    with pytest.raises(InitrdTooLarge, match=r"at most 8388608 bytes beside this kernel, got 104857600 bytes: .*224M"):
        LinuxImage(bzimage(), bytes(100 * MB)).load(memory)
    limited = LinuxImage(bzimage(initrd_addr_max=0x1FF_FFFF), bytes(9 * MB))
    with pytest.raises(InitrdTooLarge, match=r"this kernel accepts no higher initrd address, use a smaller one$"):
        limited.load(PhysicalMemory(256 * MB))


@pytest.mark.parametrize("data", [b"", b"0123456789abcdef", bytes(0x206), b"\x7fELF" + bytes(600)])
def test_not_a_kernel(data: bytes) -> None:
    message = f"got {len(data)} bytes without a Linux setup header in thing: name a kernel image with --kernel"
    with pytest.raises(NotAKernel, match=re.escape(message)):
        LinuxImage(data, name="thing")


def test_refused_headers() -> None:
    with pytest.raises(UnsupportedImage, match=r"got a zImage with boot protocol 2\.15"):
        LinuxImage(bzimage(loadflags=0))
    with pytest.raises(CorruptImage, match="wanted 6144 bytes as its header says, got 6000 bytes in the kernel"):
        LinuxImage(bzimage()[:6000])
    with pytest.raises(CorruptImage, match="kernel_alignment that is a power of two"):
        LinuxImage(bzimage(alignment=0x30_0000))
    with pytest.raises(CommandLineTooLong, match="at most 255 bytes, got 256 bytes"):
        LinuxImage(bzimage(), command_line="x" * 256)
    with pytest.raises(InvalidCommandLine):
        LinuxImage(bzimage(), command_line="a\0b")


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0x1F1, 0x26F), st.integers(0, 255)), min_size=1, max_size=12),
    keep=st.integers(0, 6144),
    initrd_size=st.sampled_from([0, 1, 5000]),
)
def test_any_header_loads_or_is_refused_by_a_typed_error(
    edits: list[tuple[int, int]], keep: int, initrd_size: int
) -> None:
    data = bytearray(bzimage())
    for offset, value in edits:
        data[offset] = value
    memory = PhysicalMemory(32 * MB)
    try:
        entry = LinuxImage(bytes(data[: 6144 if keep < 3000 else keep]), bytes(initrd_size)).load(memory)
    except FirmwareError as error:
        check_message(error)
    else:
        assert memory.is_ram(entry.registers["rip"])
