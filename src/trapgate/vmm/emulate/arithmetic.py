"""ADD ... XOR, CMP, TEST, INC, DEC, NEG, NOT, XADD, shifts and rotates (APM vol. 3, chapter 3)."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.vmm.emulate import flags
from trapgate.vmm.emulate.flags import AF, CF, OF, OTHERS
from trapgate.vmm.emulate.form import Build, Form, Step
from trapgate.vmm.emulate.machine import Memory, Registers

#: (a, b, width in bits, CF) -> (result, the six arithmetic flags).
Binary = Callable[[int, int, int, int], tuple[int, int]]


def _add(a: int, b: int, width: int, carry: int) -> tuple[int, int]:
    result = a + b & (1 << width) - 1
    return result, flags.of_sum(a, b, result, width)


def _adc(a: int, b: int, width: int, carry: int) -> tuple[int, int]:
    result = a + b + carry & (1 << width) - 1
    return result, flags.of_sum(a, b, result, width)


def _sub(a: int, b: int, width: int, carry: int) -> tuple[int, int]:
    result = a - b & (1 << width) - 1
    return result, flags.of_difference(a, b, result, width)


def _sbb(a: int, b: int, width: int, carry: int) -> tuple[int, int]:
    result = a - b - carry & (1 << width) - 1
    return result, flags.of_difference(a, b, result, width)


def _and(a: int, b: int, width: int, carry: int) -> tuple[int, int]:
    return a & b, flags.of_result(a & b, width)


def _or(a: int, b: int, width: int, carry: int) -> tuple[int, int]:
    return a | b, flags.of_result(a | b, width)


def _xor(a: int, b: int, width: int, carry: int) -> tuple[int, int]:
    return a ^ b, flags.of_result(a ^ b, width)


def _changing(operation: Binary) -> Build:
    def build(form: Form) -> Step:
        destination, source = form.operands()
        width = destination.width

        def step(registers: Registers, memory: Memory, user: int) -> None:
            a, b = destination.update(registers, memory, user), source.read(registers, memory, user)
            before = registers.rflags
            result, after = operation(a, b, width, before & CF)
            destination.write(registers, memory, user, result)
            registers.rflags = before & OTHERS | after

        return step

    return build


def _comparing(operation: Binary) -> Build:
    def build(form: Form) -> Step:
        destination, source = form.operands()
        width = destination.width

        def step(registers: Registers, memory: Memory, user: int) -> None:
            a, b = destination.read(registers, memory, user), source.read(registers, memory, user)
            registers.rflags = registers.rflags & OTHERS | operation(a, b, width, 0)[1]

        return step

    return build


def _by_one(operation: Binary) -> Build:
    """INC and DEC: CF stays."""

    def build(form: Form) -> Step:
        (target,) = form.operands()
        width = target.width

        def step(registers: Registers, memory: Memory, user: int) -> None:
            result, after = operation(target.update(registers, memory, user), 1, width, 0)
            target.write(registers, memory, user, result)
            registers.rflags = registers.rflags & (OTHERS | CF) | after & ~CF

        return step

    return build


def _neg(form: Form) -> Step:
    (target,) = form.operands()
    width = target.width

    def step(registers: Registers, memory: Memory, user: int) -> None:
        result, after = _sub(0, target.update(registers, memory, user), width, 0)
        target.write(registers, memory, user, result)
        registers.rflags = registers.rflags & OTHERS | after

    return step


def _not(form: Form) -> Step:
    (target,) = form.operands()
    mask = (1 << target.width) - 1

    def step(registers: Registers, memory: Memory, user: int) -> None:
        target.write(registers, memory, user, target.update(registers, memory, user) ^ mask)

    return step


def _xadd(form: Form) -> Step:
    destination, source = form.operands()
    width, in_memory = destination.width, form.is_memory(0)

    def step(registers: Registers, memory: Memory, user: int) -> None:
        a, b = destination.update(registers, memory, user), source.read(registers, memory, user)
        result, after = _add(a, b, width, 0)
        if in_memory:
            destination.write(registers, memory, user, result)
            source.write(registers, memory, user, a)
        else:
            source.write(registers, memory, user, a)
            destination.write(registers, memory, user, result)
        registers.rflags = registers.rflags & OTHERS | after

    return step


# -- Shifts. OF is defined for a count of 1 alone, AF never; other counts give what processors give.

#: (value, count from 1 to 63, width) -> (result, flags).
Shift = Callable[[int, int, int], tuple[int, int]]


def _shl(a: int, count: int, width: int) -> tuple[int, int]:
    shifted = a << count
    result, carry = shifted & (1 << width) - 1, shifted >> width & 1
    return result, flags.of_result(result, width) | carry | (OF if result >> (width - 1) != carry else 0)


def _shr(a: int, count: int, width: int) -> tuple[int, int]:
    result = a >> count
    return result, flags.of_result(result, width) | a >> (count - 1) & 1 | (OF if a >> (width - 1) else 0)


def _sar(a: int, count: int, width: int) -> tuple[int, int]:
    value = a - (a >> (width - 1) << width)
    result = value >> count & (1 << width) - 1
    return result, flags.of_result(result, width) | value >> (count - 1) & 1


def _rotated_left(a: int, count: int, width: int) -> int:
    count %= width
    return (a << count | a >> (width - count)) & (1 << width) - 1


def _rol(a: int, count: int, width: int) -> tuple[int, int]:
    result = _rotated_left(a, count, width)
    carry = result & 1
    return result, carry | (OF if result >> (width - 1) != carry else 0)


def _ror(a: int, count: int, width: int) -> tuple[int, int]:
    result = _rotated_left(a, -count % width, width)
    top = result >> (width - 2)
    return result, top >> 1 | (OF if top in (1, 2) else 0)


def _shifting(operation: Shift, untouched: int) -> Build:
    """`untouched`: flags that stay. A count of 0 changes none, but memory is written."""

    def build(form: Form) -> Step:
        target, source = form.operands()
        width = target.width
        most = 63 if width == 64 else 31
        keep = OTHERS | untouched

        def step(registers: Registers, memory: Memory, user: int) -> None:
            a, count = target.update(registers, memory, user), source.read(registers, memory, user) & most
            if not count:
                target.write(registers, memory, user, a)
                return
            result, after = operation(a, count, width)
            target.write(registers, memory, user, result)
            registers.rflags = registers.rflags & keep | after

        return step

    return build


_ROTATES_KEEP = flags.of_result(0, 8) | flags.of_result(0x80, 8) | AF

OPERATIONS: dict[str, Build] = {
    "add": _changing(_add),
    "adc": _changing(_adc),
    "sub": _changing(_sub),
    "sbb": _changing(_sbb),
    "and": _changing(_and),
    "or": _changing(_or),
    "xor": _changing(_xor),
    "cmp": _comparing(_sub),
    "test": _comparing(_and),
    "inc": _by_one(_add),
    "dec": _by_one(_sub),
    "neg": _neg,
    "not": _not,
    "xadd": _xadd,
    "shl": _shifting(_shl, 0),
    "sal": _shifting(_shl, 0),
    "shr": _shifting(_shr, 0),
    "sar": _shifting(_sar, 0),
    "rol": _shifting(_rol, _ROTATES_KEEP),
    "ror": _shifting(_ror, _ROTATES_KEEP),
}
