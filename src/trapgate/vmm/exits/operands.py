"""The operands of an intercepted instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import iced_x86 as iced

from trapgate.arch import vmcb
from trapgate.arch.paging import PF_U
from trapgate.arch.registers import CS, FS

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

_VALID = 1 << 63


def decode(vcpu: VirtualCpu) -> iced.Instruction:
    """The instruction that exited."""
    base = vcpu.segment(CS)[1] if vcpu.bits != 64 else 0
    vcpu.memory.fetch_access = PF_U if vcpu.cpl == 3 else 0
    linear = base + vcpu.rip
    code = vcpu.memory.fetch(linear, 15)
    decoder = iced.Decoder(vcpu.bits, code, iced.DecoderOptions.AMD)
    instruction = decoder.decode()
    if not instruction and decoder.last_error == iced.DecoderError.NO_MORE_BYTES and len(code) < 15:
        code += vcpu.memory.fetch(linear + len(code), 15 - len(code))
        instruction = iced.Decoder(vcpu.bits, code, iced.DecoderOptions.AMD).decode()
    return instruction


def general_register(vcpu: VirtualCpu, operand: int) -> int:
    """Number of the general register that is operand `operand` of a register move."""
    info = vcpu.block[vmcb.EXITINFO1]
    if info & _VALID:
        return info & 0xF
    register = iced.RegisterExt.full_register(decode(vcpu).op_register(operand))
    return int(register - iced.Register.RAX)


def effective_address(vcpu: VirtualCpu, instruction: iced.Instruction) -> int:
    """Linear address of the memory operand; limits are not checked. `gpr` must be up to date."""
    wide = (1 << 64) - 1
    if instruction.is_ip_rel_memory_operand:
        # Decoded at address 0: the displacement is from the next instruction.
        return int(instruction.ip_rel_memory_address) + vcpu.rip & wide
    base, index = instruction.memory_base, instruction.memory_index
    offset = int(instruction.memory_displacement)
    size = instruction.memory_displ_size
    for register, scale in ((base, 1), (index, instruction.memory_index_scale)):
        if register != iced.Register.NONE:
            size = iced.RegisterExt.size(register)
            number = iced.RegisterExt.full_register(register) - iced.Register.RAX
            offset += vcpu.gpr[number] * scale
    offset &= (1 << 8 * (size or 8)) - 1
    number = instruction.memory_segment - iced.Register.ES
    if vcpu.bits == 64:
        return offset + (vcpu.segment(number)[1] if number >= FS else 0) & wide
    return vcpu.segment(number)[1] + offset & 0xFFFF_FFFF
