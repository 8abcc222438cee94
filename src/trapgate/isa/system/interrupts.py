"""INT, INT3, INTO, INT1, IRET, BOUND, UD2, HLT and the interrupt flag where privilege must be checked (APM vol. 3)."""

from __future__ import annotations

import iced_x86 as iced

from trapgate.arch.registers import (
    AC,
    CR4_PVI,
    CR4_VME,
    DF,
    ID,
    IF,
    IOPL,
    IOPL_SHIFT,
    NT,
    OF,
    RF,
    TF,
    VIF,
    VIP,
    VM,
)
from trapgate.arch.vectors import DB, GP, NM, UD
from trapgate.isa.processor import Processor, python_form

_ARITHMETIC = 0x8D5


@python_form("int")
def int_(p: Processor, instruction: iced.Instruction) -> None:
    p.software_interrupt(instruction.immediate(0) & 0xFF)


@python_form("int3")
def int3(p: Processor, instruction: iced.Instruction) -> None:
    p.software_interrupt(3, sensitive=False)


@python_form("into")
def into(p: Processor, instruction: iced.Instruction) -> None:
    if p.rflags & OF:
        p.software_interrupt(4, sensitive=False)


@python_form("int1")
def int1(p: Processor, instruction: iced.Instruction) -> None:
    """A trap whose gate's DPL does not count (APM vol. 2, 13.1.3.3)."""
    p.trap(DB)


@python_form("iret", "iretd", "iretq", "iretq_within_python")
def iret(p: Processor, instruction: iced.Instruction) -> None:
    mnemonic = iced.Mnemonic
    p.interrupt_return({mnemonic.IRET: 16, mnemonic.IRETD: 32, mnemonic.IRETQ: 64}[instruction.mnemonic])


@python_form("raise_ud", "ud0", "ud1", "ud2")
def raise_ud(p: Processor, instruction: iced.Instruction) -> None:
    p.fault(UD)


@python_form("raise_nm")
def raise_nm(p: Processor, instruction: iced.Instruction) -> None:
    p.fault(NM)


@python_form("raise_gp")
def raise_gp(p: Processor, instruction: iced.Instruction) -> None:
    p.fault(GP, 0)


@python_form("unimplemented")
def unimplemented(p: Processor, instruction: iced.Instruction) -> None:
    p.unimplemented(f"the instruction {instruction}")


@python_form("bound")
def bound(p: Processor, instruction: iced.Instruction) -> None:
    width = p.operand_bits(instruction, 0)
    segment, at = p.memory_operand(instruction)
    half = 1 << (width - 1)

    def signed(value: int) -> int:
        return (value ^ half) - half

    low = signed(p.read_segment(segment, at, width // 8))
    high = signed(p.read_segment(segment, at + width // 8, width // 8))
    if not low <= signed(p.operand(instruction, 0)) <= high:
        p.range_exceeded()


@python_form("hlt")
def hlt(p: Processor, instruction: iced.Instruction) -> None:
    if p.cpl != 0:
        p.fault(GP, 0)
    p.halted = True


def _set_interrupt_flag(p: Processor, value: bool) -> None:
    """CLI and STI (APM vol. 3, CLI, STI; vol. 2, 8.10).

    | CPL <= IOPL | virtual-8086 and VME, or CPL 3 and PVI | changes                        |
    |-------------|----------------------------------------|--------------------------------|
    | a yes       | any                                    | IF                             |
    | b no        | yes                                    | VIF; STI with VIP set: #GP(0)  |
    | c no        | no                                     | #GP(0)                         |
    """
    flags = p.rflags
    if p.real_mode or p.cpl <= flags >> IOPL_SHIFT & 3:
        if value and not flags & IF:
            p.shadow = True
        p.rflags = flags & ~IF | (IF if value else 0)
        return
    virtual = p.cr4 & CR4_VME if p.virtual8086 else p.cr4 & CR4_PVI and p.cpl == 3
    if not virtual or (value and flags & VIP):
        p.fault(GP, 0)
    p.rflags = flags & ~VIF | (VIF if value else 0)


@python_form("cli_python")
def cli(p: Processor, instruction: iced.Instruction) -> None:
    _set_interrupt_flag(p, False)


@python_form("sti_python")
def sti(p: Processor, instruction: iced.Instruction) -> None:
    _set_interrupt_flag(p, True)


def _flags_width(instruction: iced.Instruction) -> int:
    return abs(instruction.stack_pointer_increment) * 8


def _flags_are_virtual(p: Processor, width: int) -> bool:
    """PUSHF and POPF in virtual-8086 mode below IOPL 3: only 16 bits wide, and only with CR4.VME; else #GP(0)."""
    if not p.virtual8086 or p.rflags & IOPL == IOPL:
        return False
    if not p.cr4 & CR4_VME or width != 16:
        p.fault(GP, 0)
    return True


@python_form("pushf_python", "pushfd_python", "pushfq_python")
def pushf(p: Processor, instruction: iced.Instruction) -> None:
    """In virtual-8086 mode (APM vol. 3, PUSHF)."""
    width = _flags_width(instruction)
    flags = p.rflags & ~(VM | RF)
    if _flags_are_virtual(p, width):
        flags = flags & ~IF | IOPL | (IF if flags & VIF else 0)
    p.push(width, flags)


@python_form("popf_python", "popfd_python", "popfq_python")
def popf(p: Processor, instruction: iced.Instruction) -> None:
    """At CPL 1 to 3, in virtual-8086 mode, or where it is intercepted (APM vol. 3, POPF)."""
    width = _flags_width(instruction)
    old = p.rflags
    mask = _ARITHMETIC | TF | DF | NT
    if _flags_are_virtual(p, width):
        new = p.stack_read(0, 16)
        if new & TF or (new & IF and old & VIP):
            p.fault(GP, 0)
        p.add_to_stack_pointer(2)
        p.rflags = old & ~(mask | VIF) | new & mask | (VIF if new & IF else 0)
        return
    if width > 16:
        mask |= AC | ID
    if p.real_mode or p.cpl <= old >> IOPL_SHIFT & 3:
        mask |= IF
    if p.cpl == 0 and not p.virtual8086:
        mask |= IOPL
    kept = old & ~mask & (~RF if width > 16 else -1)
    p.rflags = kept | p.pop(width) & mask
    p.mode_changed()
