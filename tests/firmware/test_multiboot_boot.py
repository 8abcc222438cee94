"""Multiboot 1, PVH and raw images: memory, entry state, refusals."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.firmware.errors import (
    CorruptImage,
    FirmwareError,
    ImageOutsideMemory,
    InvalidLoadAddress,
    NotAKernel,
    TooLittleMemory,
    UnsupportedImage,
)
from trapgate.firmware.linux import LinuxImage
from trapgate.firmware.multiboot import MultibootImage, is_multiboot
from trapgate.firmware.pvh import PvhImage
from trapgate.firmware.raw import RawImage
from trapgate.firmware.recognise import recognise
from trapgate.machine.memory import PhysicalMemory

from .images import bzimage, elf, multiboot_header, pvh_note

MB = 1 << 20


def check_message(error: FirmwareError) -> None:
    """One line: what was wanted, what was got, what to do."""
    assert re.fullmatch(r"wanted .+, got .+: .+", str(error))


def text_at(memory: PhysicalMemory, address: int) -> str:
    return memory.read(address, 200).split(b"\0")[0].decode()


def multiboot_elf(**changes: Any) -> bytes:
    return elf(content=multiboot_header().ljust(0x100, b"\xf4"), **changes)


def kludge(flags: int = 0x10003, **changes: int) -> bytes:
    fields = {"header": 0x20_0020, "load": 0x20_0000, "load_end": 0x20_0100, "bss_end": 0x20_0200, "entry": 0x20_0080}
    fields.update(changes)
    return (bytes(0x20) + multiboot_header(flags, *fields.values())).ljust(0x100, b"\xcc")


@pytest.mark.parametrize("bits", [32, 64])
def test_elf_is_loaded_and_its_bss_cleared(bits: int) -> None:
    memory = PhysicalMemory(8 * MB)
    memory.write(0x10_0000, b"\xaa" * 0x1000)
    entry = MultibootImage(multiboot_elf(bits=bits)).load(memory)
    assert memory.read(0x10_0000, 12) == multiboot_header()
    assert memory.read(0x10_0100, 0x200) == bytes(0x200)
    assert memory.read(0x10_0300, 4) == b"\xaa" * 4
    assert entry.mode == "protected32"
    assert entry.registers["rax"] == 0x2BADB002
    assert entry.registers["rip"] == 0x10_0010
    assert entry.registers["rflags"] & 0x200 == 0
    assert entry.cr0 & 0x8000_0001 == 1
    assert entry.segments["cs"].attributes == 0xC9B


def test_entry_of_a_higher_half_kernel_is_translated() -> None:
    data = multiboot_elf(virtual=0xC010_0000, entry=0xC010_0040)
    assert MultibootImage(data).load(PhysicalMemory(8 * MB)).registers["rip"] == 0x10_0040


def test_information() -> None:
    memory = PhysicalMemory(8 * MB)
    modules = (b"first" * 1000, b"second")
    image = MultibootImage(multiboot_elf(), "a=1 b", modules, "/some/where/kernel.elf", ["one two"])
    information = image.load(memory).registers["rbx"]
    flags, lower, upper, _, line, count, table = struct.unpack("<7I", memory.read(information, 28))
    assert flags == 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert (lower, upper) == (639, 7 * 1024)
    assert text_at(memory, line) == "kernel.elf a=1 b"
    assert text_at(memory, memory.read_u32(information + 64)) == "trapgate"
    assert count == 2
    for index, (content, text) in enumerate(zip(modules, ("one two", ""), strict=True)):
        start, end, string, reserved = struct.unpack("<4I", memory.read(table + 16 * index, 16))
        assert memory.read(start, end - start) == content
        assert start % 4096 == 0
        assert start >= 0x10_0300
        assert text_at(memory, string) == text
        assert reserved == 0
    length, address = struct.unpack("<2I", memory.read(information + 44, 8))
    entries = [struct.unpack("<IQQI", memory.read(address + offset, 24)) for offset in range(0, length, 24)]
    assert entries[0] == (20, 0, 0x9FC00, 1)
    assert entries[-1] == (20, MB, 7 * MB, 1)


def test_information_avoids_an_image_in_low_memory() -> None:
    memory = PhysicalMemory(8 * MB)
    data = multiboot_elf(physical=0x8000, entry=0x8020, memory_size=0x8000)
    information = MultibootImage(data, modules=[b"x"]).load(memory).registers["rbx"]
    assert information >= MB
    assert memory.read(0x8000, 12) == multiboot_header()


def test_address_fields() -> None:
    memory = PhysicalMemory(8 * MB)
    memory.write(0x20_0100, b"\xaa" * 0x200)
    entry = MultibootImage(kludge()).load(memory)
    assert entry.registers["rip"] == 0x20_0080
    assert memory.read(0x20_0000, 0x100) == kludge()
    assert memory.read(0x20_0100, 0x100) == bytes(0x100)
    assert memory.read_u8(0x20_0200) == 0xAA
    MultibootImage(kludge(load_end=0, bss_end=0)).load(memory)
    assert memory.read(0x20_0000, 0x100) == kludge(load_end=0, bss_end=0)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"\x7fELF" + bytes(100), NotAKernel, "104 bytes without a multiboot header"),
        (kludge(0x10007), UnsupportedImage, "one that demands a video mode"),
        (kludge(0x10013), UnsupportedImage, "header flags 0x10"),
        (kludge(load_end=0x30_0000), CorruptImage, "wanted 1048576 bytes as load_end_addr says, got 256 bytes"),
        (kludge(load=0x30_0000), CorruptImage, "a header_addr that agrees with load_addr"),
        (kludge(bss_end=0x20_0010), CorruptImage, "a bss_end_addr above the image"),
        (multiboot_elf()[:0x180], NotAKernel, "without a multiboot header"),
        (multiboot_elf()[:0x280], CorruptImage, "wanted 768 bytes as segment 0 says, got 640 bytes"),
        (multiboot_elf(memory_size=0x80), CorruptImage, "no larger in the file than in memory"),
        (multiboot_elf(machine=40), UnsupportedImage, "got machine 40"),
    ],
)
def test_refused_multiboot_images(data: bytes, error: type[FirmwareError], message: str) -> None:
    with pytest.raises(error, match=message):
        MultibootImage(data)


def test_multiboot_images_that_do_not_fit() -> None:
    with pytest.raises(ImageOutsideMemory, match="wanted RAM at guest-physical 0x2000000"):
        MultibootImage(multiboot_elf(physical=32 * MB, entry=32 * MB)).load(PhysicalMemory(8 * MB))
    with pytest.raises(TooLittleMemory, match=r"for k and 1 modules, got 2 MB: use --memory 8M"):
        MultibootImage(multiboot_elf(), modules=[bytes(2 * MB)], name="k").load(PhysicalMemory(2 * MB))
    with pytest.raises(CorruptImage, match="an entry point inside the image, got 0x7000000"):
        MultibootImage(multiboot_elf(entry=0x700_0000)).load(PhysicalMemory(8 * MB))


@settings(max_examples=300, deadline=None)
@given(
    which=st.sampled_from([multiboot_elf(), multiboot_elf(bits=64), kludge(), elf(bits=64, note=pvh_note(0x10_0000))]),
    edits=st.lists(st.tuples(st.integers(0, 0x2FF), st.integers(0, 255)), min_size=1, max_size=10),
    keep=st.integers(0, 0x400),
)
def test_any_image_loads_or_is_refused_by_a_typed_error(which: bytes, edits: list[tuple[int, int]], keep: int) -> None:
    data = bytearray(which)
    for offset, value in edits:
        if offset < len(data):
            data[offset] = value
    damaged = bytes(data[: keep if keep > 0x80 else len(data)])
    try:
        recognise(damaged).load(PhysicalMemory(4 * MB))
    except FirmwareError as error:
        check_message(error)


def test_pvh() -> None:
    memory = PhysicalMemory(8 * MB)
    data = elf(bits=64, virtual=0xFFFF_FFFF_8010_0000, note=pvh_note(0x10_0080), machine=62)
    entry = PvhImage(data, b"initrd", "console=ttyS0").load(memory, rsdp=0xE0000)
    assert entry.mode == "protected32"
    assert entry.registers["rip"] == 0x10_0080
    info = entry.registers["rbx"]
    magic, version, _, count, modules, line, rsdp, table, entries, _ = struct.unpack(
        "<IIIIQQQQII", memory.read(info, 56)
    )
    assert (magic, version, count, rsdp, entries) == (0x336EC578, 1, 1, 0xE0000, 4)
    assert text_at(memory, line) == "console=ttyS0"
    start, size = struct.unpack("<QQ", memory.read(modules, 16))
    assert memory.read(start, size) == b"initrd"
    assert struct.unpack("<QQII", memory.read(table + 72, 24)) == (MB, 7 * MB, 1, 0)


def test_elf_without_an_entry_that_we_know_is_refused() -> None:
    with pytest.raises(UnsupportedImage, match="wanted a bzImage, or an ELF kernel with CONFIG_PVH"):
        recognise(elf(bits=64, machine=62))


def test_boot_sector() -> None:
    memory = PhysicalMemory(MB)
    sector = b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa"
    image = recognise(sector)
    entry = image.load(memory)
    assert isinstance(image, RawImage)
    assert memory.read(0x7C00, 512) == sector
    assert entry.mode == "real"
    assert (entry.segments["cs"].base, entry.registers["rip"]) == (0, 0x7C00)
    assert entry.registers["rdx"] == 0x80
    assert entry.idt.limit == 0x3FF
    assert entry.cr0 & 1 == 0


def test_raw_image_elsewhere() -> None:
    memory = PhysicalMemory(MB)
    entry = RawImage(b"\xf4", address=0x12345).load(memory)
    assert entry.segments["cs"].selector * 16 + entry.registers["rip"] == 0x12345
    entry = RawImage(b"\xf4", address=0x20000, code_segment=0x1FF0, instruction_pointer=0x100).load(memory)
    assert (entry.segments["cs"].base, entry.registers["rip"]) == (0x1FF00, 0x100)
    with pytest.raises(InvalidLoadAddress, match="below 0x10fff0 to start there, got 0x200000"):
        RawImage(b"\xf4", address=2 * MB)
    with pytest.raises(ImageOutsideMemory):
        RawImage(bytes(MB), address=0x7C00).load(memory)
    with pytest.raises(CorruptImage, match="at least one byte, got none"):
        RawImage(b"")


def test_recognise() -> None:
    assert isinstance(recognise(bzimage()), LinuxImage)
    assert isinstance(recognise(multiboot_elf()), MultibootImage)
    assert not is_multiboot(multiboot_header()[:8])
    with pytest.raises(NotAKernel, match="got 16 bytes of another kind in short: name a kernel image with --kernel"):
        recognise(b"0123456789abcdef", name="short")
