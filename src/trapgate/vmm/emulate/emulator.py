"""Carrying out one instruction of a guest: decode, compile into a step, remember, run."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import Mnemonic, OpKind

from trapgate.arch.registers import AC, CR0_AM, CS, EFER_LMA, RF
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L
from trapgate.arch.vectors import GP
from trapgate.vmm.emulate import arithmetic, moves, stack, strings, vector
from trapgate.vmm.emulate.addresses import MASK32, MASK64
from trapgate.vmm.emulate.alignment import AlignmentChecked
from trapgate.vmm.emulate.form import STAY, Build, Form, Step, UnknownForm
from trapgate.vmm.emulate.machine import MOST_BYTES, USER, Emulated, Memory, NotEmulated, Registers
from trapgate.vmm.faults import GuestFault

#: By mnemonic. A further table (privileged instructions of a deprivileged kernel) is one more line here.
OPERATIONS: dict[str, Build] = {
    **arithmetic.OPERATIONS,
    **moves.OPERATIONS,
    **strings.OPERATIONS,
    **stack.OPERATIONS,
    **{name: build for name, build in vector.OPERATIONS.items() if name != "movsd"},
}
#: How an instruction's length and near branches are decoded: as AMD's processors do.
_OPTIONS = iced.DecoderOptions.AMD
_MNEMONICS = {value: name.lower() for name, value in vars(Mnemonic).items() if name.isupper()}
_FORMATTER = iced.Formatter(iced.FormatterSyntax.INTEL)
#: Most instructions remembered.
_MOST_REMEMBERED = 20_000


class _Compiled:
    """An instruction ready to run."""

    __slots__ = ("finished", "length", "step", "unfinished")

    def __init__(self, step: Step, length: int) -> None:
        self.step = step
        self.length = length
        self.finished, self.unfinished = Emulated(length, True), Emulated(length, False)


#: By the bytes fetched (the instruction and what follows it, up to 15) and the code's size in bits: what one place of
#: the guest's code does is found without decoding.
_remembered: dict[tuple[bytes, int], _Compiled] = {}


def emulate(registers: Registers, memory: Memory) -> Emulated:
    """Carry out the instruction at CS:rIP, and go on to the next.

    It is taken as given that a processor of the guest's kind has decoded the instruction, and got as far as its
    memory accesses: whether the guest's CPUID has it is not asked. Breakpoints of the debug registers, the trap of
    RFLAGS.TF and the end of an interrupt shadow are the caller's business.

    Raises GuestFault with the registers unchanged (of a repeated string instruction: with the turns done that did not
    fault); NotEmulated with nothing changed.
    """
    _, base, limit, attributes = registers.segment(CS)
    rip = registers.rip
    if attributes & ATTRIBUTE_L and registers.efer & EFER_LMA:
        bits, mask, linear = 64, MASK64, rip
    else:
        bits, mask, linear = 32 if attributes & ATTRIBUTE_DB else 16, MASK32, base + rip & MASK32
        if rip > limit:
            raise GuestFault(GP, 0)
    code = memory.fetch(linear, MOST_BYTES)
    compiled = _remembered.get((code, bits))
    if compiled is None:
        compiled = _compile(memory, code, linear, bits, rip)
    if bits != 64 and rip + compiled.length - 1 > limit:
        raise GuestFault(GP, 0)
    user = USER if registers.cpl == 3 else 0
    if user and registers.rflags & AC and registers.cr0 & CR0_AM:
        memory = AlignmentChecked(memory)
    to = compiled.step(registers, memory, user)
    if to is None:
        registers.rip = rip + compiled.length & mask
    elif to == STAY:
        return compiled.unfinished
    else:
        registers.rip = to
    flags = registers.rflags
    if flags & RF:
        registers.rflags = flags & ~RF
    return compiled.finished


def _compile(memory: Memory, code: bytes, linear: int, bits: int, rip: int) -> _Compiled:
    decoder = iced.Decoder(bits, code, _OPTIONS)
    instruction = decoder.decode()
    while not instruction and decoder.last_error == iced.DecoderError.NO_MORE_BYTES and len(code) < MOST_BYTES:
        # The rest lies on a page that was not at hand; where the guest's tables forbid it, it faults.
        code += memory.fetch(linear + len(code) & (MASK64 if bits == 64 else MASK32), MOST_BYTES - len(code))
        decoder = iced.Decoder(bits, code, _OPTIONS)
        instruction = decoder.decode()
    step = _step_of(instruction, bits)
    if step is None:
        raise NotEmulated(_text(code, bits, rip), linear)
    compiled = _Compiled(step, instruction.len)
    if len(_remembered) >= _MOST_REMEMBERED:
        _remembered.clear()
    _remembered[code, bits] = compiled
    return compiled


def _step_of(instruction: iced.Instruction, bits: int) -> Step | None:
    """How to carry it out; None if that is not known."""
    if not instruction:
        return None
    name = _MNEMONICS[instruction.mnemonic]
    build = OPERATIONS.get(name)
    if name in ("movsd", "cmpsd") and OpKind.REGISTER in (instruction.op0_kind, instruction.op1_kind):
        build = vector.OPERATIONS.get(name)  # the SSE2 instruction of that name
    if build is None:
        return None
    try:
        return build(Form(instruction, bits))
    except UnknownForm:
        return None


def _text(code: bytes, bits: int, rip: int) -> str:
    """Disassembly in Intel's syntax."""
    return str(_FORMATTER.format(iced.Decoder(bits, code, _OPTIONS, ip=rip).decode()))
