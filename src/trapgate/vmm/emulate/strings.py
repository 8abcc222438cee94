"""MOVS, STOS, LODS, CMPS, SCAS with REP, REPE and REPNE (APM vol. 3, 1.2.6 and chapter 3).

A REP makes at most MOST_TURNS turns in one call, so that a guest cannot keep its hypervisor from its interrupts.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.arch.registers import DF, ES, RAX, RCX, RDI, RSI
from trapgate.vmm.emulate import flags
from trapgate.vmm.emulate.addresses import MASK64, Linear, linear_of, segment_of
from trapgate.vmm.emulate.flags import OTHERS
from trapgate.vmm.emulate.form import STAY, Build, Form, Step
from trapgate.vmm.emulate.machine import WRITE, Memory, Registers
from trapgate.vmm.emulate.operands import IMPLICIT_ADDRESS_BITS, Operand, register_operand

#: As many as the 8-byte entries of a page table.
MOST_TURNS = 512
_SIZES = {"b": 1, "w": 2, "d": 4, "q": 8}

#: One turn: (registers, memory, USER or 0, offsets of source and destination) -> whether the turns end with it.
Turn = Callable[[Registers, Memory, int, int, int], bool]


class _Element:
    """What all string instructions have: element size, address size, segments."""

    def __init__(self, form: Form, name: str) -> None:
        instruction = form.instruction
        self.size = _SIZES[name[-1]]
        kinds = [instruction.op_kind(i) for i in range(instruction.op_count)]
        self.address_bits = next(IMPLICIT_ADDRESS_BITS[kind] for kind in kinds if kind in IMPLICIT_ADDRESS_BITS)
        # Where there is no source in memory iced-x86 still names a segment; it is not used.
        source = segment_of(instruction, form.bits)
        self.source, self.destination = linear_of(form.bits, source), linear_of(form.bits, ES)
        self.repeats: bool = instruction.has_rep_prefix or instruction.has_repne_prefix
        self.ends_on_equal: bool = instruction.has_repne_prefix

    def load(self, linear: Linear, registers: Registers, memory: Memory, user: int, offset: int) -> bytes:
        return memory.read(linear(registers, offset, self.size, False), self.size, user)

    def store(self, registers: Registers, memory: Memory, user: int, offset: int, data: bytes) -> None:
        memory.write(self.destination(registers, offset, self.size, True), data, user | WRITE)

    def compare(self, registers: Registers, a: int, b: int) -> bool:
        """Set the flags of a - b; whether REPE or REPNE ends here."""
        width = 8 * self.size
        after = flags.of_difference(a, b, a - b & (1 << width) - 1, width)
        registers.rflags = registers.rflags & OTHERS | after
        return (a == b) == self.ends_on_equal


def _set_low(registers: Registers, number: int, value: int, bits: int) -> None:
    """Write a register's low 16, 32 (clearing the upper half) or 64 bits."""
    if bits == 16:
        value |= registers.gpr[number] & ~0xFFFF
    registers.gpr[number] = value & MASK64


def _turns(element: _Element, turn: Turn, moving: tuple[int, ...]) -> Step:
    """All turns of an instruction whose `moving` index registers step through memory."""
    bits, size = element.address_bits, element.size
    mask = (1 << bits) - 1

    def once(registers: Registers, memory: Memory, user: int) -> None:
        gpr = registers.gpr
        turn(registers, memory, user, gpr[RSI] & mask, gpr[RDI] & mask)
        step = -size if registers.rflags & DF else size
        for number in moving:
            _set_low(registers, number, (gpr[number] & mask) + step & mask, bits)

    def repeated(registers: Registers, memory: Memory, user: int) -> int | None:
        gpr = registers.gpr
        count, source, destination = gpr[RCX] & mask, gpr[RSI] & mask, gpr[RDI] & mask
        step = -size if registers.rflags & DF else size
        done, most = 0, min(count, MOST_TURNS)
        ended = False
        try:
            while done < most and not ended:
                ended = turn(registers, memory, user, source, destination)
                done += 1
                source, destination = source + step & mask, destination + step & mask
        finally:  # a fault leaves the turns before it done
            if done:
                _set_low(registers, RCX, count - done, bits)
                for number in moving:
                    _set_low(registers, number, source if number == RSI else destination, bits)
        return None if ended or done == count else STAY

    return repeated if element.repeats else once


def _movs(name: str) -> Build:
    def build(form: Form) -> Step:
        element = _Element(form, name)

        def turn(registers: Registers, memory: Memory, user: int, source: int, destination: int) -> bool:
            data = element.load(element.source, registers, memory, user, source)
            element.store(registers, memory, user, destination, data)
            return False

        return _turns(element, turn, (RSI, RDI))

    return build


def _stos(name: str) -> Build:
    def build(form: Form) -> Step:
        element = _Element(form, name)
        mask = (1 << 8 * element.size) - 1

        def turn(registers: Registers, memory: Memory, user: int, source: int, destination: int) -> bool:
            data = (registers.gpr[RAX] & mask).to_bytes(element.size, "little")
            element.store(registers, memory, user, destination, data)
            return False

        return _turns(element, turn, (RDI,))

    return build


def _accumulator(form: Form) -> Operand:
    """The register that LODS and SCAS name first."""
    return register_operand(form.instruction.op0_register)


def _lods(name: str) -> Build:
    def build(form: Form) -> Step:
        element, accumulator = _Element(form, name), _accumulator(form)

        def turn(registers: Registers, memory: Memory, user: int, source: int, destination: int) -> bool:
            data = element.load(element.source, registers, memory, user, source)
            accumulator.write(registers, memory, user, int.from_bytes(data, "little"))
            return False

        return _turns(element, turn, (RSI,))

    return build


def _cmps(name: str) -> Build:
    def build(form: Form) -> Step:
        element = _Element(form, name)

        def turn(registers: Registers, memory: Memory, user: int, source: int, destination: int) -> bool:
            a = element.load(element.source, registers, memory, user, source)
            b = element.load(element.destination, registers, memory, user, destination)
            return element.compare(registers, int.from_bytes(a, "little"), int.from_bytes(b, "little"))

        return _turns(element, turn, (RSI, RDI))

    return build


def _scas(name: str) -> Build:
    def build(form: Form) -> Step:
        element, accumulator = _Element(form, name), _accumulator(form)

        def turn(registers: Registers, memory: Memory, user: int, source: int, destination: int) -> bool:
            data = element.load(element.destination, registers, memory, user, destination)
            a = accumulator.read(registers, memory, user)
            return element.compare(registers, a, int.from_bytes(data, "little"))

        return _turns(element, turn, (RDI,))

    return build


#: MOVSD also names an SSE2 instruction (vector.py).
OPERATIONS: dict[str, Build] = {
    f"{name}{size}": make(f"{name}{size}")
    for name, make in (("movs", _movs), ("stos", _stos), ("lods", _lods), ("cmps", _cmps), ("scas", _scas))
    for size in _SIZES
}
