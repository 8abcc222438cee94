"""SYSCALL, SYSRET, SYSENTER, SYSEXIT (APM vol. 3, chapters 3 and 4; vol. 2, 6.1)."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import Code

from trapgate.arch.registers import EFER_SCE, IF, RCX, RF, RSP, VM
from trapgate.arch.vectors import GP, UD
from trapgate.isa.processor import Processor, python_form

_STAR, _LSTAR, _CSTAR, _SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
_SYSENTER_CS, _SYSENTER_ESP, _SYSENTER_EIP = 0x174, 0x175, 0x176


@python_form("syscall", "syscall_long_python")
def syscall(p: Processor, instruction: iced.Instruction) -> None:
    if not p.efer & EFER_SCE:
        p.fault(UD)
    star = p.read_msr(_STAR)
    selector = star >> 32 & 0xFFFC
    flags = p.rflags
    if p.long_mode:
        target = p.read_msr(_LSTAR if p.bits == 64 else _CSTAR)
        p.set_register(RCX, 64, p.rip)
        p.set_register(11, 64, flags & ~RF)
        p.rflags = flags & ~(p.read_msr(_SFMASK) | RF)
        p.load_flat_code(selector, 0, long=True)
    else:
        p.set_register(RCX, 32, p.rip)
        target = star & 0xFFFF_FFFF
        p.rflags = flags & ~(IF | VM | RF)
        p.load_flat_code(selector, 0, long=False)
    # The stack's selector keeps the low bits of STAR, the code's does not (APM vol. 3, SYSCALL: SYSCALL_CS + 8).
    p.load_flat_stack((star >> 32) + 8 & 0xFFFF, 0)
    p.rip = target


@python_form("sysret", "sysretq", "sysretq_long_python")
def sysret(p: Processor, instruction: iced.Instruction) -> None:
    if not p.efer & EFER_SCE or p.real_mode:
        p.fault(UD)
    if p.cpl != 0:
        p.fault(GP, 0)
    star = p.read_msr(_STAR)
    selector = star >> 48 | 3
    if p.bits == 64 and instruction.code == Code.SYSRETQ:
        target = p.register(RCX, 64)
        # AMD checks the address where it is used, in user mode (APM vol. 3, SYSRET).
        p.rflags = p.register(11, 64) & ~(RF | VM)
        p.load_flat_code(selector + 16, 3, long=True)
    else:
        target = p.register(RCX, 32)
        if p.bits == 64:
            p.rflags = p.register(11, 32) & ~(RF | VM)
        else:
            p.rflags |= IF
        p.load_flat_code(selector, 3, long=False)
    # SS keeps its hidden part on AMD; only the selector changes (APM vol. 3, SYSRET).
    ss = p.segments[2]
    ss.load((star >> 48) + 8 | 3, ss.base, ss.limit, ss.attributes & ~0x60 | 0x60)
    p.rip = target
    p.mode_changed()


@python_form("sysenter")
def sysenter(p: Processor, instruction: iced.Instruction) -> None:
    if p.long_mode:
        p.fault(UD)  # AMD: legacy mode only (APM vol. 3, SYSENTER)
    selector = p.read_msr(_SYSENTER_CS) & 0xFFFC
    if p.real_mode or selector == 0:
        p.fault(GP, 0)
    p.rflags &= ~(VM | IF | RF)
    p.load_flat_code(selector, 0, long=False)
    p.load_flat_stack(selector + 8, 0)
    p.set_register(RSP, 32, p.read_msr(_SYSENTER_ESP))
    p.rip = p.read_msr(_SYSENTER_EIP) & 0xFFFF_FFFF


@python_form("sysexit", "sysexitq")
def sysexit(p: Processor, instruction: iced.Instruction) -> None:
    if p.long_mode:
        p.fault(UD)
    selector = p.read_msr(_SYSENTER_CS) & 0xFFFC
    if p.real_mode or selector == 0 or p.cpl != 0:
        p.fault(GP, 0)
    target, stack = p.register(2, 32), p.register(RCX, 32)
    p.load_flat_code(selector + 16 | 3, 3, long=False)
    p.load_flat_stack(selector + 24 | 3, 3)
    p.set_register(RSP, 32, stack)
    p.rip = target


@python_form("swapgs_python")
def swapgs(p: Processor, instruction: iced.Instruction) -> None:
    """Where it is not allowed."""
    if p.bits != 64:
        p.fault(UD)
    p.fault(GP, 0)
