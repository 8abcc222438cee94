"""Instructions with prefixes that an assembler would not write: repeated, out of order, without effect, or forbidden.

A REX prefix counts only right before the opcode; ES, CS, SS and DS overrides do nothing in 64-bit code; LOCK without a
memory destination is #UD (APM vol. 3, 1.2). The result must still be a form that is tested.
"""

from __future__ import annotations

import dataclasses

from iced_x86 import Decoder, DecoderError, Instruction

from . import areas, undefined
from .areas import Case
from .forms import Form, all_forms
from .generate import NO_FAULTS, Unsuitable, check_accesses, make_case
from .values import Choices

_SEGMENT_OVERRIDES = (0x26, 0x2E, 0x36, 0x3E)
_LOCK, _OPERAND_SIZE, _ADDRESS_SIZE, _REPNE, _REP = 0xF0, 0x66, 0x67, 0xF2, 0xF3
_FAMILIES = ("integer", "simd", "x87")
_ATTEMPTS = 200
_LONGEST = 15


def _forms() -> dict[int, Form]:
    return {form.code: form for form in all_forms("long64")}


def make_prefixed(seed: int, number: int) -> Case:
    """A case with one to four extra prefixes, for slot `number`."""
    forms = _forms()
    usable = [form for form in forms.values() if form.family in _FAMILIES]
    for attempt in range(_ATTEMPTS):
        choices = Choices(((seed * _ATTEMPTS + attempt) << 4) + 9)
        case = make_case(choices.pick(usable), choices.bits(20), number)
        extra = bytes(_prefix(choices) for _ in range(choices.between(1, 4)))
        try:
            return _checked(case, extra + case.code, forms, seed)
        except Unsuitable:
            continue
    raise AssertionError(f"no suitable prefixes with seed {seed} in {_ATTEMPTS} attempts")


def _prefix(choices: Choices) -> int:
    kind = choices.between(0, 9)
    if kind < 4:
        return choices.pick(_SEGMENT_OVERRIDES)
    if kind < 6:
        return 0x40 | choices.bits(4)
    return choices.pick((_LOCK, _OPERAND_SIZE, _OPERAND_SIZE, _ADDRESS_SIZE, _REPNE, _REP))


def _checked(case: Case, code: bytes, forms: dict[int, Form], seed: int) -> Case:
    if len(code) > _LONGEST:
        raise Unsuitable
    decoder = Decoder(64, code, ip=case.state.rip)
    decoded = decoder.decode()
    if not decoded:
        # Forbidden LOCK; other invalid encodings may mean something to the host.
        if _LOCK not in code[:4] or decoder.last_error != DecoderError.INVALID_INSTRUCTION:
            raise Unsuitable
        return _made(case, code, "(bad)", decoded, None, seed)
    form = forms.get(decoded.code)
    if decoded.len != len(code) or form is None or form.family not in _FAMILIES:
        raise Unsuitable
    if form.mnemonic in ("SHLD", "SHRD", "DIV", "IDIV", "EXTRQ", "INSERTQ", "MOVNTSS", "MOVNTSD"):
        raise Unsuitable  # their operands were chosen with care
    if form.mnemonic in NO_FAULTS:
        raise Unsuitable  # an x87 image of another size or at another place, which may reach beyond the window
    check_accesses(form, decoded, case.state)
    return _made(case, code, form.name, decoded, form, seed)


def _made(case: Case, code: bytes, name: str, decoded: Instruction, form: Form | None, seed: int) -> Case:
    state = case.state
    flags = undefined.undefined_flags(form, decoded, state) if form else 0
    registers = undefined.undefined_registers(form, decoded, state) if form else {}
    return dataclasses.replace(
        case, code=code, text=str(decoded), form=name, seed=seed, undefined_flags=flags, undefined_registers=registers
    )


def make_all_prefixed(first: int, count: int) -> list[Case]:
    """Cases for `count` seeds."""
    return [make_prefixed(first + i, i % areas.SLOT_COUNT) for i in range(count)]
