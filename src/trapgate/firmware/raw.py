"""Raw images: bytes at an address, started in real mode. The default is a boot sector as a PC's BIOS starts it.

Source: IBM PC AT Technical Reference, BIOS listing (bootstrap loader, INT 19h): the sector lies at 0000:7C00 and gets
the drive's number in DL.
"""

from __future__ import annotations

from trapgate.firmware.errors import CorruptImage, ImageOutsideMemory, InvalidLoadAddress
from trapgate.firmware.image import CR0_ET, EntryState, TableRegister, entry_registers, real_segments
from trapgate.firmware.memory_map import write_bios_data_area
from trapgate.machine.ram import Ram

BOOT_SECTOR_ADDRESS = 0x7C00
SECTOR = 512
SIGNATURE = b"\x55\xaa"
FIRST_HARD_DISK = 0x80
#: The interrupt vector table of real mode: 256 vectors of 4 bytes at 0.
VECTOR_TABLE = TableRegister(0, 0x3FF)
REAL_MODE_TOP = 0x10_FFF0


def is_boot_sector(data: bytes) -> bool:
    """True for 512 bytes that end in 55h AAh."""
    return len(data) == SECTOR and data.endswith(SIGNATURE)


class RawImage:
    """`data` at guest-physical `address`, started at `code_segment`:`instruction_pointer` in real mode.

    Without them the entry is the image's first byte: segment 0 where that reaches it, as boot sectors expect. The stack
    grows down from 0000:7C00. Raises CorruptImage for an empty image, InvalidLoadAddress.
    """

    def __init__(
        self,
        data: bytes,
        address: int = BOOT_SECTOR_ADDRESS,
        code_segment: int | None = None,
        instruction_pointer: int | None = None,
        name: str = "the raw image",
    ) -> None:
        if not data:
            raise CorruptImage(name, "at least one byte", "none")
        if code_segment is None and not 0 <= address < REAL_MODE_TOP:
            raise InvalidLoadAddress(f"a load address below {REAL_MODE_TOP:#x} to start there", f"{address:#x}")
        if code_segment is None:
            code_segment = 0 if address < 0x10000 else min(address >> 4, 0xFFFF)
            instruction_pointer = address - (code_segment << 4)
        offset = instruction_pointer or 0
        if not (0 <= code_segment <= 0xFFFF and 0 <= offset <= 0xFFFF):
            raise InvalidLoadAddress("an entry point of two 16-bit numbers", f"{code_segment:#x}:{offset:#x}")
        if address < 0:
            raise InvalidLoadAddress("a load address of 0 or up", str(address))
        self.data = data
        self.address = address
        self.code_segment = code_segment
        self.instruction_pointer = offset
        self.name = name

    @property
    def description(self) -> str:
        return f"raw image {self.name} at {self.address:#x}"

    def load(self, memory: Ram, rsdp: int = 0) -> EntryState:
        if not memory.is_ram(self.address, len(self.data)):
            raise ImageOutsideMemory(self.name, self.address, len(self.data), memory.size)
        write_bios_data_area(memory)
        memory.write(self.address, self.data)
        return EntryState(
            mode="real",
            registers=entry_registers(rip=self.instruction_pointer, rsp=BOOT_SECTOR_ADDRESS, rdx=FIRST_HARD_DISK),
            segments=real_segments(code=self.code_segment, data=0, stack=0),
            cr0=CR0_ET,
            idt=VECTOR_TABLE,
        )
