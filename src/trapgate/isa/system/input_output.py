"""IN, OUT, INS, OUTS (APM vol. 3)."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import OpKind, Register

from trapgate.arch.registers import DF, ES, RAX, RCX, RDI, RDX, RSI
from trapgate.isa.operand_tables import SEGMENT_NUMBERS
from trapgate.isa.processor import Processor, python_form

_SIZES = {Register.AL: 1, Register.AX: 2, Register.EAX: 4}
#: Elements of one REP INS or OUTS that are done before interrupts are looked at again.
_BURST = 64


def _port(p: Processor, instruction: iced.Instruction, index: int) -> int:
    if instruction.op_kind(index) == OpKind.REGISTER:
        return p.register(RDX, 16)
    return instruction.immediate(index) & 0xFF


def port_access(instruction: iced.Instruction) -> tuple[bool, int, int | None]:
    """Of IN and OUT: whether it is IN, the size in bytes, and the port (None: it is in DX)."""
    is_in = instruction.mnemonic == iced.Mnemonic.IN
    index = 1 if is_in else 0
    size = _SIZES[instruction.op_register(1 - index)]
    return is_in, size, None if instruction.op_kind(index) == OpKind.REGISTER else instruction.immediate(index) & 0xFF


@python_form("in")
def in_(p: Processor, instruction: iced.Instruction) -> None:
    size = _SIZES[instruction.op_register(0)]
    port = _port(p, instruction, 1)
    p.check_io(port, size)
    p.charge_device(p.costs.port)
    p.set_register(RAX, 8 * size, p.read_port(port, size))


@python_form("out")
def out(p: Processor, instruction: iced.Instruction) -> None:
    size = _SIZES[instruction.op_register(1)]
    port = _port(p, instruction, 0)
    p.check_io(port, size)
    p.charge_device(p.costs.port)
    p.write_port(port, size, p.register(RAX, 8 * size))


def _address_bits(instruction: iced.Instruction, index: int) -> int:
    kind = instruction.op_kind(index)
    if kind in (OpKind.MEMORY_ESDI, OpKind.MEMORY_SEG_SI):
        return 16
    return 32 if kind in (OpKind.MEMORY_ESEDI, OpKind.MEMORY_SEG_ESI) else 64


def _port_string(p: Processor, instruction: iced.Instruction, size: int, is_in: bool) -> None:
    port = p.register(RDX, 16)
    p.check_io(port, size)
    bits = _address_bits(instruction, 0 if is_in else 1)
    repeated = instruction.has_rep_prefix or instruction.has_repne_prefix
    index = RDI if is_in else RSI
    segment = ES if is_in else SEGMENT_NUMBERS[instruction.memory_segment]
    step = -size if p.rflags & DF else size
    left = 1 if not repeated or p.traps_each_turn else _BURST
    run = p.read_port_run if is_in else p.write_port_run
    while left:
        left -= 1
        if repeated:
            count = p.register(RCX, bits)
            if count == 0:
                return
        offset = p.register(index, bits)
        if is_in:
            # The destination is checked before the device is read, which cannot be undone.
            p.probe_segment(segment, offset, size)
            p.write_segment(segment, offset, size, p.read_segment(segment, offset, size))
            p.write_segment(segment, offset, size, p.read_port(port, size))
        else:
            p.write_port(port, size, p.read_segment(segment, offset, size))
        p.charge_device(p.costs.port)
        p.set_register(index, bits, offset + step)
        if repeated:
            p.set_register(RCX, bits, count - 1)
            following = offset + step
            # Not beyond the last offset: the register then begins again at 0.
            most = min(left, count - 1, ((1 << bits) - following) // size)
            if step > 0 and most > 0:
                done = run(port, size, segment, following, most)
                p.charge_device(p.costs.port * done)
                p.set_register(index, bits, following + size * done)
                p.set_register(RCX, bits, count - 1 - done)
                left -= done
    if repeated and p.register(RCX, bits):
        p.rip = p.instruction_rip
        p.refetch()


@python_form("insb")
def insb(p: Processor, instruction: iced.Instruction) -> None:
    _port_string(p, instruction, 1, True)


@python_form("insw")
def insw(p: Processor, instruction: iced.Instruction) -> None:
    _port_string(p, instruction, 2, True)


@python_form("insd")
def insd(p: Processor, instruction: iced.Instruction) -> None:
    _port_string(p, instruction, 4, True)


@python_form("outsb")
def outsb(p: Processor, instruction: iced.Instruction) -> None:
    _port_string(p, instruction, 1, False)


@python_form("outsw")
def outsw(p: Processor, instruction: iced.Instruction) -> None:
    _port_string(p, instruction, 2, False)


@python_form("outsd")
def outsd(p: Processor, instruction: iced.Instruction) -> None:
    _port_string(p, instruction, 4, False)
