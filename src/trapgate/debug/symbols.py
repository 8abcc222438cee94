"""A kernel's symbols as an ELF file that gdb reads, made of what the kernel itself says of them.

Debian keeps a kernel's symbols in a package of a gigabyte; a running kernel lists them in /proc/kallsyms, and with
`nokaslr` on its command line they are the same in every run. The file has symbols alone: no code, no types, no lines.

Source: System V ABI, chapter 4, "Object Files"; AMD64 supplement.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from trapgate.machine.errors import MachineError

_EHDR = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_CODE, _DATA = "tTwW", "dDbBrRvVA"
_FUNCTION, _OBJECT, _GLOBAL = 2, 1, 1 << 4
_ABSOLUTE = 0xFFF1


class NoSymbols(MachineError):
    """A text lists no symbols."""

    def __init__(self) -> None:
        super().__init__(
            "wanted the lines of a kernel's /proc/kallsyms, got no symbol with an address: read it as root in the guest"
        )


def parse(lines: Iterable[str]) -> list[tuple[str, int, str]]:
    """(name, address, letter) of each line `ADDRESS LETTER NAME`; modules' symbols and others are left out."""
    found = []
    for line in lines:
        words = line.split()
        if len(words) != 3 or len(words[1]) != 1 or words[1] not in _CODE + _DATA:
            continue
        try:
            address = int(words[0], 16)
        except ValueError:
            continue
        if 0 < address < 1 << 64:
            found.append((words[2], address, words[1]))
    return found


def symbol_file(lines: Iterable[str]) -> bytes:
    """An ELF file with the symbols of /proc/kallsyms. Raises NoSymbols."""
    symbols = sorted(parse(lines), key=lambda symbol: symbol[1])
    code = [address for _, address, letter in symbols if letter in _CODE]
    if not code:
        raise NoSymbols
    first, end = code[0], code[-1] + 4096
    names, table = bytearray(b"\0"), bytearray(_SYM.size)
    # Local symbols come before global ones.
    ordered = sorted(symbols, key=lambda symbol: symbol[2].isupper())
    for name, address, letter in ordered:
        kind = (_FUNCTION if letter in _CODE else _OBJECT) | (_GLOBAL if letter.isupper() else 0)
        section = 1 if letter in _CODE and first <= address < end else _ABSOLUTE
        table += _SYM.pack(len(names), kind, 0, section, address, 0)
        names += name.encode() + b"\0"
    local = 1 + sum(not symbol[2].isupper() for symbol in ordered)
    sections = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    at = _EHDR.size
    places = {}
    for name, data in (("symtab", bytes(table)), ("strtab", bytes(names)), ("shstrtab", sections)):
        places[name] = (at, len(data))
        at += len(data)
    headers = _SHDR.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    headers += _SHDR.pack(1, 8, 6, first, _EHDR.size, end - first, 0, 0, 16, 0)
    headers += _SHDR.pack(7, 2, 0, 0, *places["symtab"], 3, local, 8, _SYM.size)
    headers += _SHDR.pack(15, 3, 0, 0, *places["strtab"], 0, 0, 1, 0)
    headers += _SHDR.pack(23, 3, 0, 0, *places["shstrtab"], 0, 0, 1, 0)
    head = _EHDR.pack(
        b"\x7fELF", 2, 1, 1, 0, 0, 2, 62, 1, 0, 0, at, 0, _EHDR.size, 0, 0, _SHDR.size, 5, 4
    )  # fmt: skip
    return head + bytes(table) + bytes(names) + sections + headers
