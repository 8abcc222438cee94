"""The registers that gdb is told of, in its order, and how each is read and written.

Names and features are those of gdb's i386 targets ("Debugging with GDB", G.5.5, "i386 Features"); the control
registers, which gdb shows and does not interpret, have the names that QEMU gives them. A profile with long mode has the
64-bit description whatever mode it is in, as qemu-system-x86_64 has; others have the 32-bit one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trapgate.arch import layout
from trapgate.arch.registers import CS, DS, ES, FS, GS, SS
from trapgate.debug.errors import GuestUnreachable
from trapgate.debug.guest import Guest

_M32 = 0xFFFF_FFFF
_READ_ONLY = "it cannot be changed here"

Read = Callable[[Guest], int]
Write = Callable[[Guest, int], None]


@dataclass(frozen=True, slots=True)
class Register:
    """`bits` wide in the protocol, little-endian; `kind` and `group` are gdb's."""

    name: str
    bits: int
    kind: str
    read: Read
    write: Write
    group: str = ""


def _refuse(guest: Guest, value: int) -> None:
    raise GuestUnreachable(_READ_ONLY)


# -- general registers: gdb's order is not the processor's

_ORDER = (0, 3, 1, 2, 6, 7, 5, 4)  # rax rbx rcx rdx rsi rdi rbp rsp
_NAMES = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
_KINDS = {5: "data_ptr", 4: "data_ptr"}


def _general(number: int, name: str, kind: str) -> Register:
    def read(guest: Guest) -> int:
        # Outside 64-bit code the upper halves cannot be seen, as in QEMU.
        value = guest.gpr(number)
        return value if guest.bits == 64 else 0 if number > 7 else value & _M32

    def write(guest: Guest, value: int) -> None:
        if guest.bits == 64:
            guest.set_gpr(number, value)
        elif number < 8:
            guest.set_gpr(number, guest.gpr(number) & ~_M32 | value & _M32)

    return Register(name, 64, kind, read, write)


def _general32(number: int, name: str, kind: str) -> Register:
    def write(guest: Guest, value: int) -> None:
        guest.set_gpr(number, value & _M32)

    return Register(name, 32, kind, lambda guest: guest.gpr(number) & _M32, write)


def _selector(number: int, name: str) -> Register:
    def write(guest: Guest, value: int) -> None:
        guest.set_selector(number, value & 0xFFFF)

    return Register(name, 32, "int32", lambda guest: guest.segment(number).selector, write)


def _base(number: int, name: str) -> Register:
    def write(guest: Guest, value: int) -> None:
        guest.set_segment_base(number, value)

    return Register(name, 64, "int", lambda guest: guest.segment(number).base, write)


def _control(name: str, bits: int) -> Register:
    def read(guest: Guest) -> int:
        return guest.efer if name == "efer" else guest.control(int(name[2:]))

    def write(guest: Guest, value: int) -> None:
        guest.set_control(name, value)

    return Register(name, bits, "int64" if bits == 64 else "int32", read, write, "system")


# -- x87


def _top(guest: Guest) -> int:
    return guest.processor.state.d[layout.FPU_TOP >> 2]


def _st(number: int) -> Register:
    def place(guest: Guest) -> int:
        return layout.fpr(_top(guest) + number & 7)

    def read(guest: Guest) -> int:
        start = place(guest)
        return int.from_bytes(guest.processor.state.bytes[start : start + 10], "little")

    def write(guest: Guest, value: int) -> None:
        start = place(guest)
        guest.processor.state.bytes[start : start + 10] = value.to_bytes(10, "little")

    return Register(f"st{number}", 80, "i387_ext", read, write)


def _full_tag(guest: Guest) -> int:
    """FSTENV's tag word (APM vol. 1, 6.2.4): 0 valid, 1 zero, 2 special, 3 empty, by physical register."""
    p, tags = guest.processor, 0
    valid = p.q[layout.FPU_VALID >> 3]
    for number in range(8):
        tag = 3
        if valid >> 8 * number & 1:
            place = layout.fpr(number)
            value = int.from_bytes(p.state.bytes[place : place + 10], "little")
            exponent, fraction = value >> 64 & 0x7FFF, value & (1 << 64) - 1
            tag = 1 if not exponent | fraction else 0 if 0 < exponent < 0x7FFF and fraction >> 63 else 2
        tags |= tag << 2 * number
    return tags


def _x87(name: str, read: Read) -> Register:
    return Register(name, 32, "int", read, _refuse, "float")


def _x87_registers() -> list[Register]:
    def word(offset: int, mask: int, shift: int = 0) -> Read:
        return lambda guest: guest.processor.q[offset >> 3] >> shift & mask

    def status(guest: Guest) -> int:
        return guest.processor.state.w[layout.FPU_STATUS >> 1] | _top(guest) << 11

    return [
        *(_st(number) for number in range(8)),
        _x87("fctrl", lambda guest: guest.processor.state.w[layout.FPU_CONTROL >> 1]),
        _x87("fstat", status),
        _x87("ftag", _full_tag),
        _x87("fiseg", word(layout.FPU_CS, 0xFFFF)),
        _x87("fioff", word(layout.FPU_IP, _M32)),
        _x87("foseg", word(layout.FPU_DS, 0xFFFF)),
        _x87("fooff", word(layout.FPU_DP, _M32)),
        _x87("fop", word(layout.FPU_OPCODE, 0x7FF)),
    ]


# -- SSE


def _xmm(number: int) -> Register:
    place = layout.xmm(number)

    def read(guest: Guest) -> int:
        return int.from_bytes(guest.processor.state.bytes[place : place + 16], "little")

    def write(guest: Guest, value: int) -> None:
        guest.processor.set_state_bytes(place, value.to_bytes(16, "little"))

    return Register(f"xmm{number}", 128, "vec128", read, write)


def _mxcsr() -> Register:
    def read(guest: Guest) -> int:
        return guest.processor.mxcsr

    return Register("mxcsr", 32, "i386_mxcsr", read, _refuse, "vector")


# -- descriptions

_SEGMENTS = ((CS, "cs"), (SS, "ss"), (DS, "ds"), (ES, "es"), (FS, "fs"), (GS, "gs"))
_CONTROLS = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")


def _kernel_gs_base() -> Register:
    def write(guest: Guest, value: int) -> None:
        guest.processor.set_state_field(layout.KERNEL_GS_BASE, value)

    return Register(
        "k_gs_base", 64, "int", lambda guest: guest.processor.state_field(layout.KERNEL_GS_BASE), write, "system"
    )


def _rip(name: str, bits: int) -> Register:
    def write(guest: Guest, value: int) -> None:
        guest.set_rip(value if guest.bits == 64 else value & _M32)

    return Register(name, bits, "code_ptr", lambda guest: guest.rip, write)


def _eflags() -> Register:
    def write(guest: Guest, value: int) -> None:
        guest.set_rflags(value)

    return Register("eflags", 32, "i386_eflags", lambda guest: guest.rflags & _M32, write)


#: A feature's name with its registers.
Feature = tuple[str, Sequence[Register]]


def features(wide: bool) -> list[Feature]:
    """What gdb is told of a processor with long mode (`wide`) or without."""
    if wide:
        general = [
            _general(n, "r" + name, _KINDS.get(n, "int64")) for n, name in zip(_ORDER, _NAMES, strict=True)
        ] + [_general(n, f"r{n}", "int64") for n in range(8, 16)]  # fmt: skip
    else:
        general = [_general32(n, "e" + name, _KINDS.get(n, "int32")) for n, name in zip(_ORDER, _NAMES, strict=True)]
        # gdb's order of a 32-bit target is that of the processor.
        general = [general[i] for i in (0, 2, 3, 1, 7, 6, 4, 5)]
    core = [
        *general, _rip("rip" if wide else "eip", 64 if wide else 32), _eflags(),
        *(_selector(n, name) for n, name in _SEGMENTS), *_x87_registers(),
    ]  # fmt: skip
    sse = [*(_xmm(n) for n in range(16 if wide else 8)), _mxcsr()]
    found: list[Feature] = [("org.gnu.gdb.i386.core", core), ("org.gnu.gdb.i386.sse", sse)]
    bits = 64 if wide else 32
    if wide:
        found.append(("org.gnu.gdb.i386.segments", [_base(FS, "fs_base"), _base(GS, "gs_base")]))
    system = [_control(name, bits) for name in _CONTROLS if wide or name not in ("cr8", "efer")]
    if wide:
        system.insert(0, _kernel_gs_base())
    found.append(("org.trapgate.gdb.i386.system", system))
    return found


_TYPES = {
    "org.gnu.gdb.i386.core": (
        "i386_eflags", 4,
        (("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9), ("DF", 10), ("OF", 11),
         ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19), ("VIP", 20), ("ID", 21)),
    ),
    "org.gnu.gdb.i386.sse": (
        "i386_mxcsr", 4,
        (("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6), ("IM", 7), ("DM", 8), ("ZM", 9),
         ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15)),
    ),
}  # fmt: skip
_VECTOR = """<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>\
<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>\
<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>\
<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>\
<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/>\
<field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>"""


def description(wide: bool) -> str:
    """The target description, as XML (G.2)."""
    parts = ['<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">']
    parts.append(f"<architecture>{'i386:x86-64' if wide else 'i386'}</architecture>")
    for name, registers in features(wide):
        parts.append(f'<feature name="{name}">')
        if name in _TYPES:
            kind, size, fields = _TYPES[name]
            bits = "".join(f'<field name="{field}" start="{bit}" end="{bit}"/>' for field, bit in fields)
            parts.append(f'<flags id="{kind}" size="{size}">{bits}</flags>')
        if name == "org.gnu.gdb.i386.sse":
            parts.append(_VECTOR)
        for r in registers:
            group = f' group="{r.group}"' if r.group else ""
            parts.append(f'<reg name="{r.name}" bitsize="{r.bits}" type="{r.kind}"{group}/>')
        parts.append("</feature>")
    return "".join([*parts, "</target>"])


class RegisterFile:
    """All registers of a description, by gdb's numbers."""

    def __init__(self, wide: bool) -> None:
        self.registers = [register for _, group in features(wide) for register in group]

    def read(self, guest: Guest, number: int) -> bytes:
        """A register's bytes. Raises IndexError."""
        r = self.registers[number]
        return (r.read(guest) & (1 << r.bits) - 1).to_bytes(r.bits // 8, "little")

    def write(self, guest: Guest, number: int, data: bytes) -> bool:
        """Write a register; whether that has changed it. Raises IndexError, GuestUnreachable."""
        r = self.registers[number]
        if len(data) != r.bits // 8:
            raise GuestUnreachable(f"{r.name} has {r.bits} bits")
        if data == self.read(guest, number):
            return False
        r.write(guest, int.from_bytes(data, "little"))
        return True

    def read_all(self, guest: Guest) -> bytes:
        """All registers."""
        return b"".join(self.read(guest, number) for number in range(len(self.registers)))

    def write_all(self, guest: Guest, data: bytes) -> bool:
        """Write those of `data` that differ; whether any did. Raises GuestUnreachable."""
        changed, at = False, 0
        for number, r in enumerate(self.registers):
            part = data[at : at + r.bits // 8]
            at += r.bits // 8
            if len(part) == r.bits // 8:
                changed |= self.write(guest, number, part)
        return changed
