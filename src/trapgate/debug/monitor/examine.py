"""`x`, `xp` and `print`: memory and values in the formats that gdb and QEMU share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import iced_x86 as iced

from trapgate.debug.errors import CommandError
from trapgate.debug.guest import Guest
from trapgate.debug.monitor.expressions import evaluate

LONGEST_INSTRUCTION = 15
#: Units that one command shows.
MOST_UNITS = 1 << 16
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
_FORMATS = "xduoci"


@dataclass(frozen=True, slots=True)
class Format:
    """`/COUNT FORMAT SIZE`; `size` is in bytes."""

    count: int = 1
    kind: str = "x"
    size: int = 4


def split_format(arguments: str, default: Format, sizes: bool) -> tuple[Format, str]:
    """The format, if there is one, and what is behind it. Raises CommandError."""
    if not arguments.startswith("/"):
        return default, arguments
    word, _, rest = arguments[1:].partition(" ")
    match = re.match(r"[0-9]*", word)
    digits = match.group() if match else ""
    count, kind, size = int(digits[:9]) if digits else 1, default.kind, default.size
    given = False
    for letter in word[len(digits) :]:
        if letter in _FORMATS:
            kind = letter
        elif sizes and letter in _SIZES:
            size, given = _SIZES[letter], True
        else:
            raise CommandError(f"invalid char in format: '{letter}'")
    if kind == "c" and not given:
        size = 1
    if count > MOST_UNITS:
        raise CommandError(f"at most {MOST_UNITS} units at a time")
    return Format(count, kind, size), rest


def examine(guest: Guest, form: Format, address: int, physical: bool) -> str:
    """The memory at a linear or guest-physical address."""
    read = guest.read_physical if physical else guest.read
    if form.kind == "i":
        return _disassemble(guest, form.count, address, read)
    digits = _width(form)
    per_line = max(1, 16 // form.size) if form.kind != "c" else 8
    lines, done = [], 0
    while done < form.count:
        units = min(per_line, form.count - done)
        data = read(address, units * form.size)
        line = f"{address:016x}:"
        for start in range(0, len(data) - form.size + 1, form.size):
            line += " " + value_text(int.from_bytes(data[start : start + form.size], "little"), form, digits)
        lines.append(line)
        if len(data) < units * form.size:
            lines[-1] += "" if lines[-1].endswith(":") is False else " Cannot access memory"
            break
        done += units
        address = address + units * form.size & (1 << 64) - 1
    return "\n".join(lines) + "\n"


def _width(form: Format) -> int:
    """Characters of a unit: those of the largest one."""
    bits = form.size * 8
    decimal = {8: 3, 16: 5, 32: 10, 64: 20}[bits]
    return {"x": bits // 4, "o": (bits + 2) // 3, "u": decimal, "d": decimal}.get(form.kind, 0)


def value_text(value: int, form: Format, digits: int = 0) -> str:
    """A unit's value as its format has it, `digits` wide."""
    bits = form.size * 8
    value &= (1 << bits) - 1
    match form.kind:
        case "x":
            return f"0x{value:0{digits}x}"
        case "o":
            return f"{'0' if value else ''}{value:o}".rjust(digits)
        case "u":
            return f"{value:{digits or 1}d}"
        case "d":
            # As in QEMU, only units of 64 bits are signed.
            return f"{value - (1 << 64) if value >> 63 else value:{digits or 1}d}"
    character = chr(value & 0xFF)
    special = {"'": "\\'", "\\": "\\\\", "\n": "\\n", "\r": "\\r"}
    if character in special:
        return f"'{special[character]}'"
    return f"'{character}'" if 32 <= value & 0xFF < 127 else f"'\\x{value & 0xFF:02x}'"


def _disassemble(guest: Guest, count: int, address: int, read: Callable[[int, int], bytes]) -> str:
    formatter = iced.Formatter(iced.FormatterSyntax.GAS)
    digits = 16 if guest.bits == 64 else 8
    lines = []
    for _ in range(count):
        code = read(address, LONGEST_INSTRUCTION)
        if not code:
            lines.append(f"0x{address:0{digits}x}:  Cannot access memory")
            break
        instruction = iced.Decoder(guest.bits, code, ip=address).decode()
        length = instruction.len or 1
        lines.append(f"0x{address:0{digits}x}:  {code[:length].hex(' '):<24} {formatter.format(instruction)}")
        address = address + length & (1 << 64) - 1
    return "\n".join(lines) + "\n"


def show(guest: Guest, arguments: str, physical: bool) -> str:
    """`x` and `xp`."""
    form, rest = split_format(arguments, Format(), sizes=True)
    return examine(guest, form, evaluate(guest, rest), physical)


def print_value(guest: Guest, arguments: str) -> str:
    """`print` and `p`."""
    form, rest = split_format(arguments, Format(1, "x", 8), sizes=False)
    if form.kind == "i":
        raise CommandError("invalid char in format: 'i'")
    return value_text(evaluate(guest, rest), Format(1, form.kind, 8 if form.kind != "c" else 1)) + "\n"
