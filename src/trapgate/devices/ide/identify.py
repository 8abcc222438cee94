"""What drives say of themselves: IDENTIFY DEVICE and IDENTIFY PACKET DEVICE.

Source: ATA/ATAPI-6 (T13/1410D revision 3b), 8.15 and 8.16.
"""

from __future__ import annotations

import struct

from trapgate.devices.ide.registers import SECTOR

MAX_MULTIPLE = 16
LARGEST_LBA28 = (1 << 28) - 1
FIRMWARE = "1.0"
#: ATA/ATAPI-4, 5 and 6.
MAJOR_VERSIONS = 1 << 4 | 1 << 5 | 1 << 6
#: PIO modes 3 and 4; multiword DMA modes 0 to 2; 120 ns cycles.
ADVANCED_PIO = 0x3
MULTIWORD_DMA = 0x7
CYCLE_TIME = 120


def text(value: str, length: int) -> bytes:
    """An ATA string: padded with blanks, the two characters of each word swapped (3.2.9)."""
    padded = value.encode("ascii", "replace")[:length].ljust(length)
    return b"".join(padded[i + 1 : i + 2] + padded[i : i + 1] for i in range(0, length, 2))


class Words:
    """The 256 words of an answer."""

    def __init__(self) -> None:
        self.data = bytearray(SECTOR)

    def put(self, word: int, *values: int) -> None:
        """16-bit words from `word` on."""
        struct.pack_into(f"<{len(values)}H", self.data, 2 * word, *values)

    def put_text(self, word: int, value: str, length: int) -> None:
        """A string of `length` bytes."""
        self.data[2 * word : 2 * word + length] = text(value, length)

    def finish(self) -> bytes:
        """With the integrity word (8.15.63): A5h and a checksum that makes the sum of all bytes 0."""
        self.data[510] = 0xA5
        self.data[511] = -sum(self.data[:511]) & 0xFF
        return bytes(self.data)


def _common(words: Words, serial: str, model: str, mode: int) -> None:
    words.put_text(10, serial, 20)
    words.put_text(23, FIRMWARE, 8)
    words.put_text(27, model, 40)
    words.put(63, MULTIWORD_DMA | (1 << mode << 8 if mode >= 0 else 0))
    words.put(64, ADVANCED_PIO, CYCLE_TIME, CYCLE_TIME, CYCLE_TIME, CYCLE_TIME)
    words.put(80, MAJOR_VERSIONS)


def identify_disk(
    serial: str, sectors: int, geometry: tuple[int, int, int], current: tuple[int, int, int], multiple: int, mode: int,
    write_cache: bool,
) -> bytes:  # fmt: skip
    """IDENTIFY DEVICE of a disk with `sectors` sectors; `mode` is the selected multiword DMA mode, -1 for none."""
    words = Words()
    words.put(0, 0x0040)  # not removable
    words.put(1, geometry[0], 0xC837, geometry[1])
    words.put(6, geometry[2])
    _common(words, serial, "TRAPGATE HARDDISK", mode)
    words.put(47, 0x8000 | MAX_MULTIPLE)
    words.put(49, 0x0B00)  # LBA, DMA, IORDY
    words.put(50, 0x4000)
    words.put(53, 0x0003)  # words 54 to 58 and 64 to 70 are valid
    reach = current[0] * current[1] * current[2]
    words.put(54, *current, reach & 0xFFFF, reach >> 16 & 0xFFFF)
    words.put(59, 0x0100 | multiple if multiple else 0)
    small = min(sectors, LARGEST_LBA28)
    words.put(60, small & 0xFFFF, small >> 16)
    supported = (0x4020, 0x7400, 0x4000)  # write cache, NOP; FLUSH CACHE, EXT, 48-bit addresses
    words.put(82, *supported, 0x4000 | (0x20 if write_cache else 0), 0x3400, 0x4000)
    words.put(93, 0x600B)
    words.put(100, *(sectors >> shift & 0xFFFF for shift in (0, 16, 32, 48)))
    return words.finish()


def identify_packet(serial: str, mode: int) -> bytes:
    """IDENTIFY PACKET DEVICE of a CD-ROM drive: 12-byte packets, DRQ within 50 us."""
    words = Words()
    words.put(0, 0x85C0)
    _common(words, serial, "TRAPGATE CD-ROM", mode)
    words.put(49, 0x0B00)
    words.put(53, 0x0002)
    words.put(82, 0x0210, 0x4000, 0x4000, 0x0210, 0x0000, 0x4000)
    return words.finish()
