"""INT, INT3, INTO, INT1, IRET, BOUND, UD2, HLT and the interrupt flag where privilege must be checked (APM vol. 3)."""

from __future__ import annotations

import iced_x86 as iced

from trapgate.arch.registers import AC, DF, ID, IF, IOPL, IOPL_SHIFT, NT, OF, TF
from trapgate.arch.vectors import BR, DB, GP, NM, UD
from trapgate.isa.processor import Processor, python_form

_ARITHMETIC = 0x8D5


@python_form("int")
def int_(p: Processor, instruction: iced.Instruction) -> None:
    p.software_interrupt(instruction.immediate(0) & 0xFF)


@python_form("int3")
def int3(p: Processor, instruction: iced.Instruction) -> None:
    p.software_interrupt(3)


@python_form("into")
def into(p: Processor, instruction: iced.Instruction) -> None:
    if p.rflags & OF:
        p.software_interrupt(4)


@python_form("int1")
def int1(p: Processor, instruction: iced.Instruction) -> None:
    p.fault(DB)


@python_form("iret", "iretd", "iretq", "iretq_within_python")
def iret(p: Processor, instruction: iced.Instruction) -> None:
    mnemonic = iced.Mnemonic
    p.interrupt_return({mnemonic.IRET: 16, mnemonic.IRETD: 32, mnemonic.IRETQ: 64}[instruction.mnemonic])


@python_form("raise_ud", "ud0", "ud1", "ud2", "rsm")
def raise_ud(p: Processor, instruction: iced.Instruction) -> None:
    """Also RSM, which only exists in system management mode (APM vol. 3, RSM)."""
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
        p.fault(BR)


@python_form("hlt")
def hlt(p: Processor, instruction: iced.Instruction) -> None:
    if p.cpl != 0:
        p.fault(GP, 0)
    p.halted = True


def _may_change_interrupts(p: Processor) -> bool:
    return p.real_mode or p.cpl <= p.rflags >> IOPL_SHIFT & 3


def _check_interrupt_flag_access(p: Processor) -> None:
    """CLI and STI without virtual interrupts (CR4.VME and PVI clear)."""
    if p.cr4 & 3 and (p.virtual8086 or p.cpl == 3):
        p.unimplemented("virtual-8086 mode extensions and protected-mode virtual interrupts")
    if not _may_change_interrupts(p):
        p.fault(GP, 0)


@python_form("cli_python")
def cli(p: Processor, instruction: iced.Instruction) -> None:
    _check_interrupt_flag_access(p)
    p.rflags &= ~IF


@python_form("sti_python")
def sti(p: Processor, instruction: iced.Instruction) -> None:
    _check_interrupt_flag_access(p)
    if not p.rflags & IF:
        p.shadow = True
    p.rflags |= IF


def _flags_width(instruction: iced.Instruction) -> int:
    return abs(instruction.stack_pointer_increment) * 8


@python_form("pushf_python", "pushfd_python", "pushfq_python")
def pushf(p: Processor, instruction: iced.Instruction) -> None:
    """In virtual-8086 mode."""
    if p.rflags & IOPL != IOPL:
        p.fault(GP, 0)
    p.push(_flags_width(instruction), p.rflags & ~0x30000)


@python_form("popf_python", "popfd_python", "popfq_python")
def popf(p: Processor, instruction: iced.Instruction) -> None:
    """At CPL 1 to 3 or in virtual-8086 mode (APM vol. 3, POPF)."""
    width = _flags_width(instruction)
    old = p.rflags
    if p.virtual8086 and old & IOPL != IOPL:
        p.fault(GP, 0)
    mask = _ARITHMETIC | TF | DF | NT
    if width > 16:
        mask |= AC | ID
    if p.cpl <= old >> IOPL_SHIFT & 3:
        mask |= IF
    p.rflags = old & ~mask | p.pop(width) & mask
    p.mode_changed()
