"""QEMU's firmware configuration device: named and numbered items that guests read through ports 510h to 51Bh.

Source: QEMU, docs/specs/fw_cfg.rst; item numbers from include/standard-headers/linux/qemu_fw_cfg.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from trapgate.firmware.elf import clear
from trapgate.firmware.linux import is_bzimage, parse_header
from trapgate.firmware.memory_map import memory_map
from trapgate.machine.device import PlainState
from trapgate.machine.ram import Ram

FIRST_PORT = 0x510
PORT_COUNT = 12

# Offsets from the first port.
SELECTOR = 0
DATA = 1
DMA_ADDRESS = 4
DMA_ADDRESS_END = 12

SIGNATURE_ITEM = 0x00
ID_ITEM = 0x01
RAM_SIZE_ITEM = 0x03
NO_GRAPHICS_ITEM = 0x04
CPU_COUNT_ITEM = 0x05
KERNEL_SIZE_ITEM = 0x08
INITRD_SIZE_ITEM = 0x0B
MAX_CPUS_ITEM = 0x0F
KERNEL_DATA_ITEM = 0x11
INITRD_DATA_ITEM = 0x12
COMMAND_LINE_SIZE_ITEM = 0x14
COMMAND_LINE_DATA_ITEM = 0x15
SETUP_SIZE_ITEM = 0x17
SETUP_DATA_ITEM = 0x18
DIRECTORY_ITEM = 0x19
FIRST_FILE_ITEM = 0x20
#: Bit 14 asks for the write channel, which modern QEMU ignores; bit 15 marks items of one architecture.
ITEM_MASK = 0xBFFF

ID_TRADITIONAL = 1 << 0
ID_DMA = 1 << 1
DMA_SIGNATURE = b"QEMU CFG"

# Bits of a DMA control word; its upper half is an item number.
DMA_ERROR = 1 << 0
DMA_READ = 1 << 1
DMA_SKIP = 1 << 2
DMA_SELECT = 1 << 3
DMA_WRITE = 1 << 4
DMA_STRUCTURE_LENGTH = 16
FILE_NAME_ROOM = 56


class FwCfg(PlainState):
    """The device. Nothing in it is writable by the guest."""

    __slots__ = ("dma_address", "items", "memory", "name", "port_width", "position", "selected")

    STATE = ("selected", "position", "dma_address")

    def __init__(self, memory: Ram, files: Mapping[str, bytes] | None = None, cpu_count: int = 1) -> None:
        """`files` are further named items, such as `opt/...`; their names have at most 55 bytes."""
        self.name = "fw_cfg"
        self.port_width = 2
        self.memory = memory
        self.items: dict[int, bytes] = {
            SIGNATURE_ITEM: b"QEMU",
            ID_ITEM: struct.pack("<I", ID_TRADITIONAL | ID_DMA),
            RAM_SIZE_ITEM: struct.pack("<Q", memory.size),
            NO_GRAPHICS_ITEM: struct.pack("<H", 1),
            CPU_COUNT_ITEM: struct.pack("<H", cpu_count),
            MAX_CPUS_ITEM: struct.pack("<H", cpu_count),
        }
        self._add_files({"etc/e820": b"".join(entry.pack() for entry in memory_map(memory)), **(files or {})})
        self.set_boot_files()
        self.reset()

    def set_boot_files(self, kernel: bytes = b"", initrd: bytes = b"", command_line: str = "") -> None:
        """Offer what is being booted. A bzImage is given in two items, its real-mode part apart, as QEMU does."""
        setup_size = parse_header(kernel, "the kernel").setup_size if is_bzimage(kernel) else 0
        line = command_line.encode("utf-8", "surrogateescape") + b"\0" if command_line else b""
        for size_item, data_item, content in (
            (SETUP_SIZE_ITEM, SETUP_DATA_ITEM, kernel[:setup_size]),
            (KERNEL_SIZE_ITEM, KERNEL_DATA_ITEM, kernel[setup_size:]),
            (INITRD_SIZE_ITEM, INITRD_DATA_ITEM, initrd),
            (COMMAND_LINE_SIZE_ITEM, COMMAND_LINE_DATA_ITEM, line),
        ):
            self.items[size_item] = struct.pack("<I", len(content))
            self.items[data_item] = content

    def _add_files(self, files: Mapping[str, bytes]) -> None:
        directory = struct.pack(">I", len(files))
        for number, name in enumerate(sorted(files), FIRST_FILE_ITEM):
            encoded = name.encode()
            if len(encoded) >= FILE_NAME_ROOM:
                raise ValueError(f"a fw_cfg file name has at most {FILE_NAME_ROOM - 1} bytes, got {name!r}")
            self.items[number] = files[name]
            directory += struct.pack(f">IHH{FILE_NAME_ROOM}s", len(files[name]), number, 0, encoded)
        self.items[DIRECTORY_ITEM] = directory

    def reset(self) -> None:
        """Select the signature, forget a half-written DMA address."""
        self.selected = SIGNATURE_ITEM
        self.position = 0
        self.dma_address = bytearray(DMA_ADDRESS_END - DMA_ADDRESS)

    def read_port(self, offset: int, width: int) -> int:
        """Bytes of the selected item at the data port, zeros after its end; `QEMU CFG` at the DMA address."""
        if offset >= DMA_ADDRESS:
            content = DMA_SIGNATURE[offset - DMA_ADDRESS :][:width]
        elif offset + width > DATA + 1:
            return (1 << 8 * width) - 1
        else:
            content = self._take(width)
        return int.from_bytes(content.ljust(width, b"\0"), "little")

    def write_port(self, offset: int, width: int, value: int) -> None:
        """A 16-bit write selects an item; the last byte of the DMA address starts a transfer; others are ignored."""
        if offset >= DMA_ADDRESS:
            start = offset - DMA_ADDRESS
            room = len(self.dma_address) - start
            self.dma_address[start : start + width] = value.to_bytes(width, "little")[:room]
            if start + width >= len(self.dma_address):
                address = int.from_bytes(self.dma_address, "big")
                self.dma_address = bytearray(len(self.dma_address))
                self._transfer(address)
        elif offset == SELECTOR and width == 2:
            self._select(value)

    def _select(self, item: int) -> None:
        self.selected = item & ITEM_MASK
        self.position = 0

    def _take(self, length: int) -> bytes:
        content = self.items.get(self.selected, b"")[self.position : self.position + length]
        self.position += len(content)
        return content

    def _transfer(self, address: int) -> None:
        """Do what the control structure at guest-physical `address` says, and clear its control word or set the error.

        A structure outside RAM has no place for an error: nothing happens, as on hardware.
        """
        memory = self.memory
        if not memory.is_ram(address, DMA_STRUCTURE_LENGTH):
            return
        control, length, target = struct.unpack(">IIQ", memory.read(address, DMA_STRUCTURE_LENGTH))
        if control & DMA_SELECT:
            self._select(control >> 16)
        failed = False
        if control & DMA_READ:
            failed = not memory.is_ram(target, length)
            if not failed:
                content = self._take(length)
                memory.write(target, content)
                clear(memory, target + len(content), length - len(content))
        elif control & DMA_WRITE:
            failed = True
        elif control & DMA_SKIP:
            self._take(length)
        memory.write(address, struct.pack(">I", DMA_ERROR if failed else 0))
