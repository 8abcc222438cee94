"""Several instructions in a row: flags that are dead, compares fused with branches, carries handed on.

Register operands only, except in the first instruction. No instruction reads a flag that an earlier one left undefined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

from iced_x86 import Decoder, Instruction

from . import areas
from .areas import Case
from .forms import Form, all_forms
from .generate import Unsuitable, make_case
from .implicit import branch_target, set_branch_target
from .operands import draft, encode
from .undefined import ARITHMETIC, flags_from_iced, undefined_flags
from .values import Choices

_MNEMONICS = frozenset(
    (
        "ADD", "ADC", "SUB", "SBB", "CMP", "AND", "OR", "XOR", "TEST", "NEG", "NOT", "INC", "DEC", "SHL", "SHR", "SAR",
        "ROL", "ROR", "RCL", "RCR", "IMUL", "MOVZX", "MOVSX", "MOV", "BT", "BTS", "BTR", "BTC", "CLC", "STC", "CMC",
        "LAHF", "SAHF", "XADD", "CMPXCHG", "XCHG", "POPCNT", "CBW", "CWDE", "CDQE", "CWD", "CDQ", "CQO",
    )
)  # fmt: skip
_ATTEMPTS = 200


@cache
def middle_forms(mode: str) -> tuple[Form, ...]:
    """Forms that may stand anywhere in a sequence."""
    return tuple(
        form
        for form in all_forms(mode)
        if form.family == "integer"
        and (form.mnemonic in _MNEMONICS or form.mnemonic.startswith(("SET", "CMOV")))
        and "MOFFS" not in form.name
        and "SREG" not in form.name
        and not form.name.endswith("_CL")
    )


@cache
def last_forms(mode: str) -> tuple[Form, ...]:
    """Forms that may end a sequence: these, and the conditional branches."""
    branches = tuple(f for f in all_forms(mode) if f.name.startswith("J") and f.mnemonic != "JMP")
    return branches + branches + middle_forms(mode)


def _flags_after(form: Form, instruction: Instruction, case: Case, undefined: int) -> int:
    """The undefined flags after an instruction; Unsuitable when it reads one."""
    if flags_from_iced(instruction.rflags_read) & undefined:
        raise Unsuitable
    new = undefined_flags(form, instruction, case.state)
    written = flags_from_iced(instruction.rflags_modified) & ARITHMETIC
    return undefined & ~written | new


def make_sequence(seed: int, number: int, mode: str = "long64") -> Case:
    """Two to five instructions, for slot `number`."""
    for attempt in range(_ATTEMPTS):
        choices = Choices(((seed * _ATTEMPTS + attempt) << 4) + 7)
        try:
            return _attempt(choices, seed, number, mode)
        except Unsuitable:
            continue
    raise AssertionError(f"no suitable sequence with seed {seed} in {_ATTEMPTS} attempts")


def _attempt(choices: Choices, seed: int, number: int, mode: str) -> Case:
    first = choices.pick(middle_forms(mode))
    case = make_case(first, choices.bits(20), number)
    decoded = Decoder(areas.BITS[mode], case.code, ip=case.state.rip).decode()
    undefined = _flags_after(first, decoded, case, 0)
    code, texts, names = case.code, [case.text], [first.name]
    count = choices.between(1, 4)
    for i in range(count):
        form = choices.pick(last_forms(mode) if i == count - 1 else middle_forms(mode))
        more, decoded = _register_instruction(form, choices, case.state.rip, len(code), mode)
        undefined = _flags_after(form, decoded, case, undefined)
        code += more
        texts.append(str(decoded))
        names.append(form.name)
    return dataclasses.replace(
        case,
        code=code,
        text="; ".join(texts),
        undefined_flags=undefined,
        undefined_registers={},
        form="+".join(names),
        seed=seed,
    )


def _register_instruction(form: Form, choices: Choices, rip: int, offset: int, mode: str) -> tuple[bytes, Instruction]:
    made = draft(form, choices, may_use_memory=False)
    if made.memory is not None:
        raise Unsuitable
    if made.is_branch:
        set_branch_target(made.instruction, branch_target(choices, rip, 100))
    try:
        code = encode(made, rip + offset)
    except ValueError as error:
        raise Unsuitable from error
    decoded = Decoder(areas.BITS[mode], code, ip=rip + offset).decode()
    if decoded.code != form.code or offset + len(code) > areas.SLOT_SIZE - areas.SLOT_START - 64:
        raise Unsuitable
    return code, decoded


def make_sequences(seeds: Sequence[int], mode: str = "long64") -> list[Case]:
    """One sequence for each seed."""
    return [make_sequence(seed, i % areas.PLACES[mode].slot_count, mode) for i, seed in enumerate(seeds)]
