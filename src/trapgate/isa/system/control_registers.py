"""MOV CR, MOV DR, LMSW, SMSW, CLTS, INVLPG, RDMSR, WRMSR (APM vol. 3, chapter 4)."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import OpKind, Register

from trapgate.arch.registers import CR0_EM, CR0_MP, CR0_PE, CR0_TS, CR4_DE, RAX, RCX, RDX
from trapgate.arch.vectors import DB, GP, UD
from trapgate.isa.operand_tables import BASE_WRITE, CONTROL_READS, CONTROL_WRITES
from trapgate.isa.processor import Processor, python_form


def _require_cpl0(p: Processor) -> None:
    if p.cpl != 0:
        p.fault(GP, 0)


def _is_control(register: int) -> bool:
    return bool(Register.CR0 <= register <= Register.CR15)


@python_form("mov_cr", *(f"{name}_python" for name in (*CONTROL_READS.values(), *CONTROL_WRITES.values())))
def mov_cr(p: Processor, instruction: iced.Instruction) -> None:
    _require_cpl0(p)
    if _is_control(instruction.op_register(0)):
        _write_cr(p, instruction.op_register(0) - Register.CR0, p.operand(instruction, 1))
    else:
        p.set_operand(instruction, 0, _read_cr(p, instruction.op_register(1) - Register.CR0))


def _read_cr(p: Processor, number: int) -> int:
    if number == 0:
        return p.cr0
    if number == 2:
        return p.cr2
    if number == 3:
        return p.cr3
    if number == 4:
        return p.cr4
    if number == 8:
        return p.read_tpr()
    p.fault(UD)


def _write_cr(p: Processor, number: int, value: int) -> None:
    if number == 0:
        p.set_cr0(value)
    elif number == 2:
        p.cr2 = value
    elif number == 3:
        p.set_cr3(value)
    elif number == 4:
        p.set_cr4(value)
    elif number == 8:
        p.write_tpr(value)
    else:
        p.fault(UD)


@python_form("mov_dr")
def mov_dr(p: Processor, instruction: iced.Instruction) -> None:
    _require_cpl0(p)
    if p.dr[7] & 1 << 13:  # general detect
        p.dr[6] |= 1 << 13
        p.fault(DB)
    to_debug = Register.DR0 <= instruction.op_register(0) <= Register.DR15
    number = instruction.op_register(0 if to_debug else 1) - Register.DR0
    if number > 7 or (number in (4, 5) and p.cr4 & CR4_DE):
        p.fault(UD)
    if number in (4, 5):
        number += 2
    if not to_debug:
        p.set_operand(instruction, 0, p.dr[number])
        return
    p.write_dr(number, p.operand(instruction, 1))


@python_form("lmsw")
def lmsw(p: Processor, instruction: iced.Instruction) -> None:
    _require_cpl0(p)
    value = p.operand(instruction, 0) & 0xF
    old = p.cr0
    # LMSW can set PE and cannot clear it.
    p.set_cr0(old & ~(CR0_MP | CR0_EM | CR0_TS) | value | old & CR0_PE)


@python_form("smsw")
def smsw(p: Processor, instruction: iced.Instruction) -> None:
    value = p.cr0
    if instruction.op_kind(0) == OpKind.MEMORY:
        value &= 0xFFFF
    p.set_operand(instruction, 0, value)


@python_form("clts")
def clts(p: Processor, instruction: iced.Instruction) -> None:
    _require_cpl0(p)
    p.set_cr0(p.cr0 & ~CR0_TS)


@python_form("invlpg")
def invlpg(p: Processor, instruction: iced.Instruction) -> None:
    _require_cpl0(p)
    segment, offset = p.memory_operand(instruction)
    base = p.segments[segment].base if p.bits != 64 or segment >= 4 else 0
    p.flush_page((base + offset) & (0xFFFF_FFFF_FFFF_FFFF if p.bits == 64 else 0xFFFF_FFFF))


@python_form("invd", "wbinvd")
def invd(p: Processor, instruction: iced.Instruction) -> None:
    """Caches hold nothing that memory does not."""
    _require_cpl0(p)


@python_form("rdmsr")
def rdmsr(p: Processor, instruction: iced.Instruction) -> None:
    _require_cpl0(p)
    value = p.read_msr(p.register(RCX, 32))
    p.set_register(RAX, 32, value)
    p.set_register(RDX, 32, value >> 32)


@python_form("wrmsr", f"{BASE_WRITE}_python")
def wrmsr(p: Processor, instruction: iced.Instruction) -> None:
    _require_cpl0(p)
    p.write_msr(p.register(RCX, 32), p.register(RDX, 32) << 32 | p.register(RAX, 32))
