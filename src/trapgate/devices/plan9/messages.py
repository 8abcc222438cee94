"""Messages of 9P2000.L as bytes: little-endian integers, strings with a 16-bit length before them.

Sources: Plan 9 manual, section 5, "intro"; "9P2000.L Protocol" (diod, protocol.md), which Linux's client follows.
"""

from __future__ import annotations

import struct

#: size[4] type[1] tag[2].
HEADER = struct.Struct("<IBH")
QID = struct.Struct("<BIQ")

# Types of requests; an answer's is one more.
LERROR = 6
STATFS, LOPEN, LCREATE, SYMLINK, MKNOD, RENAME, READLINK, GETATTR, SETATTR = 8, 12, 14, 16, 18, 20, 22, 24, 26
XATTRWALK, XATTRCREATE, READDIR, FSYNC, LOCK, GETLOCK, LINK, MKDIR, RENAMEAT, UNLINKAT = (
    30, 32, 40, 50, 52, 54, 70, 72, 74, 76,
)  # fmt: skip
VERSION, AUTH, ATTACH, FLUSH, WALK, READ, WRITE, CLUNK, REMOVE = 100, 102, 104, 108, 110, 116, 118, 120, 122

DIRECTORY_QID, SYMLINK_QID, FILE_QID = 0x80, 0x02, 0x00


class Malformed(Exception):
    """A message that ends before its fields do."""


class Fields:
    """The fields of a message, taken one after the other. Raises Malformed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, length: int) -> bytes:
        """Bytes."""
        piece = self._data[self._place : self._place + length]
        if len(piece) < length:
            raise Malformed
        self._place += length
        return piece

    def u8(self) -> int:
        """An integer of 8 bits."""
        return self.take(1)[0]

    def u16(self) -> int:
        """An integer of 16 bits."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """An integer of 32 bits."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """An integer of 64 bits."""
        return int.from_bytes(self.take(8), "little")

    def string(self) -> bytes:
        """A string: no character set is assumed."""
        return self.take(self.u16())


def string(data: bytes) -> bytes:
    """A string with its length, which is below 65536."""
    return len(data).to_bytes(2, "little") + data


def message(kind: int, tag: int, body: bytes) -> bytes:
    """A whole message."""
    return HEADER.pack(HEADER.size + len(body), kind, tag) + body


def error(tag: int, number: int) -> bytes:
    """Rlerror: an error of Linux's by its number."""
    return message(LERROR + 1, tag, number.to_bytes(4, "little"))
