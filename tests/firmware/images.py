"""Small images of every kind that the loaders take, made by hand so that single fields can be wrong."""

from __future__ import annotations

import struct


def bzimage(
    *,
    protocol: int = 0x020F,
    payload: bytes = b"\x90" * 0x1000,
    setup_sectors: int = 3,
    loadflags: int = 1,
    relocatable: bool = True,
    alignment: int = 0x20_0000,
    xloadflags: int = 1,
    cmdline_size: int = 255,
    initrd_addr_max: int = 0x7FFF_FFFF,
    pref_address: int = 0x100_0000,
    init_size: int = 0x80_0000,
    code32_start: int = 0x10_0000,
) -> bytes:
    """A bzImage whose protected-mode part is `payload`."""
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    struct.pack_into("<I", setup, 0x1F4, -(-len(payload) // 16))
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x202] = b"\xeb\x6a"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x300)
    setup[0x500:0x50E] = b"6.1-test (me)\0"
    setup[0x211] = loadflags
    struct.pack_into("<I", setup, 0x214, code32_start)
    struct.pack_into("<IIB", setup, 0x22C, initrd_addr_max, alignment, relocatable)
    struct.pack_into("<HI", setup, 0x236, xloadflags, cmdline_size)
    struct.pack_into("<QI", setup, 0x258, pref_address, init_size)
    return bytes(setup) + payload


def elf(
    *,
    bits: int = 32,
    entry: int = 0x10_0010,
    physical: int = 0x10_0000,
    virtual: int | None = None,
    content: bytes = b"\xf4" * 0x100,
    memory_size: int = 0x300,
    note: bytes = b"",
    machine: int = 3,
) -> bytes:
    """An executable with one PT_LOAD segment at file offset 200h, and a PT_NOTE segment when `note` is given."""
    virtual = physical if virtual is None else virtual
    identity = b"\x7fELF" + bytes([1 if bits == 32 else 2, 1, 1]) + bytes(9)
    count = 2 if note else 1
    note_offset = 0x200 + len(content)
    if bits == 32:
        head = identity + struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, entry, 52, 0, 0, 52, 32, count, 0, 0, 0)
        table = struct.pack("<8I", 1, 0x200, virtual, physical, len(content), memory_size, 7, 4096)
        table += struct.pack("<8I", 4, note_offset, 0, 0, len(note), len(note), 4, 4)
    else:
        head = identity + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, count, 0, 0, 0)
        table = struct.pack("<IIQQQQQQ", 1, 7, 0x200, virtual, physical, len(content), memory_size, 4096)
        table += struct.pack("<IIQQQQQQ", 4, 4, note_offset, 0, 0, len(note), len(note), 4)
    return (head + table).ljust(0x200, b"\0") + content + note


def pvh_note(entry: int) -> bytes:
    """The note that names the 32-bit entry point."""
    return struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)


def multiboot_header(flags: int = 3, *addresses: int) -> bytes:
    """A header with its checksum; `addresses` are header, load, load end, bss end and entry."""
    checksum = -(0x1BADB002 + flags) & 0xFFFF_FFFF
    return struct.pack("<III", 0x1BADB002, flags, checksum) + struct.pack(f"<{len(addresses)}I", *addresses)
