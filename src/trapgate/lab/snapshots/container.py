"""Files of sections: versioned, each section compressed and checked, written whole or not at all.

| bytes | what |
|---|---|
| 0 to 15 | what kind of file it is, ending in CR LF so that a transfer as text shows |
| 16 to 19 | version of the format |
| 20 to 23 | how many sections there are |
| 24 to 31 | bytes of the whole file |
| then 80 for each section | name (16, padded with zeros); place, stored bytes, plain bytes, 0 (8 each); SHA-256 |
| 32 bytes | SHA-256 of all before it |
| the sections | zstd, one behind the other |

Numbers are little-endian. Each byte of the file is under one of the sums, or is one.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import zstandard

MAGIC_SIZE = 16
_HEAD = struct.Struct("<16sIIQ")
_ENTRY = struct.Struct("<16sQQQ8x32s")
_SUM = 32
LEVEL = 1
#: More sections than any format here has.
MOST_SECTIONS = 64


class Damaged(Exception):
    """What is wrong with a file, in a few words."""


class AnotherKind(Exception):
    """The file is of another kind."""


class AnotherVersion(Exception):
    """The format has another version, `got`."""

    def __init__(self, got: int) -> None:
        super().__init__(got)
        self.got = got


class Section(NamedTuple):
    """A section before it is stored: its name, and its bytes in pieces."""

    name: str
    pieces: Iterable[bytes]


def pack(pieces: Iterable[bytes]) -> tuple[bytes, int]:
    """Compressed, and how many bytes it was."""
    compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    out, length = [], 0
    for piece in pieces:
        length += len(piece)
        out.append(compressor.compress(piece))
    out.append(compressor.flush())
    return b"".join(out), length


def unpack(stored: bytes, length: int) -> bytes:
    """The `length` bytes that were compressed. Raises Damaged."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    out = bytearray()
    try:
        for start in range(0, len(stored), 65536):
            out += decompressor.decompress(stored[start : start + 65536])
            if len(out) > length:
                break
    except zstandard.ZstdError as error:
        raise Damaged("one that zstd cannot read") from error
    if len(out) != length or not decompressor.eof:
        raise Damaged("a section of another length")
    return bytes(out)


def write(path: Path, magic: bytes, version: int, sections: Iterable[Section]) -> None:
    """Write a file beside `path` and put it in its place. Raises OSError; `path` is then what it was."""
    packed = [(section.name, *pack(section.pieces)) for section in sections]
    place = _HEAD.size + _ENTRY.size * len(packed) + _SUM
    entries = b""
    for name, stored, length in packed:
        entries += _ENTRY.pack(name.encode(), place, len(stored), length, hashlib.sha256(stored).digest())
        place += len(stored)
    head = _HEAD.pack(magic, version, len(packed), place) + entries
    path = path.resolve()
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(head + hashlib.sha256(head).digest())
            for _, stored, _ in packed:
                file.write(stored)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_mask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _mask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def read(path: Path, magic: bytes, version: int) -> dict[str, bytes]:
    """The sections by name, checked. Raises OSError, AnotherKind, AnotherVersion, Damaged."""
    with path.open("rb") as file:
        # The kind first: a device or a pipe need not have an end.
        start = file.read(_HEAD.size)
        if start[:MAGIC_SIZE] != magic:
            raise AnotherKind
        if len(start) < _HEAD.size:
            raise Damaged("one that ends in its head")
        data = start + file.read()
    _, got, count, length = _HEAD.unpack_from(data)
    if got != version:
        raise AnotherVersion(got)
    if len(data) != length:
        raise Damaged(f"{len(data)} bytes of {length}")
    end = _HEAD.size + _ENTRY.size * count
    if count > MOST_SECTIONS or len(data) < end + _SUM:
        raise Damaged("one that ends in its head")
    if hashlib.sha256(data[:end]).digest() != data[end : end + _SUM]:
        raise Damaged("one whose head was changed")
    sections = {}
    behind = end + _SUM
    for number in range(count):
        padded, place, stored, plain, digest = _ENTRY.unpack_from(data, _HEAD.size + _ENTRY.size * number)
        name = padded.rstrip(b"\0").decode("ascii", "replace")
        content = data[place : place + stored]
        if place != behind or hashlib.sha256(content).digest() != digest:
            raise Damaged(f"one whose section {name} was changed")
        behind += stored
        sections[name] = unpack(content, plain)
    if behind != len(data):
        raise Damaged("one with bytes behind the last section")
    return sections
