"""Families of system instructions: each function makes the code of a case and prepares what it needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from .. import areas, host
from ..forms import Form, all_forms
from ..generate import make_case
from ..values import Choices, integer
from .cases import SystemCase
from .maker import OPERAND_SIZE, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Maker
from .world import (
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_PE,
    CR0_TS,
    CR0_WP,
    CSTAR,
    DATA,
    GDT,
    IDT,
    IO_BITMAP,
    KERNEL_GS_BASE,
    LSTAR,
    OTHER_CODE,
    OTHER_TSS,
    PAT,
    SFMASK,
    STACK,
    STAR,
    SYSENTER_CS,
    SYSENTER_EIP,
    SYSENTER_ESP,
    TSS,
    Mode,
    descriptor,
    initial_state,
)


def _word(value: int, size: int = 2) -> bytes:
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def segment_registers(m: Maker) -> bytes:
    """MOV, PUSH and POP of segment registers, LDS to LGS."""
    c = m.choices
    prefix = m.operand_size()
    size = m.width(prefix)
    kind = c.between(0, 9)
    if kind < 4:
        return prefix + b"\x8e" + m.either(c.between(0, 5), 2, _word(m.selector()))
    if kind < 6:
        return prefix + b"\x8c" + m.either(c.between(0, 5), 2)
    if kind < 8:
        size = {16: (2, 4), 32: (4, 2), 64: (8, 2)}[m.mode.bits][OPERAND_SIZE in prefix]
        m.push_frame([m.selector()], size)
        opcodes = (b"\x0f\xa1", b"\x0f\xa9", b"\x0f\xa0", b"\x0f\xa8")
        if m.mode.bits != 64:
            opcodes += (b"\x07", b"\x17", b"\x1f", b"\x07", b"\x17", b"\x1f", b"\x06", b"\x0e", b"\x16", b"\x1e")
        return prefix + c.pick(opcodes)
    opcodes = (b"\x0f\xb2", b"\x0f\xb4", b"\x0f\xb5") + ((b"\xc4", b"\xc5") if m.mode.bits != 64 else ())
    content = c.bytes(size) + _word(m.selector())
    return prefix + c.pick(opcodes) + m.memory(c.between(0, 7), size + 2, content)


def checks(m: Maker) -> bytes:
    """LAR, LSL, VERR, VERW, ARPL."""
    c = m.choices
    prefix = m.operand_size()
    selector = _word(m.selector())
    kind = c.between(0, 9)
    if kind < 4:
        return prefix + c.pick((b"\x0f\x02", b"\x0f\x03")) + m.either(c.between(0, 7), 2, selector)
    if kind < 8 or m.mode.bits == 64:
        return prefix + b"\x0f\x00" + m.either(c.pick((4, 5)), 2, selector)
    return prefix + b"\x63" + m.either(c.between(0, 7), 2, selector)


def tables(m: Maker) -> bytes:
    """The descriptor-table registers, LDTR, TR, the machine status word, CLTS, INVLPG."""
    c = m.choices
    kind = c.between(0, 11)
    prefix = m.operand_size()
    if kind < 2:
        return prefix + b"\x0f\x01" + m.memory(c.pick((0, 1)), 10)
    if kind < 4:
        limit = c.pick((0xFFF, 0x1FF, 0x7FF, c.bits(16)))
        base = c.pick((GDT, IDT, c.bits(18), integer(c, 64)))
        return prefix + b"\x0f\x01" + m.memory(c.pick((2, 3)), 10, _word(limit) + _word(base, 8))
    if kind < 6:
        return prefix + b"\x0f\x00" + m.either(c.pick((0, 1)), 2)
    if kind < 8:
        register = c.pick((2, 3))
        dpl = c.bits(2) << 5
        value = descriptor(
            c.pick((0x82, 0x89, 0x81, 0x8B, 0x80 | c.bits(5), c.bits(8))) | dpl, OTHER_TSS, c.pick((0x67, 0x7F, 0x10))
        )
        selector = m.selector() if c.bits(1) else m.own_entry(value)
        return prefix + b"\x0f\x00" + m.either(register, 2, _word(selector))
    if kind < 9:
        return prefix + b"\x0f\x01" + m.either(4, 2)
    if kind < 10:
        value = c.pick((CR0_PE, CR0_PE | CR0_TS, CR0_PE | CR0_MP, c.bits(4) | CR0_PE, c.bits(4)))
        return b"\x0f\x01" + m.either(6, 2, _word(value))
    if kind < 11:
        m.state.cr0 |= c.bits(1) << 3
        return b"\x0f\x06"
    return b"\x0f\x01" + m.memory(7, 0)


def control_registers(m: Maker) -> bytes:
    """MOV to and from CR0, CR2, CR3, CR4."""
    c = m.choices
    register = c.pick((0, 0, 2, 3, 4, 4, c.between(0, 7)))
    rm = c.pick((RAX, RCX, RDX, RBX, RSI, RDI))
    if c.bits(1):
        return b"\x0f\x20" + m.modrm_register(register, rm)
    state = m.state
    now = {0: state.cr0, 3: state.cr3, 4: state.cr4}.get(register, 0)
    value = now ^ c.pick((0, 1 << c.between(0, 10), 1 << c.between(0, 31)))
    if register == 0 and c.chance(80):
        value = now ^ c.pick((CR0_TS, CR0_MP, CR0_NE, CR0_ET, 4, CR0_WP, 1 << 18, 1 << 30, 1 << 29, CR0_PE))
    if register == 3:
        value = state.cr3 | c.pick((0, 0x18, 8, 0xFE0, 1 << 60, c.bits(12)))
    if register == 2:
        value = integer(c, 64 if m.mode.bits == 64 else 32)
    state.gpr[rm] = value if m.mode.bits == 64 else value & 0xFFFF_FFFF
    return b"\x0f\x22" + m.modrm_register(register, rm)


def debug_registers(m: Maker) -> bytes:
    """MOV to and from DR0 to DR7; no breakpoint is enabled."""
    c = m.choices
    m.uses_dr = True
    m.state.dr[:4] = [integer(c, 32) for _ in range(4)]
    m.state.cr4 |= c.pick((0, 8))
    rm = c.pick((RAX, RCX, RDX, RBX, RSI, RDI))
    register = c.between(0, 7)
    if c.bits(1):
        return b"\x0f\x21" + m.modrm_register(register, rm)
    value = integer(c, 64 if m.mode.bits == 64 else 32)
    if register in (5, 7):
        value &= ~0xFF & ~(1 << 13)
        value &= c.pick((0xFFFF_FFFF, -1))
    m.state.gpr[rm] = value & ((1 << 64) - 1 if m.mode.bits == 64 else 0xFFFF_FFFF)
    return b"\x0f\x23" + m.modrm_register(register, rm)


def _msrs(m: Maker) -> None:
    c = m.choices
    m.uses_msrs = True
    star = c.pick((0x0033_0008, 0x0033_0008, 0x0023_0018, c.bits(32)))
    m.state.msrs = {
        STAR: star << 32 | OTHER_CODE, LSTAR: c.pick((OTHER_CODE, OTHER_CODE + 0x100)), CSTAR: OTHER_CODE + 0x200,
        SFMASK: c.pick((0, 0x200, 0x4_7700, c.bits(18))), KERNEL_GS_BASE: integer(c, 47),
        SYSENTER_CS: c.pick((0x18, 0x08, 0, 0x33, c.bits(8))), SYSENTER_ESP: STACK - 64,
        SYSENTER_EIP: c.pick((OTHER_CODE, OTHER_CODE + 0x300)), PAT: 0x0007_0406_0007_0406,
    }  # fmt: skip


#: The bases of FS and GS; a number that no profile has.
_BASES, _ABSENT = (0xC000_0100, 0xC000_0101), 0xC000_0099


def model_specific(m: Maker) -> bytes:
    """RDMSR and WRMSR of registers that only hold what is written, and of one that is not there; SWAPGS."""
    c = m.choices
    _msrs(m)
    if c.chance(20):
        return b"\x0f\x01\xf8"
    number = c.pick((*m.state.msrs, *_BASES, _ABSENT))
    m.state.gpr[RCX] = number
    if c.bits(1):
        return b"\x0f\x32"
    value = c.pick((integer(c, 64), integer(c, 47), integer(c, 32), 0x0007_0406_0007_0406))
    m.state.gpr[RAX], m.state.gpr[RDX] = value & 0xFFFF_FFFF, value >> 32
    return b"\x0f\x30"


def system_calls(m: Maker) -> bytes:
    """SYSCALL, SYSRET, SYSENTER, SYSEXIT."""
    c = m.choices
    _msrs(m)
    state = m.state
    state.gpr[RCX] = c.pick((OTHER_CODE, OTHER_CODE + 0x40, 1 << 47, OTHER_CODE + c.bits(12)))
    state.gpr[RDX] = c.pick((OTHER_CODE, OTHER_CODE + 0x40, OTHER_CODE + c.bits(12)))
    state.gpr[11] = c.bits(22) & ~0x3_0100 | 2
    if m.mode.kind in ("protected", "long"):
        state.efer = state.efer & ~1 | int(c.chance(90))
    codes = (b"\x0f\x05", b"\x0f\x05", b"\x0f\x34", b"\x0f\x35")
    if m.mode.kind != "real":  # some KVMs carry it out there, to wherever it leads
        codes += (b"\x0f\x07",)
    if m.mode.bits == 64:
        codes += (b"\x48\x0f\x07", b"\x48\x0f\x35")
    return c.pick(codes)


def flags(m: Maker) -> bytes:
    """PUSHF, POPF, CLI, STI and what else reads or writes flags; HLT."""
    c = m.choices
    prefix = c.pick((b"", b"", OPERAND_SIZE))
    kind = c.between(0, 9)
    if kind < 3:
        return prefix + b"\x9c"
    if kind < 7:
        size = {16: (2, 4), 32: (4, 2), 64: (8, 2)}[m.mode.bits][bool(prefix)]
        m.push_frame([c.bits(22) & ~0x3_0100], size)
        return prefix + b"\x9d"
    return c.pick((b"\xfa", b"\xfb", b"\x9e", b"\x9f", b"\xf8", b"\xf9", b"\xf5", b"\xfc", b"\xfd", b"\xf4"))


def interrupts(m: Maker) -> bytes:
    """INT n, INT3, INTO, INT1, BOUND and faults, through gates of every kind."""
    c = m.choices
    vector = c.pick((0x20, 0x21, 0x40, 3, 4, 5, 6, 0, 13))
    if c.chance(70):
        m.interrupt_gate(vector)
    m.stack_tss()
    kind = c.between(0, 9)
    if kind < 4:
        return bytes([0xCD, vector])
    if kind < 5:
        return b"\xcc"
    if kind < 6:
        return b"\xce"
    if kind < 7:
        return b"\x0f\x0b"
    if kind < 8:
        m.state.gpr[RCX] = 0
        return b"\xf7\xf1"
    if m.mode.bits == 64:
        return b"\xcd" + bytes([c.bits(8)])
    prefix = m.operand_size()
    size = m.width(prefix)
    low, high = integer(c, 8 * size), integer(c, 8 * size)
    return prefix + b"\x62" + m.memory(c.between(0, 7), 2 * size, _word(low, size) + _word(high, size))


def far_transfers(m: Maker) -> bytes:
    """Far JMP and CALL, direct and through memory; gates among the targets."""
    c = m.choices
    prefix = m.operand_size()
    size = m.width(prefix)
    selector, offset = m.far_target()
    if m.mode.bits != 64 and c.bits(1):
        if c.chance(20):
            prefix, size = b"", m.width(b"")
        return prefix + c.pick((b"\xea", b"\x9a")) + _word(offset, size) + _word(selector)
    return prefix + b"\xff" + m.memory(c.pick((3, 5)), size + 2, _word(offset, size) + _word(selector))


def returns(m: Maker) -> bytes:
    """Far RET and IRET: to the same level, outwards, to broken selectors."""
    c = m.choices
    prefix = m.operand_size()
    size = m.width(prefix)
    selector, target = m.far_target()
    outer = m.own_entry(descriptor(0xF3 | c.pick((0, 0xC00, 0x400)), 0, c.pick((0xFFFF, 0xF_FFFF))))
    outer_stack = c.pick((outer | 3, m.selector(), 0x3B, 0x53, 0, 3))
    sp = c.pick((STACK - 0x80, c.bits(16), integer(c, 32)))
    if c.bits(1):
        extra = c.pick((0, 0, 4, 8, c.bits(8)))
        m.push_frame([target, selector], size)
        m.put((m.state.gpr[RSP] + 2 * size + extra) & 0xFFFF, _word(sp, size) + _word(outer_stack, size))
        return prefix + (b"\xca" + _word(extra) if extra or c.bits(1) else b"\xcb")
    new = c.bits(22) & ~0x0_0100
    if not c.chance(10):
        new &= ~0x2_0000
    if not c.chance(10):
        new &= ~0x1_4000
    if m.mode.kind in ("protected", "long") and c.chance(5):
        m.state.rflags |= 0x4000
    m.push_frame([target, selector, new, sp, outer_stack, 0x10, 0x20, 0x30, 0x40], size)
    return prefix + b"\xcf"


def decimal(m: Maker) -> bytes:
    """BCD adjustments, SALC, XLAT."""
    c = m.choices
    kind = c.between(0, 9)
    if kind < 6:
        return c.pick((b"\x27", b"\x2f", b"\x37", b"\x3f", b"\xd6"))
    if kind < 9:
        return c.pick((b"\xd4", b"\xd5")) + bytes([c.pick((10, 10, 0, 16, c.bits(8)))])
    m.memory(0, 1)
    m.state.gpr[RAX] &= ~0xFF
    return b"\xd7"


def stack_frames(m: Maker) -> bytes:
    """ENTER, LEAVE, PUSHA, POPA, PUSH and POP near the ends of the stack."""
    c = m.choices
    state = m.state
    prefix = c.pick((b"", b"", OPERAND_SIZE))
    high = 0 if m.mode.bits == 64 or m.mode.bits == 32 else c.pick((0, c.bits(16) << 16))
    if c.chance(20) and m.mode.kind != "long":
        state.gpr[RSP] = c.pick((0, 1, 2, 4, 6, 0xFFFF, 0xFFFE)) if m.mode.bits == 16 else STACK
    state.gpr[RSP] |= high
    state.gpr[RBP] = (STACK - 0x100 + c.bits(4)) | high
    kind = c.between(0, 9)
    if kind < 3:
        return prefix + b"\xc8" + _word(c.pick((0, 8, c.bits(8)))) + bytes([c.pick((0, 0, 1, 2, 5, 31, 32, c.bits(8)))])
    if kind < 4:
        return prefix + b"\xc9"
    if kind < 6 and m.mode.bits != 64:
        return prefix + c.pick((b"\x60", b"\x61"))
    register = c.pick((0, 1, 2, 3, 4, 5, 6, 7))
    if kind < 8:
        return prefix + bytes([c.pick((0x50, 0x58)) | register])
    size = {16: (2, 4), 32: (4, 2), 64: (8, 2)}[m.mode.bits][bool(prefix)]
    return (
        prefix + c.pick((b"\xff", b"\x8f"))[:1] + m.memory(6, size)
        if c.bits(1)
        else prefix + b"\x8f" + m.memory(0, size)
    )


def strings(m: Maker) -> bytes:
    """MOVS, STOS, LODS, CMPS, SCAS with every prefix, to the ends of segments and pages."""
    c = m.choices
    state = m.state
    width = 16 if m.mode.bits == 16 else 32 if m.mode.bits == 32 else 64
    edge = c.pick((DATA, DATA, 0xAFF8, 0xB000, 0xCFF8, 0xFFF8, 0xC7F8))
    state.gpr[RSI] = DATA + c.bits(6)
    state.gpr[RDI] = edge + c.bits(4)
    if c.bits(1):
        state.gpr[RSI], state.gpr[RDI] = state.gpr[RDI], state.gpr[RSI]
    state.gpr[RCX] = c.between(0, 12)
    if width == 16 and c.chance(30):
        for number in (RSI, RDI, RCX):
            state.gpr[number] |= c.bits(16) << 16
    state.rflags |= c.bits(1) << 10
    prefixes = c.pick((b"", b"\xf3", b"\xf3", b"\xf2"))
    opcode = c.pick((0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD, 0xA6, 0xA7, 0xAE, 0xAF))
    if prefixes == b"\xf2" and opcode in (0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD):
        prefixes = b"\xf3"
    return prefixes + m.operand_size() + bytes([opcode])


def ports(m: Maker) -> bytes:
    """IN, OUT, INS, OUTS with IOPL and the I/O permission bitmap."""
    c = m.choices
    state = m.state
    port = c.pick((0x80, 0x0, 0x7F, 0xFF, c.bits(8)))
    if m.mode.cpl and c.bits(1):
        m.put(TSS + IO_BITMAP + port // 8, c.bytes(2))
    if m.mode.cpl and c.chance(10):
        m.put(TSS + 0x66, _word(c.pick((0x68, 0xFFFF, 0x300, 0x88))))
    prefix = c.pick((b"", OPERAND_SIZE))
    kind = c.between(0, 9)
    if kind < 4:
        return prefix + bytes([c.pick((0xE4, 0xE5, 0xE6, 0xE7)), port])
    state.gpr[RDX] = state.gpr[RDX] & ~0xFFFF | port
    if kind < 8:
        return prefix + bytes([c.pick((0xEC, 0xED, 0xEE, 0xEF))])
    state.gpr[RSI], state.gpr[RDI] = DATA + c.bits(6), DATA + 128 + c.bits(6)
    state.gpr[RCX] = c.between(0, 5)
    return c.pick((b"", b"\xf3")) + prefix + bytes([c.pick((0x6C, 0x6D, 0x6E, 0x6F))])


FAMILIES: dict[str, Callable[[Maker], bytes]] = {
    "segments": segment_registers, "checks": checks, "tables": tables, "control": control_registers,
    "debug": debug_registers, "msr": model_specific, "syscall": system_calls, "flags": flags, "interrupts": interrupts,
    "far": far_transfers, "returns": returns, "decimal": decimal, "stack": stack_frames, "strings": strings,
    "ports": ports,
}  # fmt: skip


def make_system_case(mode: Mode, family: str, seed: int) -> SystemCase:
    """The same arguments give the same case."""
    number = sum(ord(letter) << 8 * i for i, letter in enumerate(f"{mode.name}/{family}"))
    choices = Choices(seed << 256 | number)
    made = Maker.of(mode, choices)
    code = FAMILIES[family](made)
    return SystemCase(mode, code, made.state, made.patches, family, seed, made.uses_dr, made.uses_msrs)


#: Modes of the other oracles whose cases run here too.
PLAIN = {"real": "real16", "protected32": "protected32"}
_PLAIN_FAMILIES = ("integer", "stack", "branch", "string", "privileged")
_STACK_IN_WINDOW = 0x1F0
#: Slots in the stack's page.
_FIRST_SLOT, _SLOTS = 48, 8


@cache
def _plain_forms(mode: str) -> tuple[Form, ...]:
    return tuple(
        form
        for form in all_forms(mode)
        # INS with any count writes over everything, OUTS does not end in time; the family "ports" has them.
        if form.family in _PLAIN_FAMILIES
        and host.can_run(form.mnemonic)
        and not form.mnemonic.startswith(("INS", "OUTS"))
    )


def make_plain_case(mode: Mode, seed: int) -> SystemCase:
    """A case of the general-purpose forms, one form after the other."""
    name = PLAIN[mode.name]
    forms = _plain_forms(name)
    form = forms[seed % len(forms)]
    case = make_case(form, seed // len(forms), _FIRST_SLOT + seed % _SLOTS)
    state, places = initial_state(mode), areas.PLACES[name]
    state.gpr, state.rip, state.rflags = list(case.state.gpr), case.state.rip, case.state.rflags
    if form.family not in ("stack", "branch") and "sp" not in case.text:
        state.gpr[RSP] = places.window + _STACK_IN_WINDOW  # for the frame of an exception
    patches = [(places.read_only, areas.read_only_bytes()), (places.window, case.state.window)]
    return SystemCase(mode, case.code, state, patches, "plain", seed, plain=case)


__all__ = ["FAMILIES", "PLAIN", "make_plain_case", "make_system_case"]
