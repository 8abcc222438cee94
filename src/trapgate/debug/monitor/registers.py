"""`info registers`."""

from __future__ import annotations

from trapgate.api.qemu_format import GENERAL_ORDER, flag_letters, segment_line
from trapgate.arch import layout
from trapgate.arch.registers import CR0_PE, EFER_LMA, GPR_NAMES, SEGMENT_NAMES
from trapgate.debug.guest import Guest

_M32 = 0xFFFF_FFFF


def registers(guest: Guest) -> str:
    """All registers: general, segments, tables, control, debug, x87 and SSE."""
    wide = guest.bits == 64
    lines = ["", "CPU#0"]
    if wide:
        names = [f"{GPR_NAMES[n].upper():<3}={guest.gpr(n):016x}" for n in (*GENERAL_ORDER, *range(8, 16))]
    else:
        names = [f"E{GPR_NAMES[n][1:].upper()}={guest.gpr(n) & _M32:08x}" for n in GENERAL_ORDER]
    lines += [" ".join(names[i : i + 4]) for i in range(0, len(names), 4)]
    flags, rip = guest.rflags, guest.rip
    place = f"RIP={rip:016x} RFL={flags:08x}" if wide else f"EIP={rip & _M32:08x} EFL={flags:08x}"
    lines.append(
        f"{place} [{flag_letters(flags)}] CPL={guest.cpl} II={int(guest.processor.shadow)} "
        f"A20={int(guest.board.a20.enabled)} SMM={int(bool(guest.processor.in_smm))} HLT={int(guest.halted)}"
    )
    protected, long_mode = bool(guest.control(0) & CR0_PE), bool(guest.efer & EFER_LMA)
    segments = [(name.upper(), guest.segment(n)) for n, name in enumerate(SEGMENT_NAMES)]
    segments += [("LDT", guest.system_segment("ldtr")), ("TR", guest.system_segment("tr"))]
    lines += [segment_line(name, view, wide, protected, long_mode) for name, view in segments]
    width = 16 if wide else 8
    for name in ("gdtr", "idtr"):
        base, limit = guest.table(name)
        lines.append(f"{name[:3].upper()}=     {base:0{width}x} {limit:08x}")
    lines.append(
        f"CR0={guest.control(0):08x} CR2={guest.control(2):0{width}x} CR3={guest.control(3):0{width}x} "
        f"CR4={guest.control(4):08x}"
    )
    lines.append("".join(f"DR{n}={guest.debug_register(n):016x} " for n in range(4)))
    lines.append(f"DR6={guest.debug_register(6):016x} DR7={guest.debug_register(7):016x}")
    lines.append(f"EFER={guest.efer:016x}")
    return "\n".join([*lines, *_floating_point(guest, 16 if wide else 8)]) + "\n"


def _floating_point(guest: Guest, xmm: int) -> list[str]:
    state, q = guest.processor.state, guest.processor.q
    top, valid = state.d[layout.FPU_TOP >> 2], q[layout.FPU_VALID >> 3]
    tags = sum((valid >> 8 * n & 1) << n for n in range(8))
    lines = [
        f"FCW={state.w[layout.FPU_CONTROL >> 1]:04x} FSW={state.w[layout.FPU_STATUS >> 1] | top << 11:04x} [ST={top}] "
        f"FTW={tags:02x} MXCSR={guest.processor.mxcsr:08x}"
    ]

    def number(place: int, size: int) -> int:
        return int.from_bytes(state.bytes[place : place + size], "little")

    x87 = [f"FPR{n}={number(layout.fpr(n), 8):016x} {number(layout.fpr(n) + 8, 2):04x}" for n in range(8)]
    sse = [f"XMM{n:02d}={number(layout.xmm(n) + 8, 8):016x} {number(layout.xmm(n), 8):016x}" for n in range(xmm)]
    return lines + [" ".join(both) for found in (x87, sse) for both in zip(found[::2], found[1::2], strict=True)]
