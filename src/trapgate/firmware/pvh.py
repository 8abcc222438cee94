"""PVH: an uncompressed ELF kernel with a 32-bit entry point in a note, as Linux's vmlinux has (CONFIG_PVH).

Source: Xen, docs/misc/pvh.pandoc (entry state) and xen/include/public/arch-x86/hvm/start_info.h.
"""

from __future__ import annotations

import struct
from pathlib import PurePath

from trapgate.firmware import elf
from trapgate.firmware.errors import CorruptImage, TooLittleMemory, UnsupportedImage
from trapgate.firmware.image import (
    CODE32_ATTRIBUTES,
    CR0_ET,
    CR0_PE,
    EntryState,
    entry_registers,
    flat_segments,
)
from trapgate.firmware.linux import (
    BOOT_CS,
    BOOT_DS,
    COMMAND_LINE_ADDRESS,
    COMMAND_LINE_ROOM,
    encode_command_line,
    place_initrd,
    write_boot_gdt,
)
from trapgate.firmware.memory_map import low_memory_top, memory_map, write_bios_data_area
from trapgate.machine.ram import Ram

XEN_OWNER = b"Xen"
NOTE_PHYS32_ENTRY = 18
START_INFO_MAGIC = 0x336E_C578
START_INFO_VERSION = 1
START_INFO_ADDRESS = 0x10000
MODULE_LIST_ADDRESS = 0x10100
MEMORY_MAP_ADDRESS = 0x10200
#: Linux's command lines end here (COMMAND_LINE_SIZE of arch/x86), less the zero.
COMMAND_LINE_LIMIT = 2047
INITRD_HIGHEST = 0x7FFF_FFFF


def is_elf(data: bytes) -> bool:
    """True when `data` begins as an ELF file."""
    return data.startswith(elf.MAGIC)


class PvhImage:
    """An ELF kernel with a PVH note, its initrd and command line. Construction checks the file: FirmwareError."""

    def __init__(self, kernel: bytes, initrd: bytes = b"", command_line: str = "", name: str = "the kernel") -> None:
        self.name = name
        self.initrd = initrd
        self.command_line = encode_command_line(command_line, min(COMMAND_LINE_LIMIT, COMMAND_LINE_ROOM - 1))
        self.image = elf.parse(kernel, name)
        note = self.image.find_note(XEN_OWNER, NOTE_PHYS32_ENTRY)
        if note is None:
            raise UnsupportedImage(
                name, "an ELF file without a PVH note", "a bzImage, or an ELF kernel with CONFIG_PVH"
            )
        self.entry = int.from_bytes(note[:8], "little")
        if len(note) not in (4, 8) or self.entry >= 1 << 32:
            raise CorruptImage(name, "a PVH entry point of 32 bits", note[:16].hex() or "an empty note")

    @property
    def description(self) -> str:
        return f"PVH kernel {PurePath(self.name).name}"

    def load(self, memory: Ram, rsdp: int = 0) -> EntryState:
        end = self.image.end
        if end > low_memory_top(memory):
            raise TooLittleMemory(f"the segments of {self.name}", end + len(self.initrd), memory.size)
        initrd_address = 0
        if self.initrd:
            enough = end + 2 * len(self.initrd)
            initrd_address = place_initrd(memory, len(self.initrd), end, INITRD_HIGHEST, enough)
        elf.load_segments(memory, self.image.segments, self.name)
        memory.write(initrd_address, self.initrd)
        write_bios_data_area(memory)
        memory.write(COMMAND_LINE_ADDRESS, self.command_line)
        entries = memory_map(memory)
        table = b"".join(struct.pack("<QQII", entry.base, entry.length, entry.kind, 0) for entry in entries)
        memory.write(MEMORY_MAP_ADDRESS, table)
        memory.write(MODULE_LIST_ADDRESS, struct.pack("<QQQQ", initrd_address, len(self.initrd), 0, 0))
        start_info = struct.pack(
            "<IIIIQQQQII",
            START_INFO_MAGIC,
            START_INFO_VERSION,
            0,
            1 if self.initrd else 0,
            MODULE_LIST_ADDRESS,
            COMMAND_LINE_ADDRESS,
            rsdp,
            MEMORY_MAP_ADDRESS,
            len(entries),
            0,
        )
        memory.write(START_INFO_ADDRESS, start_info)
        return EntryState(
            mode="protected32",
            registers=entry_registers(rip=self.entry, rbx=START_INFO_ADDRESS),
            segments=flat_segments(BOOT_CS, BOOT_DS, CODE32_ATTRIBUTES),
            cr0=CR0_PE | CR0_ET,
            gdt=write_boot_gdt(memory, CODE32_ATTRIBUTES),
        )
