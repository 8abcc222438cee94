"""A small builder of AML, the byte code of ACPI's definition blocks.

Source: ACPI specification 6.5, chapter 20 (AML) and 6.4 (resource data types). Only what a plain PC's DSDT needs.
"""

from __future__ import annotations

import struct

ZERO_OP = 0x00
ONE_OP = 0x01
NAME_OP = 0x08
BYTE_PREFIX = 0x0A
WORD_PREFIX = 0x0B
DWORD_PREFIX = 0x0C
STRING_PREFIX = 0x0D
SCOPE_OP = 0x10
BUFFER_OP = 0x11
PACKAGE_OP = 0x12
EXTENDED_PREFIX = 0x5B
DEVICE_OP = 0x82
ROOT_CHARACTER = b"\\"

IO_DESCRIPTOR = 0x47
WORD_ADDRESS_SPACE = 0x88
DWORD_ADDRESS_SPACE = 0x87
MEMORY_RANGE, IO_RANGE, BUS_RANGE = 0, 1, 2
#: Minimum and maximum are fixed (6.4.3.5); all ports of the range; memory that can be written.
FIXED_RANGE = 0x0C
ENTIRE_RANGE = 0x03
READ_WRITE = 0x01
IRQ_NO_FLAGS_DESCRIPTOR = 0x22
DMA_DESCRIPTOR = 0x2A
MEMORY_32_FIXED = 0x86
EXTENDED_INTERRUPT = 0x89
#: A consumer's interrupt, a level, active high, not shared.
LEVEL_HIGH_EXCLUSIVE = 0x01
END_TAG = 0x79
DECODES_16_BITS = 0x01


def package_length(content_length: int) -> bytes:
    """PkgLength (20.2.4) for `content_length` bytes that follow it; it counts itself."""
    if content_length + 1 < 0x40:
        return bytes([content_length + 1])
    for extra in (1, 2, 3):
        total = content_length + 1 + extra
        if total < 1 << (4 + 8 * extra):
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little")
    raise ValueError(f"an AML package holds at most 2^28 bytes, got {content_length}")


def integer(value: int) -> bytes:
    """The shortest constant that holds `value`, 0 to 2^32 - 1 (20.2.3)."""
    if value in (0, 1):
        return bytes([ONE_OP if value else ZERO_OP])
    if value < 1 << 8:
        return bytes([BYTE_PREFIX, value])
    if value < 1 << 16:
        return struct.pack("<BH", WORD_PREFIX, value)
    return struct.pack("<BI", DWORD_PREFIX, value)


def string(text: str) -> bytes:
    """A zero-terminated ASCII string (20.2.3)."""
    return bytes([STRING_PREFIX]) + text.encode("ascii") + b"\0"


def name_segment(name: str) -> bytes:
    """A NameSeg: four characters, padded with underscores; a leading backslash is kept as the root (20.2.2)."""
    root = ROOT_CHARACTER if name.startswith("\\") else b""
    segment = name.lstrip("\\").encode("ascii")
    if not 1 <= len(segment) <= 4:
        raise ValueError(f"an AML name has 1 to 4 characters, got {name!r}")
    return root + segment.ljust(4, b"_")


def eisa_id(text: str) -> bytes:
    """A compressed EISA identifier such as PNP0501 as a DWord constant (19.3.4, EISAID)."""
    letters = [ord(character) - 0x40 for character in text[:3]]
    number = int(text[3:], 16)
    value = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | number
    return bytes([DWORD_PREFIX]) + value.to_bytes(4, "big")


def named(name: str, value: bytes) -> bytes:
    """Name (name, value) (20.2.5.1)."""
    return bytes([NAME_OP]) + name_segment(name) + value


def package(*elements: bytes) -> bytes:
    """Package () {elements} (20.2.5.4)."""
    content = bytes([len(elements)]) + b"".join(elements)
    return bytes([PACKAGE_OP]) + package_length(len(content)) + content


def buffer(data: bytes) -> bytes:
    """Buffer () {data} (20.2.5.4)."""
    content = integer(len(data)) + data
    return bytes([BUFFER_OP]) + package_length(len(content)) + content


def scope(name: str, *terms: bytes) -> bytes:
    """Scope (name) {terms} (20.2.5.1)."""
    content = name_segment(name) + b"".join(terms)
    return bytes([SCOPE_OP]) + package_length(len(content)) + content


def device(name: str, *terms: bytes) -> bytes:
    """Device (name) {terms} (20.2.5.2)."""
    content = name_segment(name) + b"".join(terms)
    return bytes([EXTENDED_PREFIX, DEVICE_OP]) + package_length(len(content)) + content


def io_ports(first: int, count: int) -> bytes:
    """A fixed range of `count` I/O ports, fully decoded (6.4.2.5, I/O Port Descriptor)."""
    return struct.pack("<BBHHBB", IO_DESCRIPTOR, DECODES_16_BITS, first, first, 1, count)


def irq(number: int) -> bytes:
    """One ISA interrupt, edge triggered and active high (6.4.2.1, IRQ Descriptor without flags)."""
    return struct.pack("<BH", IRQ_NO_FLAGS_DESCRIPTOR, 1 << number)


def dma(channel: int) -> bytes:
    """One DMA channel, compatibility mode, 8-bit transfers, no bus master (6.4.2.2, DMA Descriptor)."""
    return bytes([DMA_DESCRIPTOR, 1 << channel, 0])


def word_range(kind: int, first: int, last: int) -> bytes:
    """Bus numbers or ports that a bridge passes on (6.4.3.5.3, Word Address Space Descriptor)."""
    flags = ENTIRE_RANGE if kind == IO_RANGE else 0
    body = struct.pack("<BBBHHHHH", kind, FIXED_RANGE, flags, 0, first, last, 0, last - first + 1)
    return struct.pack("<BH", WORD_ADDRESS_SPACE, len(body)) + body


def memory_range(first: int, last: int) -> bytes:
    """Guest-physical addresses that a bridge passes on, not cached (6.4.3.5.2, DWord Address Space Descriptor)."""
    body = struct.pack("<BBBIIIII", MEMORY_RANGE, FIXED_RANGE, READ_WRITE, 0, first, last, 0, last - first + 1)
    return struct.pack("<BH", DWORD_ADDRESS_SPACE, len(body)) + body


def memory_fixed(base: int, size: int) -> bytes:
    """Registers in guest-physical memory (6.4.3.4, 32-Bit Fixed Memory Range Descriptor)."""
    return struct.pack("<BHBII", MEMORY_32_FIXED, 9, READ_WRITE, base, size)


def interrupt(number: int) -> bytes:
    """One global system interrupt, a level, active high (6.4.3.6, Extended Interrupt Descriptor)."""
    return struct.pack("<BHBBI", EXTENDED_INTERRUPT, 6, LEVEL_HIGH_EXCLUSIVE, 1, number)


def resources(*descriptors: bytes) -> bytes:
    """ResourceTemplate () {descriptors}: a buffer that ends in an end tag without checksum (6.4.2.9)."""
    return buffer(b"".join(descriptors) + bytes([END_TAG, 0]))
