"""Two outcomes of one case, field by field."""

from __future__ import annotations

import struct

from . import areas
from . import differences as known
from .areas import Case, Outcome, State
from .undefined import ARITHMETIC, DF

_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))
_FLAG_NAMES = {
    1: "CF",
    4: "PF",
    0x10: "AF",
    0x40: "ZF",
    0x80: "SF",
    0x400: "DF",
    0x800: "OF",
    1 << 18: "AC",
    1 << 21: "ID",
}
#: NT, IOPL, IF, AC and ID besides the arithmetic flags; TF and RF belong to debugging.
_COMPARED_FLAGS = ARITHMETIC | DF | 0x200 | 0x3000 | 0x4000 | 1 << 18 | 1 << 21


def flag_names(flags: int) -> str:
    return " ".join(name for bit, name in _FLAG_NAMES.items() if flags & bit) or "-"


def differences(case: Case, expected: Outcome, got: Outcome) -> list[str]:
    """One line for every field that differs and is defined: `field: wanted X, got Y`."""
    if known.accepted(case, expected, got):
        return []
    lines: list[str] = []

    def check(name: str, wanted: object, found: object) -> None:
        if wanted != found:
            shown = [hex(v) if isinstance(v, int) else str(v) for v in (wanted, found)]
            lines.append(f"{name}: wanted {shown[0]}, got {shown[1]}")

    check("exception", expected.vector, got.vector)
    if expected.vector_only:
        return lines
    if expected.vector == got.vector >= 0:
        check("error code", expected.error, got.error)
        check("CR2", expected.address, got.address)
    faulted = expected.vector >= 0
    a, b = expected.state, got.state
    check("rip", a.rip, b.rip)
    width = (1 << 64) - 1 if case.bits == 64 else 0xFFFF_FFFF
    register_bits = known.compared_register_bits(case, expected)
    for number, name in enumerate(_NAMES[: 16 if case.bits == 64 else 8]):
        mask = register_bits.get(number, width) & ~(0 if faulted else case.undefined_registers.get(number, 0))
        check(name, a.gpr[number] & mask, b.gpr[number] & mask)
    mask = _COMPARED_FLAGS & ~(0 if faulted and expected.vector != 0 else case.undefined_flags)
    mask &= ~known.uncompared_flags(case, expected)
    if (a.rflags ^ b.rflags) & mask:
        lines.append(f"flags: wanted {flag_names(a.rflags & mask)}, got {flag_names(b.rflags & mask)}")
    undefined_xmm = {} if faulted else case.undefined_xmm
    floating = floating_differences(a, b, undefined_xmm)
    other = known.floating_reference(case, expected)
    if floating and other is not None:
        floating = floating_differences(other, b, undefined_xmm)
    lines += floating
    lines += _window_differences(case, a.window, b.window)
    return lines


def floating_differences(a: State, b: State, undefined_xmm: dict[int, int]) -> list[str]:
    """x87 and SSE state. Empty x87 registers and the last instruction's addresses are not compared."""
    lines = []
    for name, offset, layout in (
        ("fcw", areas.FX_CONTROL, "<H"),
        ("fsw", areas.FX_STATUS, "<H"),
        ("ftw", areas.FX_TAG, "<B"),
        ("mxcsr", areas.FX_MXCSR, "<I"),
    ):
        wanted, found = struct.unpack_from(layout, a.fx, offset)[0], struct.unpack_from(layout, b.fx, offset)[0]
        if wanted != found:
            lines.append(f"{name}: wanted {wanted:#x}, got {found:#x}")
    tag, top = a.fx[areas.FX_TAG], a.fx[areas.FX_STATUS + 1] >> 3 & 7
    for i in range(8):
        at = areas.FX_ST + 16 * i
        if tag >> ((top + i) & 7) & 1 and a.fx[at : at + 10] != b.fx[at : at + 10]:
            lines.append(f"st{i}: wanted {_hex(a.fx[at : at + 10])}, got {_hex(b.fx[at : at + 10])}")
    for i in range(16):
        at = areas.FX_XMM + 16 * i
        wanted, found = a.fx[at : at + 16], b.fx[at : at + 16]
        if wanted == found:
            continue
        defined = ~undefined_xmm.get(i, 0)
        if int.from_bytes(wanted, "little") & defined != int.from_bytes(found, "little") & defined:
            lines.append(f"xmm{i}: wanted {_hex(wanted)}, got {_hex(found)}")
    return lines


def _hex(data: bytes) -> str:
    return data[::-1].hex()


def _window_differences(case: Case, wanted: bytes, got: bytes) -> list[str]:
    if wanted == got:
        return []
    ignored = {i for start, length in case.ignored_memory for i in range(start, start + length)}
    offsets = [i for i in range(len(wanted)) if wanted[i] != got[i] and i not in ignored]
    if not offsets:
        return []
    first, last = offsets[0], offsets[-1] + 1
    base = areas.PLACES[case.mode].window
    return [f"memory at {base + first:#x}: wanted {wanted[first:last][:32].hex()}, got {got[first:last][:32].hex()}"]


def describe(case: Case, lines: list[str]) -> str:
    """The whole case in words, for a failing test: enough to make it again by hand."""
    state, fx = case.state, case.state.fx
    registers = " ".join(f"{name}={value:x}" for name, value in zip(_NAMES, state.gpr, strict=True))
    text = [
        f"{case.text}   [{case.code.hex()}] {case.mode}, form {case.form}, seed {case.seed}, at {state.rip:#x}",
        *(f"  {line}" for line in lines),
        f"  before: {registers}",
        f"  flags {flag_names(state.rflags)} ({state.rflags:#x}), not compared: {flag_names(case.undefined_flags)}",
    ]
    if "mm" in case.text or case.form.startswith("F"):
        control, status, tag = struct.unpack_from("<HHB", fx)
        mxcsr = struct.unpack_from("<I", fx, areas.FX_MXCSR)[0]
        text.append(f"  fcw={control:x} fsw={status:x} ftw={tag:x} mxcsr={mxcsr:x}")
        text.append("  " + " ".join(f"st{i}={_hex(fx[areas.FX_ST + 16 * i :][:10])}" for i in range(8)))
    used = [i for i in range(16) if f"xmm{i}" in case.text]
    if used:
        text.append("  " + " ".join(f"xmm{i}={_hex(fx[areas.FX_XMM + 16 * i :][:16])}" for i in used))
    memory = _operand_memory(case)
    if memory:
        text.append(f"  memory operand: {memory}")
    return "\n".join(text)


def _operand_memory(case: Case) -> str:
    """The bytes at the window offset that the operand was placed at."""
    if case.operand_offset < 0:
        return ""
    return case.state.window[case.operand_offset : case.operand_offset + 32].hex()
