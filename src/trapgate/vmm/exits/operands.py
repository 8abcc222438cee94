"""The operands of an intercepted instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import iced_x86 as iced

from trapgate.arch import vmcb
from trapgate.arch.paging import PF_U
from trapgate.arch.registers import CS

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
    bits = vcpu.bits

    def value(register: int, element: int, size: int) -> int:
        if iced.Register.ES <= register <= iced.Register.GS:
            number = register - iced.Register.ES
            return vcpu.segment(number)[1] if bits != 64 or number >= 4 else 0
        full = iced.RegisterExt.full_register(register)
        return vcpu.gpr[full - iced.Register.RAX] & ((1 << 8 * iced.RegisterExt.size(register)) - 1)

    index = next(i for i in range(instruction.op_count) if instruction.op_kind(i) == iced.OpKind.MEMORY)
    if instruction.is_ip_rel_memory_operand:
        # Decoded at address 0: the displacement is from the next instruction.
        return instruction.ip_rel_memory_address + vcpu.rip & (1 << 64) - 1
    address = instruction.virtual_address(index, 0, value) or 0
    return int(address) & ((1 << 64) - 1 if bits == 64 else 0xFFFF_FFFF)
