"""Multiboot 1: ELF images and the a.out kludge, modules, command line, memory map; entry in 32-bit protected mode.

Source: Multiboot Specification version 0.6.96, chapter 3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import PurePath

from trapgate.firmware import elf
from trapgate.firmware.errors import (
    CorruptImage,
    ImageOutsideMemory,
    InvalidCommandLine,
    NotAKernel,
    TooLittleMemory,
    UnsupportedImage,
)
from trapgate.firmware.image import (
    CODE32_ATTRIBUTES,
    CR0_ET,
    CR0_PE,
    DATA32_ATTRIBUTES,
    EntryState,
    TableRegister,
    descriptor,
    entry_registers,
    flat_segments,
)
from trapgate.firmware.memory_map import FIRMWARE_TOP, low_memory_top, memory_map, write_bios_data_area
from trapgate.machine.ram import Ram

HEADER_MAGIC = 0x1BADB002
BOOT_MAGIC = 0x2BADB002
#: 3.1: the header lies wholly in the first 8192 bytes, on a 4-byte boundary.
SEARCH_LENGTH = 8192
HEADER_LENGTH = 12
ADDRESSES_LENGTH = 32

# 3.1.2: bits of the header's flags. A loader must understand all of bits 0-15 that are set.
PAGE_ALIGN_MODULES = 1 << 0
MEMORY_INFORMATION = 1 << 1
VIDEO_MODE = 1 << 2
HAS_ADDRESSES = 1 << 16
MANDATORY = 0xFFFF

# 3.3: bits of the information structure's flags, and its length up to the VBE fields.
INFO_MEMORY = 1 << 0
INFO_COMMAND_LINE = 1 << 2
INFO_MODULES = 1 << 3
INFO_MEMORY_MAP = 1 << 6
INFO_LOADER_NAME = 1 << 9
INFO_LENGTH = 120

LOADER_NAME = b"trapgate\0"
CODE_SELECTOR = 0x08
DATA_SELECTOR = 0x10
#: Where the information goes when the image leaves this place free: conventional memory, as with other loaders.
INFORMATION_ADDRESS = 0x9000
PAGE = 4096


def _page_up(value: int) -> int:
    return -(-value // PAGE) * PAGE


def find_header(data: bytes) -> int:
    """The offset of a multiboot header with a right checksum, or -1."""
    limit = min(len(data), SEARCH_LENGTH) - HEADER_LENGTH
    for offset in range(0, limit + 1, 4):
        magic, flags, checksum = struct.unpack_from("<III", data, offset)
        if magic == HEADER_MAGIC and (magic + flags + checksum) & 0xFFFF_FFFF == 0:
            return offset
    return -1


def is_multiboot(data: bytes) -> bool:
    """True when `data` has a multiboot 1 header."""
    return find_header(data) >= 0


class MultibootImage:
    """A multiboot kernel with its command line and modules. Construction checks the headers; raises FirmwareError.

    As with other loaders the command line's first word names the kernel: `name`'s last part, or `kernel`.
    """

    def __init__(
        self,
        kernel: bytes,
        command_line: str = "",
        modules: Sequence[bytes] = (),
        name: str = "kernel",
        module_strings: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.modules = tuple(modules)
        strings = [*module_strings, *("" for _ in self.modules[len(module_strings) :])]
        self.module_strings = [_terminated(text) for text in strings[: len(self.modules)]]
        program = PurePath(name).name
        if not program or any(character.isspace() for character in program):
            program = "kernel"
        self.command_line = _terminated(f"{program} {command_line}".rstrip())
        offset = find_header(kernel)
        if offset < 0:
            raise NotAKernel(name, f"{len(kernel)} bytes without a multiboot header")
        self.flags = struct.unpack_from("<I", kernel, offset + 4)[0]
        unknown = self.flags & MANDATORY & ~(PAGE_ALIGN_MODULES | MEMORY_INFORMATION)
        if unknown:
            what = "a video mode" if unknown == VIDEO_MODE else f"header flags {unknown:#x}"
            raise UnsupportedImage(name, f"one that demands {what}", "a multiboot kernel that runs without a display")
        if self.flags & HAS_ADDRESSES:
            segment, self.entry = _address_fields(kernel, offset, name)
            self.segments: tuple[elf.Segment, ...] = (segment,)
        else:
            image = elf.parse(kernel, name)
            self.segments, self.entry = image.segments, image.physical_entry()
        if self.entry >= 1 << 32:
            raise CorruptImage(name, "an entry point below 4 GB", f"{self.entry:#x}")

    @property
    def description(self) -> str:
        return f"multiboot kernel {self.name}"

    def load(self, memory: Ram, rsdp: int = 0) -> EntryState:
        write_bios_data_area(memory)
        top = low_memory_top(memory)
        if not any(s.physical <= self.entry < s.physical + s.memory_size for s in self.segments):
            raise CorruptImage(self.name, "an entry point inside the image", f"{self.entry:#x}")
        elf.load_segments(memory, self.segments, self.name)
        # Modules follow the kernel; a kernel in low memory is followed by the reserved area, so they begin above it.
        end = max(_page_up(max(s.physical + s.memory_size for s in self.segments)), FIRMWARE_TOP)
        modules = []
        for content in self.modules:
            if end + len(content) > top:
                what = f"{self.name} and {len(self.modules)} modules"
                raise TooLittleMemory(what, end + sum(_page_up(len(m)) for m in self.modules), memory.size)
            memory.write(end, content)
            modules.append((end, end + len(content)))
            end = _page_up(end + len(content))
        address = self._place_information(memory, end)
        information = self._information(memory, address, modules)
        memory.write(address, information)
        return self._entry_state(memory, address, len(information))

    def _place_information(self, memory: Ram, end: int) -> int:
        """A free place for the information: low memory if the image is not there, else above everything."""
        length = len(self._information(memory, 0, [(0, 0)] * len(self.modules))) + 32
        low = range(INFORMATION_ADDRESS, INFORMATION_ADDRESS + length)
        if low.stop <= 0x80000 and not any(
            s.physical < low.stop and low.start < s.physical + s.memory_size for s in self.segments
        ):
            return INFORMATION_ADDRESS
        if not memory.is_ram(end, length) or end + length > 1 << 32:
            raise ImageOutsideMemory(self.name, end, length, memory.size)
        return end

    def _information(self, memory: Ram, address: int, modules: Sequence[tuple[int, int]]) -> bytes:
        """The information structure at guest-physical `address`, followed by everything that it points to."""
        data = bytearray(INFO_LENGTH)

        def append(content: bytes) -> int:
            data.extend(bytes(-len(data) % 8))
            place = address + len(data)
            data.extend(content)
            return place

        command_line = append(self.command_line)
        loader_name = append(LOADER_NAME)
        strings = [append(text) for text in self.module_strings]
        table = b"".join(
            struct.pack("<IIII", start, end, text, 0) for (start, end), text in zip(modules, strings, strict=True)
        )
        module_table = append(table)
        entries = b"".join(struct.pack("<I", 20) + entry.pack() for entry in memory_map(memory))
        map_address = append(entries)
        flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER_NAME
        lower = memory_map(memory)[0].length >> 10
        upper = (low_memory_top(memory) - FIRMWARE_TOP) >> 10
        struct.pack_into("<IIIII", data, 0, flags, lower, upper, 0, command_line)
        struct.pack_into("<II", data, 20, len(modules), module_table)
        struct.pack_into("<II", data, 44, len(entries), map_address)
        struct.pack_into("<I", data, 64, loader_name)
        return bytes(data)

    def _entry_state(self, memory: Ram, address: int, length: int) -> EntryState:
        """3.2, Machine state: eax = magic, ebx = information, flat 32-bit segments, no paging, interrupts off."""
        gdt = -(-(address + length) // 8) * 8
        entries = (0, descriptor(0, 0xFFFF_FFFF, CODE32_ATTRIBUTES), descriptor(0, 0xFFFF_FFFF, DATA32_ATTRIBUTES))
        memory.write(gdt, b"".join(entry.to_bytes(8, "little") for entry in entries))
        return EntryState(
            mode="protected32",
            registers=entry_registers(rax=BOOT_MAGIC, rbx=address, rip=self.entry),
            segments=flat_segments(CODE_SELECTOR, DATA_SELECTOR, CODE32_ATTRIBUTES),
            cr0=CR0_PE | CR0_ET,
            gdt=TableRegister(gdt, len(entries) * 8 - 1),
        )


def _terminated(text: str) -> bytes:
    line = text.encode("utf-8", "surrogateescape")
    if b"\0" in line:
        raise InvalidCommandLine()
    return line + b"\0"


def _address_fields(kernel: bytes, offset: int, name: str) -> tuple[elf.Segment, int]:
    """The a.out kludge (3.1.3): where the header itself says that the file goes, and the entry point."""
    if offset + ADDRESSES_LENGTH > len(kernel):
        raise CorruptImage(name, "a multiboot header with its address fields", f"{len(kernel)} bytes")
    header, load, load_end, bss_end, entry = struct.unpack_from("<IIIII", kernel, offset + HEADER_LENGTH)
    start = offset - (header - load)
    if header < load or start < 0:
        raise CorruptImage(name, "a header_addr that agrees with load_addr", f"{header:#x} and {load:#x}")
    length = load_end - load if load_end else len(kernel) - start
    if length <= 0 or start + length > len(kernel):
        raise CorruptImage(name, f"{start + length} bytes as load_end_addr says", f"{len(kernel)} bytes")
    size = bss_end - load if bss_end else length
    if size < length:
        raise CorruptImage(name, "a bss_end_addr above the image", f"{bss_end:#x}")
    return elf.Segment(load, load, size, kernel[start : start + length]), entry
