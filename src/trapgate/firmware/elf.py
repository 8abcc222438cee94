"""Executable ELF files as boot loaders read them: what to put where, where to start, and notes.

Source: System V ABI, generic (ELF header, program header, note section). Files are untrusted: every field is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from trapgate.firmware.errors import CorruptImage, ImageOutsideMemory, UnsupportedImage
from trapgate.machine.ram import Ram

MAGIC = b"\x7fELF"
CLASS_32 = 1
CLASS_64 = 2
LITTLE_ENDIAN = 1
TYPE_EXECUTABLE = 2
TYPE_SHARED = 3
MACHINE_386 = 3
MACHINE_X86_64 = 62
PT_LOAD = 1
PT_NOTE = 4
CHUNK = 1 << 20


@dataclass(frozen=True)
class Segment:
    """A program header with its bytes. Addresses are guest-physical and guest-virtual; `memory_size` in bytes."""

    physical: int
    virtual: int
    memory_size: int
    content: bytes


@dataclass(frozen=True)
class ElfImage:
    """The loadable segments and the notes of an executable. `entry` is as the header gives it, a virtual address."""

    bits: int
    entry: int
    segments: tuple[Segment, ...]
    notes: tuple[bytes, ...]

    @property
    def end(self) -> int:
        """The first guest-physical address above every segment."""
        return max((s.physical + s.memory_size for s in self.segments), default=0)

    def physical_entry(self) -> int:
        """The entry as a guest-physical address: through the segment that holds it, when one does."""
        for s in self.segments:
            if s.virtual <= self.entry < s.virtual + s.memory_size:
                return self.entry - s.virtual + s.physical
        return self.entry

    def find_note(self, owner: bytes, kind: int) -> bytes | None:
        """The descriptor of the note of `owner` (without its zero) and type `kind`, or None."""
        for block in self.notes:
            for name, note_kind, content in _notes(block):
                if name.rstrip(b"\0") == owner and note_kind == kind:
                    return content
        return None


def parse(data: bytes, name: str) -> ElfImage:
    """Read the headers of an executable for 386 or x86-64; `name` is for messages. Raises FirmwareError."""
    bits = {CLASS_32: 32, CLASS_64: 64}.get(data[4] if len(data) > 4 else 0)
    if not data.startswith(MAGIC) or bits is None or len(data) < 64:
        raise CorruptImage(name, "an ELF header of 32 or 64 bits", f"{len(data)} bytes of something else")
    kind, machine = struct.unpack_from("<HH", data, 16)
    if data[5] != LITTLE_ENDIAN or machine not in (MACHINE_386, MACHINE_X86_64):
        raise UnsupportedImage(name, f"machine {machine}", "an ELF file for 386 or x86-64")
    if kind not in (TYPE_EXECUTABLE, TYPE_SHARED):
        raise UnsupportedImage(name, f"ELF type {kind}", "an executable ELF file")
    if bits == 32:
        entry, table = struct.unpack_from("<II", data, 24)
        entry_size, count = struct.unpack_from("<HH", data, 42)
        size, layout = 32, "<IIIIIIII"
    else:
        entry, table = struct.unpack_from("<QQ", data, 24)
        entry_size, count = struct.unpack_from("<HH", data, 54)
        size, layout = 56, "<IIQQQQQQ"
    if count == 0 or entry_size < size or table + count * entry_size > len(data):
        raise CorruptImage(name, "program headers inside the file", f"{count} of {entry_size} bytes at {table:#x}")
    segments, notes = [], []
    for index in range(count):
        fields = struct.unpack_from(layout, data, table + index * entry_size)
        if bits == 32:
            segment_kind, offset, virtual, physical, file_size, memory_size = fields[:6]
        else:
            segment_kind, _, offset, virtual, physical, file_size, memory_size = fields[:7]
        if segment_kind not in (PT_LOAD, PT_NOTE):
            continue
        if offset + file_size > len(data):
            raise CorruptImage(name, f"{offset + file_size} bytes as segment {index} says", f"{len(data)} bytes")
        content = data[offset : offset + file_size]
        if segment_kind == PT_NOTE:
            notes.append(content)
        elif memory_size:
            if file_size > memory_size:
                raise CorruptImage(name, f"segment {index} no larger in the file than in memory", f"{file_size:#x}")
            segments.append(Segment(physical, virtual, memory_size, content))
    if not segments:
        raise CorruptImage(name, "a segment to load", "none")
    return ElfImage(bits, entry, tuple(segments), tuple(notes))


def load_segments(memory: Ram, segments: tuple[Segment, ...], name: str) -> None:
    """Write `segments` to their physical addresses and zero the rest of each. Raises ImageOutsideMemory."""
    total = 0
    for s in segments:
        total += s.memory_size
        # Segments that add up to more than all RAM overlap: nobody's image, and it would take for ever.
        if not memory.is_ram(s.physical, s.memory_size) or total > memory.size:
            raise ImageOutsideMemory(name, s.physical, s.memory_size, memory.size)
    for s in segments:
        memory.write(s.physical, s.content)
        clear(memory, s.physical + len(s.content), s.memory_size - len(s.content))


def clear(memory: Ram, address: int, length: int) -> None:
    """Zero `length` bytes at guest-physical `address`, without touching host memory that is zero already."""
    for start in range(address, address + length, CHUNK):
        size = min(CHUNK, address + length - start)
        if any(memory.read(start, size)):
            memory.write(start, bytes(size))


def _notes(block: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Notes of a PT_NOTE segment; a damaged one ends the list."""
    position = 0
    while position + 12 <= len(block):
        name_size, size, kind = struct.unpack_from("<III", block, position)
        name_start = position + 12
        start = name_start + (name_size + 3) // 4 * 4
        if start + size > len(block):
            return
        yield block[name_start : name_start + name_size], kind, block[start : start + size]
        position = start + (size + 3) // 4 * 4
