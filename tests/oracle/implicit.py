"""Operands that an instruction does not spell out: stack, string and accumulator registers."""

from __future__ import annotations

from iced_x86 import Instruction, OpKind, RegisterExt

from . import areas, values
from .operands import Draft
from .values import Choices

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
_NEAR = (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)
_STACK_BRANCHES = {"CALL", "RET"}
_MASK64 = (1 << 64) - 1


def constrain(made: Draft, choices: Choices, gpr: list[int], window: bytearray, rip: int) -> set[int]:
    """Set registers and memory that the instruction uses silently; returns the registers that must stay so."""
    name, family = made.form.mnemonic, made.form.family
    pinned: set[int] = set()
    if family == "stack" or name in _STACK_BRANCHES:
        _stack(made, choices, gpr, window, pinned)
    if made.is_branch:
        _branch(made, choices, gpr, window, rip, pinned)
    if family == "string":
        _string(made, choices, gpr, pinned)
    if name in ("MASKMOVQ", "MASKMOVDQU"):
        places = areas.PLACES[made.form.mode]
        _set_low(gpr, RDI, places.window + choices.between(0, 500), made)
        pinned.add(RDI)
    if name in ("SHL", "SAL", "SHR", "SAR", "ROL", "ROR", "RCL", "RCR", "SHLD", "SHRD"):
        gpr[RCX] = gpr[RCX] & ~0xFF | choices.pick((0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, choices.bits(8)))
        pinned.add(RCX)
    if name in ("DIV", "IDIV") and choices.chance(75):
        _division(made, choices, gpr)
        pinned.update((RAX, RDX))
    if name in ("BT", "BTS", "BTR", "BTC") and made.instruction.op1_kind == OpKind.REGISTER:
        number = RegisterExt.number(made.instruction.op1_register)
        if made.memory is not None:
            gpr[number] = choices.between(-8 * 200, 8 * 200) & (_MASK64 if made.form.bits == 64 else 0xFFFF_FFFF)
            pinned.add(number)
    if name == "CMPXCHG" and made.instruction.op0_kind == OpKind.REGISTER and choices.bits(1):
        gpr[RAX] = gpr[RegisterExt.number(RegisterExt.full_register(made.instruction.op0_register))]
    return pinned


def _set_low(gpr: list[int], number: int, value: int, made: Draft) -> None:
    mask = (1 << made.address_bits) - 1
    if made.form.bits == 16:
        gpr[number] = value
    else:
        gpr[number] = (gpr[number] & ~mask) | (value & mask)


def _stack(made: Draft, choices: Choices, gpr: list[int], window: bytearray, pinned: set[int]) -> None:
    places, name = areas.PLACES[made.form.mode], made.form.mnemonic
    offset = choices.between(36, 90) * 8
    if choices.chance(10):
        offset += choices.between(1, 7)
    gpr[RSP] = places.window + offset
    pinned.add(RSP)
    if name in ("LEAVE", "ENTER"):
        gpr[RBP] = places.window + 512 + choices.between(0, 15)
        pinned.add(RBP)
    if name == "ENTER":
        gpr[RSP] = places.window + 768 + choices.between(0, 15)
        made.instruction.immediate16 = choices.pick((0, 1, 8, 100, choices.bits(7)))
        made.instruction.immediate8_2nd = choices.pick((0, 0, 1, 2, 3, 31, 32, choices.bits(8)))
    elif name in ("POPF", "POPFD", "POPFQ"):
        at = gpr[RSP] - places.window
        flags = choices.bits(64) & 0xCD5 | choices.bits(2) << 12 | choices.bits(1) << 21 | choices.bits(1) << 14
        window[at : at + 8] = (flags & ~(1 << 14)).to_bytes(8, "little")
    elif places.faults and name in ("PUSH", "POP", "PUSHF", "PUSHFQ", "LEAVE", "RET") and choices.chance(5):
        # RET must not read an address from there that nobody has chosen.
        readable = places.unmapped if name == "RET" else places.read_only + 64
        edge = choices.pick((places.unmapped, places.unmapped - 2, places.unmapped + 4, readable))
        gpr[RBP if name == "LEAVE" else RSP] = edge


def branch_target(choices: Choices, rip: int, length: int = 15) -> int:
    """An address in the instruction's slot, before it or well behind it."""
    slot = rip - areas.SLOT_START
    if choices.bits(1):
        return slot + choices.between(0, areas.SLOT_START - 1)
    return rip + choices.between(length + 16, areas.SLOT_SIZE - areas.SLOT_START - 1)


def set_branch_target(instruction: Instruction, target: int) -> None:
    """Point a direct near branch at `target`."""
    kind = instruction.op0_kind
    if kind == OpKind.NEAR_BRANCH64:
        instruction.near_branch64 = target
    elif kind == OpKind.NEAR_BRANCH32:
        instruction.near_branch32 = target
    else:
        instruction.near_branch16 = target & 0xFFFF


def _branch(made: Draft, choices: Choices, gpr: list[int], window: bytearray, rip: int, pinned: set[int]) -> None:
    target, instruction, name = branch_target(choices, rip), made.instruction, made.form.mnemonic
    kind = instruction.op0_kind if instruction.op_count else OpKind.MEMORY
    if name == "RET":
        at = gpr[RSP] - areas.PLACES[made.form.mode].window
        if 0 <= at < len(window):
            data = target.to_bytes(8, "little")[: len(window) - at]
            window[at : at + len(data)] = data
    elif kind in _NEAR:
        set_branch_target(instruction, target)
    elif kind == OpKind.REGISTER:
        number = RegisterExt.number(instruction.op0_register)
        if number in pinned:
            instruction.op0_register = RegisterExt.base(instruction.op0_register)  # rAX
            number = RAX
        gpr[number] = target
        pinned.add(number)
    if name.startswith("LOOP") or name in ("JCXZ", "JECXZ", "JRCXZ"):
        # Bits above the counter's size stay.
        count = choices.pick((0, 1, 2, 0x10000, 1 << 32, choices.bits(64)))
        gpr[RCX] = count & (_MASK64 if made.form.bits == 64 else 0xFFFF_FFFF)


def _string(made: Draft, choices: Choices, gpr: list[int], pinned: set[int]) -> None:
    places = areas.PLACES[made.form.mode]
    source = places.window + choices.between(200, 700)
    near = source + choices.between(-24, 24)
    destination = near if choices.chance(40) else places.window + choices.between(200, 700)
    if places.faults and choices.chance(6):
        destination = places.unmapped - choices.between(-8, 30)
    elif places.faults and choices.chance(4):
        source = places.unmapped - choices.between(-8, 30)
    _set_low(gpr, RSI, source, made)
    _set_low(gpr, RDI, destination, made)
    instruction = made.instruction
    if instruction.has_rep_prefix or instruction.has_repne_prefix:
        _set_low(gpr, RCX, choices.between(0, 9), made)
    pinned.update((RCX, RSI, RDI))


def _division(made: Draft, choices: Choices, gpr: list[int]) -> None:
    """Make an overflow of the quotient unlikely."""
    instruction = made.instruction
    size = 8 if made.form.name.endswith("RM8") else int(made.form.name[-2:])
    mask = (1 << size) - 1
    signed = made.form.mnemonic == "IDIV"
    if size == 8:
        al = gpr[RAX] & 0xFF
        high = (-(al >> 7) & 0xFF if choices.bits(1) else choices.pick((0, 1, 0xFF))) if signed else choices.bits(3)
        gpr[RAX] = gpr[RAX] & ~0xFFFF | high << 8 | al
    else:
        sign = -(gpr[RAX] >> (size - 1) & 1) & mask
        high = sign if signed and choices.bits(1) else choices.bits(4)
        gpr[RDX] = gpr[RDX] & ~mask | high
    if instruction.op0_kind == OpKind.REGISTER:
        number = RegisterExt.number(RegisterExt.full_register(instruction.op0_register))
        if number not in (RAX, RDX):
            gpr[number] |= values.integer(choices, size) | 16
