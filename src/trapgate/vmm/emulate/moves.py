"""MOV and its kin, XCHG, CMPXCHG, SETcc, CMOVcc, bit tests, cache hints (APM vol. 3, chapter 3)."""

from __future__ import annotations

from collections.abc import Callable

from iced_x86 import Code, OpKind

from trapgate.arch.registers import RAX, RBX, RCX, RDX
from trapgate.vmm.emulate import flags
from trapgate.vmm.emulate.addresses import SEGMENT_NUMBERS, address_bits
from trapgate.vmm.emulate.flags import CF, CONDITIONS, OTHERS, ZF
from trapgate.vmm.emulate.form import Build, Form, Step, UnknownForm
from trapgate.vmm.emulate.machine import CHECK, WRITE, Memory, Registers
from trapgate.vmm.emulate.operands import Immediate, MemoryOperand, PartialRegister, Register32, RegisterOperand


def _mov(form: Form) -> Step:
    instruction = form.instruction
    if instruction.op0_kind == OpKind.REGISTER and instruction.op0_register in SEGMENT_NUMBERS:
        raise UnknownForm  # loads a descriptor
    destination, source = form.operands()

    def step(registers: Registers, memory: Memory, user: int) -> None:
        destination.write(registers, memory, user, source.read(registers, memory, user))

    return step


def _movsx(form: Form) -> Step:
    destination, source = form.operands()
    if form.instruction.code == Code.MOVSXD_R16_RM16 and isinstance(source, MemoryOperand):
        # AMD's processors read 32 bits (APM vol. 3, MOVSXD: the source is reg/mem32), which shows where a page ends.
        source = MemoryOperand(source.offset, source.base, source.linear, 4)
    sign = 1 << (source.width - 1)
    mask = (1 << destination.width) - 1

    def step(registers: Registers, memory: Memory, user: int) -> None:
        value = source.read(registers, memory, user)
        destination.write(registers, memory, user, (value ^ sign) - sign & mask)

    return step


def _lea(form: Form) -> Step:
    destination = form.operands()[0]
    offset = form.memory().offset
    mask = (1 << destination.width) - 1

    def step(registers: Registers, memory: Memory, user: int) -> None:
        destination.write(registers, memory, user, offset(registers) & mask)

    return step


def _xchg(form: Form) -> Step:
    first, second = form.operands()
    if form.is_memory(1):
        first, second = second, first

    def step(registers: Registers, memory: Memory, user: int) -> None:
        a, b = first.update(registers, memory, user), second.read(registers, memory, user)
        first.write(registers, memory, user, b)
        second.write(registers, memory, user, a)

    return step


def _accumulator(width: int) -> RegisterOperand:
    if width == 64:
        return RegisterOperand(RAX)
    return Register32(RAX) if width == 32 else PartialRegister(RAX, width, 0)


def _cmpxchg(form: Form) -> Step:
    destination, source = form.operands()
    width, in_memory = destination.width, form.is_memory(0)
    mask = (1 << width) - 1
    accumulator = _accumulator(width)

    def step(registers: Registers, memory: Memory, user: int) -> None:
        expected = accumulator.read(registers, memory, user)
        old, new = destination.update(registers, memory, user), source.read(registers, memory, user)
        equal = expected == old
        if equal or in_memory:  # memory is always written; a register that keeps its value keeps its upper half too
            destination.write(registers, memory, user, new if equal else old)
        after = flags.of_difference(expected, old, expected - old & mask, width)
        registers.rflags = registers.rflags & OTHERS | after
        if not equal:
            accumulator.write(registers, memory, user, old)

    return step


def _cmpxchg8b(form: Form) -> Step:
    target = form.memory()
    half = target.width // 2
    mask = (1 << half) - 1

    def step(registers: Registers, memory: Memory, user: int) -> None:
        if half == 64:
            target.locate_aligned(registers, True)  # APM vol. 3, CMPXCHG16B
        gpr = registers.gpr
        old = target.update(registers, memory, user)
        equal = (gpr[RDX] & mask) << half | gpr[RAX] & mask == old
        target.write(registers, memory, user, (gpr[RCX] & mask) << half | gpr[RBX] & mask if equal else old)
        registers.rflags = registers.rflags | ZF if equal else registers.rflags & ~ZF
        if not equal:
            gpr[RAX], gpr[RDX] = old & mask, old >> half

    return step


def _setcc(condition: Callable[[int], bool]) -> Build:
    def build(form: Form) -> Step:
        (target,) = form.operands()

        def step(registers: Registers, memory: Memory, user: int) -> None:
            target.write(registers, memory, user, int(condition(registers.rflags)))

        return step

    return build


def _cmovcc(condition: Callable[[int], bool]) -> Build:
    """The source is read whatever the condition, and a 32-bit destination always written."""

    def build(form: Form) -> Step:
        destination, source = form.operands()

        def step(registers: Registers, memory: Memory, user: int) -> None:
            value = source.read(registers, memory, user)
            if not condition(registers.rflags):
                value = destination.read(registers, memory, user)
            destination.write(registers, memory, user, value)

        return step

    return build


# -- Bit tests

#: (value, the bit's mask) -> value.
Change = Callable[[int, int], int]


def _bit_test(change: Change | None) -> Build:
    def build(form: Form) -> Step:
        target, index = form.operands()
        if isinstance(target, MemoryOperand) and not isinstance(index, Immediate):
            return _bit_string(form, target, change)
        low = target.width - 1

        def step(registers: Registers, memory: Memory, user: int) -> None:
            mask = 1 << (index.read(registers, memory, user) & low)
            if change is None:
                value = target.read(registers, memory, user)
            else:
                value = target.update(registers, memory, user)
                target.write(registers, memory, user, change(value, mask))
            registers.rflags = registers.rflags & ~CF | bool(value & mask)

        return step

    return build


def _bit_string(form: Form, target: MemoryOperand, change: Change | None) -> Step:
    """A register index is a signed bit offset from the operand's address and reaches beyond the operand."""
    index = form.operands()[1]
    width, size, linear, offset = target.width, target.size, target.linear, target.offset
    sign, in_word = 1 << (width - 1), width - 1
    address_mask = (1 << address_bits(form.instruction)) - 1

    def step(registers: Registers, memory: Memory, user: int) -> None:
        number = (index.read(registers, memory, user) ^ sign) - sign
        at = offset(registers) + number // width * size & address_mask
        mask = 1 << (number & in_word)
        place = linear(registers, at, size, change is not None)
        access = user if change is None else user | WRITE
        value = int.from_bytes(memory.read(place, size, access), "little")
        if change is not None:
            memory.write(place, change(value, mask).to_bytes(size, "little"), access)
        registers.rflags = registers.rflags & ~CF | bool(value & mask)

    return step


# -- Hints


def _nop(form: Form) -> Step:
    """A prefetch accesses nothing and faults nowhere."""
    return lambda registers, memory, user: None


def _clflush(form: Form) -> Step:
    """Checked as the read of a byte (APM vol. 3, CLFLUSH)."""
    target = form.memory()

    def step(registers: Registers, memory: Memory, user: int) -> None:
        memory.read(target.linear(registers, target.offset(registers), 1, False), 1, user | CHECK)

    return step


_CONDITION_NAMES = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")

OPERATIONS: dict[str, Build] = {
    "mov": _mov,
    "movzx": _mov,
    "movnti": _mov,
    "movsx": _movsx,
    "movsxd": _movsx,
    "lea": _lea,
    "xchg": _xchg,
    "cmpxchg": _cmpxchg,
    "cmpxchg8b": _cmpxchg8b,
    "cmpxchg16b": _cmpxchg8b,
    "bt": _bit_test(None),
    "bts": _bit_test(lambda value, mask: value | mask),
    "btr": _bit_test(lambda value, mask: value & ~mask),
    "btc": _bit_test(lambda value, mask: value ^ mask),
    "clflush": _clflush,
    **dict.fromkeys(("nop", "prefetch", "prefetchw", "prefetchnta"), _nop),
    **dict.fromkeys(("prefetcht0", "prefetcht1", "prefetcht2"), _nop),
    **{f"set{name}": _setcc(test) for name, test in zip(_CONDITION_NAMES, CONDITIONS, strict=True)},
    **{f"cmov{name}": _cmovcc(test) for name, test in zip(_CONDITION_NAMES, CONDITIONS, strict=True)},
}
