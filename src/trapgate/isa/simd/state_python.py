"""LDMXCSR and FXRSTOR where they unmask SSE exceptions or mask them again: the code that runs next is other code."""

from __future__ import annotations

import iced_x86 as iced

from trapgate.arch import layout
from trapgate.arch.registers import CR4_OSFXSR, EFER_FFXSR
from trapgate.arch.vectors import GP
from trapgate.isa.processor import Processor, python_form
from trapgate.isa.simd import state
from trapgate.isa.simd.common import STATUS_ES

_PENDING = STATUS_ES | state.STATUS_BUSY


@python_form("ldmxcsr_python")
def ldmxcsr(p: Processor, instruction: iced.Instruction) -> None:
    value = p.operand(instruction, 0)
    if value & ~state.MXCSR_BITS:
        p.fault(GP, 0)
    p.mxcsr = value


def _put(p: Processor, offset: int, value: int, size: int) -> None:
    """Write a field of the state block that is narrower or wider than 64 bits."""
    p.set_state_bytes(offset, value.to_bytes(size, "little"))


@python_form("fxrstor_python", "fxrstor64_python")
def fxrstor(p: Processor, instruction: iced.Instruction) -> None:
    """As isa/simd/state.py, for images whose MXCSR has unmasked exceptions."""
    wide = instruction.mnemonic == iced.Mnemonic.FXRSTOR64
    segment, at = p.memory_operand(instruction)
    # All of the image is read before anything changes.
    image = b"".join(p.read_segment(segment, at + i, 16).to_bytes(16, "little") for i in range(0, 512, 16))

    def word(offset: int, size: int) -> int:
        return int.from_bytes(image[offset : offset + size], "little")

    mxcsr = word(state.MXCSR, 4)
    has_mxcsr = bool(p.cr4 & CR4_OSFXSR)
    if has_mxcsr and mxcsr & ~state.MXCSR_BITS:
        p.fault(GP, 0)
    control = word(0, 2) & state.CONTROL_BITS | state.CONTROL_ALWAYS_ONE
    status = word(2, 2)
    pending = bool(status & ~control & state.CONTROL_MASKS)
    _put(p, layout.FPU_CONTROL, control, 2)
    _put(p, layout.FPU_CONTROL_MASKED, control | state.CONTROL_MASKS, 4)
    _put(p, layout.FPU_STATUS, status & state.STATUS_PLAIN | (_PENDING if pending else 0), 2)
    top = status >> state.STATUS_TOP_SHIFT & 7
    _put(p, layout.FPU_TOP, top, 4)
    p.set_state_field(layout.FPU_VALID, sum((word(state.TAG, 1) >> i & 1) << 8 * i for i in range(8)))
    if status & STATUS_ES:
        ip, dp = word(state.INSTRUCTION_POINTER, 8), word(state.DATA_POINTER, 8)
        p.set_state_field(layout.FPU_OPCODE, word(state.OPCODE, 2) & 0x7FF)
        if not wide:
            p.set_state_field(layout.FPU_CS, ip >> 32 & 0xFFFF)
            p.set_state_field(layout.FPU_DS, dp >> 32 & 0xFFFF)
            ip, dp = ip & 0xFFFF_FFFF, dp & 0xFFFF_FFFF
        p.set_state_field(layout.FPU_IP, ip)
        p.set_state_field(layout.FPU_DP, dp)
    for i in range(8):
        _put(p, layout.fpr((top + i) & 7), word(state.X87_REGISTERS + 16 * i, 10), 10)
    fast = p.bits == 64 and bool(p.efer & EFER_FFXSR) and p.cpl == 0
    if has_mxcsr and not fast:
        for i in range(16 if p.bits == 64 else 8):
            _put(p, layout.xmm(i), word(state.XMM_REGISTERS + 16 * i, 16), 16)
    if has_mxcsr:
        p.mxcsr = mxcsr
