"""Exits for accesses to control registers: MOV, LMSW, SMSW, CLTS, and INVLPG (APM vol. 2, 15.8 and 15.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import iced_x86 as iced

from trapgate.arch import vmcb
from trapgate.arch.paging import PF_U, PF_W
from trapgate.arch.registers import CR0_PE, CR0_TS
from trapgate.arch.vectors import GP
from trapgate.vmm.control_registers import check_cr0, check_cr3, check_cr4
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.exits.operands import decode, effective_address, general_register

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

#: MP, EM and TS, besides PE: what LMSW writes.
_LMSW = 0xE


def read_cr0(vcpu: VirtualCpu) -> None:
    """MOV from CR0, and SMSW, whose operand may be in memory."""
    instruction = decode(vcpu)
    if instruction.mnemonic != iced.Mnemonic.SMSW:
        _give(vcpu, instruction, vcpu.cr0)
        return
    vcpu.begin_registers()
    if instruction.op0_kind == iced.OpKind.MEMORY:
        access = PF_W | (PF_U if vcpu.cpl == 3 else 0)
        try:
            address = effective_address(vcpu, instruction)
            vcpu.memory.write(address, (vcpu.cr0 & 0xFFFF).to_bytes(2, "little"), access)
        except GuestFault as fault:
            vcpu.inject(fault)
            return
    else:
        register = instruction.op0_register
        size = iced.RegisterExt.size(register)
        number = iced.RegisterExt.full_register(register) - iced.Register.RAX
        kept = vcpu.gpr[number] & ~0xFFFF if size == 2 else 0
        vcpu.gpr[number] = kept | vcpu.cr0 & ((1 << 8 * size) - 1)
        vcpu.end_registers()
    vcpu.skip()


def _give(vcpu: VirtualCpu, instruction: iced.Instruction, value: int) -> None:
    vcpu.begin_registers()
    vcpu.gpr[iced.RegisterExt.full_register(instruction.op0_register) - iced.Register.RAX] = value
    vcpu.end_registers()
    vcpu.skip()


def _to_general(vcpu: VirtualCpu, value: int) -> None:
    number = general_register(vcpu, 0)
    vcpu.begin_registers()
    vcpu.gpr[number] = value
    vcpu.end_registers()
    vcpu.skip()


def _from_general(vcpu: VirtualCpu) -> int:
    number = general_register(vcpu, 1)
    vcpu.begin_registers()
    return vcpu.gpr[number] if vcpu.bits == 64 else vcpu.gpr[number] & 0xFFFF_FFFF


def read_cr3(vcpu: VirtualCpu) -> None:
    """MOV from CR3."""
    _to_general(vcpu, vcpu.cr3)


def read_cr4(vcpu: VirtualCpu) -> None:
    """MOV from CR4."""
    _to_general(vcpu, vcpu.cr4)


def read_cr8(vcpu: VirtualCpu) -> None:
    """The task priority of the board's local APIC."""
    _to_general(vcpu, vcpu.vm.board.lapic.read_cr8())


def write_cr0(vcpu: VirtualCpu) -> None:
    """MOV to CR0, LMSW, CLTS."""
    instruction = decode(vcpu)
    old = vcpu.cr0
    vcpu.begin_registers()
    try:
        if instruction.mnemonic == iced.Mnemonic.CLTS:
            value = old & ~CR0_TS
        elif instruction.mnemonic == iced.Mnemonic.LMSW:
            # LMSW can set PE and cannot clear it.
            value = old & ~_LMSW | _source(vcpu, instruction) & 0xF | old & CR0_PE
        else:
            number = iced.RegisterExt.full_register(instruction.op1_register) - iced.Register.RAX
            value = vcpu.gpr[number] if vcpu.bits == 64 else vcpu.gpr[number] & 0xFFFF_FFFF
        cr0, efer = check_cr0(vcpu, value)
        vcpu.technique.write_cr0(cr0, efer)
    except GuestFault as fault:
        vcpu.inject(fault)
        return
    vcpu.skip()


def _source(vcpu: VirtualCpu, instruction: iced.Instruction) -> int:
    if instruction.op0_kind != iced.OpKind.MEMORY:
        return vcpu.gpr[iced.RegisterExt.full_register(instruction.op0_register) - iced.Register.RAX]
    access = PF_U if vcpu.cpl == 3 else 0
    return int.from_bytes(vcpu.memory.read(effective_address(vcpu, instruction), 2, access), "little")


def write_cr3(vcpu: VirtualCpu) -> None:
    """MOV to CR3."""
    try:
        vcpu.technique.write_cr3(check_cr3(vcpu, _from_general(vcpu)))
    except GuestFault as fault:
        vcpu.inject(fault)
        return
    vcpu.skip()


def write_cr4(vcpu: VirtualCpu) -> None:
    """MOV to CR4."""
    try:
        vcpu.technique.write_cr4(check_cr4(vcpu, _from_general(vcpu)))
    except GuestFault as fault:
        vcpu.inject(fault)
        return
    vcpu.skip()


def write_cr8(vcpu: VirtualCpu) -> None:
    """The task priority of the board's local APIC."""
    value = _from_general(vcpu)
    if value >> 4:
        vcpu.inject(GuestFault(GP, 0))
        return
    vcpu.vm.board.lapic.write_cr8(value)
    vcpu.skip()


def invlpg(vcpu: VirtualCpu) -> None:
    """The guest invalidates one translation."""
    if "DECODE_ASSISTS" in vcpu.backend.profile.svm_features:
        address = vcpu.block[vmcb.EXITINFO1]
    else:
        vcpu.begin_registers()
        address = effective_address(vcpu, decode(vcpu))
    vcpu.technique.invlpg(address)
    vcpu.skip()


EXITS = {
    vmcb.EXIT_CR_READ: read_cr0,
    vmcb.EXIT_CR_READ + 3: read_cr3,
    vmcb.EXIT_CR_READ + 4: read_cr4,
    vmcb.EXIT_CR_READ + 8: read_cr8,
    vmcb.EXIT_CR_WRITE: write_cr0,
    vmcb.EXIT_CR_WRITE + 3: write_cr3,
    vmcb.EXIT_CR_WRITE + 4: write_cr4,
    vmcb.EXIT_CR_WRITE + 8: write_cr8,
    vmcb.EXIT["invlpg"]: invlpg,
}
