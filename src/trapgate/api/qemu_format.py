"""A processor's state as QEMU's `-d cpu` and `-d int` print it, so that the two can be compared line by line."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import CR0_PE, GPR_NAMES, SEGMENT_NAMES
from trapgate.engine.processor import Processor

#: QEMU's order of the general registers, as their numbers.
GENERAL_ORDER = (0, 3, 1, 2, 6, 7, 5, 4)
_FLAGS = ((10, "D"), (11, "O"), (7, "S"), (6, "Z"), (4, "A"), (2, "P"), (0, "C"))
_LEGACY_TYPES = (
    "Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16", "TrapGate16",
    "Reserved", "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved", "IntGate32", "TrapGate32",
)  # fmt: skip
_LONG_TYPES = (
    "<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved",
    "Reserved", "TSS64-avl", "Reserved", "TSS64-busy", "CallGate64", "Reserved", "IntGate64", "TrapGate64",
)  # fmt: skip


def cpu_state(processor: Processor, at: int | None = None) -> str:
    """The lines of `-d cpu`; 16- and 32-bit code has the short form. `at` is shown as rip (None: rip itself)."""
    p = processor
    at = p.rip if at is None else at
    wide = p.bits == 64
    lines = []
    if wide:
        names = [f"{GPR_NAMES[n].upper():<3}={p.q[n]:016x}" for n in (*GENERAL_ORDER, *range(8, 16))]
    else:
        names = [f"E{GPR_NAMES[n][1:].upper()}={p.q[n] & 0xFFFF_FFFF:08x}" for n in GENERAL_ORDER]
    lines += [" ".join(names[i : i + 4]) for i in range(0, len(names), 4)]
    flags = p.rflags
    letters = flag_letters(flags)
    rip = f"RIP={at:016x} RFL={flags:08x}" if wide else f"EIP={at & 0xFFFF_FFFF:08x} EFL={flags:08x}"
    a20 = p.state.get(layout.A20_MASK) >> 20 & 1
    smm = int(bool(getattr(p, "in_smm", False)))
    lines.append(f"{rip} [{letters}] CPL={p.cpl} II={int(p.shadow)} A20={a20} SMM={smm} HLT={int(p.halted)}")
    protected = bool(p.cr0 & CR0_PE)
    for name, s in zip(SEGMENT_NAMES, p.segments, strict=True):
        parts = s.selector, s.base, s.limit, s.attributes
        lines.append(segment_line(name.upper(), parts, wide, protected, p.long_mode))
    for name, t in (("LDT", p.ldtr), ("TR", p.tr)):
        parts = t.selector, t.base, t.limit, t.attributes
        lines.append(segment_line(name, parts, wide, protected, p.long_mode))
    width = 16 if wide else 8
    lines.append(f"GDT=     {p.gdtr_base:0{width}x} {p.gdtr_limit:08x}")
    lines.append(f"IDT=     {p.idtr_base:0{width}x} {p.idtr_limit:08x}")
    lines.append(f"CR0={p.cr0:08x} CR2={p.cr2:0{width}x} CR3={p.cr3:0{width}x} CR4={p.cr4:08x}")
    lines.append("".join(f"DR{n}={p.dr[n]:016x} " for n in range(4)))
    lines.append(f"DR6={p.dr[6]:016x} DR7={p.dr[7]:016x}")
    lines.append(f"EFER={p.efer:016x}")
    return "\n".join(lines)


def flag_letters(flags: int) -> str:
    """The arithmetic flags and DF."""
    return "".join(letter if flags >> bit & 1 else "-" for bit, letter in _FLAGS)


def segment_line(name: str, parts: tuple[int, int, int, int], wide: bool, protected: bool, long_mode: bool) -> str:
    """A segment register (selector, base, limit in bytes, attributes). `wide`: 64-bit code runs."""
    selector, base, limit, attributes = parts
    width = 16 if wide else 8
    high = (attributes & 0xFF) << 8 | (attributes & 0xF00) << 12
    # Bits 19:16 of the limit as the descriptor holds them: in pages where G is set.
    high |= (limit >> 12 if attributes & 0x800 else limit) & 0xF_0000
    line = f"{name:<3}={selector:04x} {base:0{width}x} {limit:08x} {high:08x}"
    if not protected or not attributes & 0x80:
        return line
    dpl, kind = attributes >> 5 & 3, attributes & 0xF
    line += f" DPL={dpl} "
    if not attributes & 0x10:
        return line + (_LONG_TYPES if long_mode else _LEGACY_TYPES)[kind]
    if kind & 8:
        size = "CS64" if attributes & 0x200 else "CS32" if attributes & 0x400 else "CS16"
        letters = ("C" if kind & 4 else "-") + ("R" if kind & 2 else "-")
    else:
        size = "DS  " if attributes & 0x400 or long_mode else "DS16"
        letters = ("E" if kind & 4 else "-") + ("W" if kind & 2 else "-")
    return f"{line}{size} [{letters}{'A' if kind & 1 else '-'}]"


def event_line(
    p: Processor, rip: int, number: int, vector: int, error: int | None, is_software: bool, address: int | None
) -> str:
    """The line of `-d int` for an exception or interrupt that is about to be delivered at `rip`."""
    cs, ss = p.segments[1].selector, p.segments[2].selector
    linear = p.linear_rip(rip)
    line = (
        f"{number:6d}: v={vector:02x} e={error or 0:04x} i={int(is_software)} cpl={p.cpl} "
        f"IP={cs:04x}:{rip:016x} pc={linear:016x} SP={ss:04x}:{p.q[4]:016x}"
    )
    if address is not None:
        return f"{line} CR2={address:016x}"
    return f"{line} env->regs[R_EAX]={p.q[0]:016x}"
