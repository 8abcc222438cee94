"""Names of addresses, from an ELF file and from a mapping."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from trapgate.api import Symbols
from trapgate.api.backtrace import NotAnElfFile

from .code import COUNTER, STORE
from .conftest import Maker


def elf(symbols: list[tuple[str, int, int, int]]) -> bytes:
    """A 64-bit ELF file that has nothing but symbols: (name, address, size, type)."""
    names, table = b"\0", bytes(24)
    for name, address, size, kind in symbols:
        table += struct.pack("<IBBHQQ", len(names), kind, 0, 1, address, size)
        names += name.encode() + b"\0"
    section_names = b"\0.symtab\0.strtab\0.shstrtab\0"
    body = table + names + section_names
    at = 64
    sections = [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
    for name, kind, data, link, entry in ((1, 2, table, 2, 24), (9, 3, names, 0, 0), (17, 3, section_names, 0, 0)):
        sections.append(struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, len(data), link, 0, 1, entry))
        at += len(data)
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 4, 3)
    return identification + header + body + b"".join(sections)


def test_symbols_of_an_elf_file(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(
        elf([("label", 0x1000, 0, 0), ("main", 0x1000, 0x20, 2), ("data", 0x1010, 8, 1), ("b", 0x2000, 0, 2)])
    )
    symbols = Symbols(path)
    assert symbols.address("main") == 0x1000
    assert [symbols.describe(a) for a in (0xFFF, 0x1000, 0x101F, 0x1020, 0x2345)] == [
        "", "main+0x0", "main+0x1f", "", "b+0x345"
    ]  # fmt: skip
    path.write_bytes(elf([]))
    with pytest.raises(NotAnElfFile, match="got one without symbols: name the kernel before it was stripped"):
        Symbols(path)


@pytest.mark.engine
def test_breakpoints_and_reports_use_names(booted: Maker) -> None:
    machine = booted(COUNTER)
    machine.load_symbols({"store": STORE})
    assert machine.add_breakpoint("store") == STORE
    machine.run()
    assert [str(frame) for frame in machine.backtrace()] == ["0x0000000000007c03  store+0x0"]
    assert "-- backtrace\n0x0000000000007c03  store+0x0\n-- processor\n" in machine.report()
