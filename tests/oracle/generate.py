"""Random cases: an instruction of a given form, and a state in which its operands lie where the test can look.

Memory operands lie in the window. A few reach into the page that is not mapped, write to the read-only one, or are not
canonical: then the exception is compared.
"""

from __future__ import annotations

from iced_x86 import CodeSize, Decoder, Instruction, OpAccess, OpKind, RegisterExt

from . import areas, machine_state, undefined, values
from .areas import Case, State
from .forms import Form
from .implicit import constrain
from .operands import RSP, Draft, draft, encode
from .values import Choices

_MASK64 = (1 << 64) - 1
_ATTEMPTS = 50
#: These form an address and do not use it.
NO_ACCESS = {"LEA", "NOP", "PREFETCH", "PREFETCHW", "PREFETCHNTA", "PREFETCHT0", "PREFETCHT1", "PREFETCHT2"}
#: Written in several steps: what a fault in the middle leaves behind differs between processors. So are 80-bit operands
#: (see differences.AVOIDED).
NO_FAULTS = {
    "FXSAVE", "FXSAVE64", "FXRSTOR", "FXRSTOR64", "FNSAVE", "FSAVE", "FRSTOR", "FNSTENV", "FSTENV", "FLDENV", "ENTER",
    "JMP", "CALL", "POPF", "POPFD", "POPFQ", "BOUND", "PUSHA", "PUSHAD", "POPA", "POPAD",
}  # fmt: skip


_CODE_SIZES = {CodeSize.CODE16: 16, CodeSize.CODE32: 32, CodeSize.CODE64: 64}


class Unsuitable(Exception):
    """This choice of operands cannot be tested; the next seed is tried."""


def make_case(form: Form, seed: int, number: int = 0) -> Case:
    """A case of `form` for slot `number`; the same arguments give the same case."""
    for attempt in range(_ATTEMPTS):
        choices = Choices((seed * _ATTEMPTS + attempt) << 20 | form.bits << 13 | form.code)
        try:
            return _attempt(form, choices, seed, number)
        except Unsuitable:
            continue
    raise AssertionError(f"no suitable operands for {form} with seed {seed} in {_ATTEMPTS} attempts")


def _attempt(form: Form, choices: Choices, seed: int, number: int) -> Case:
    places = areas.PLACES[form.mode]
    rip = areas.slot_address(number, form.mode)
    made = draft(form, choices)
    width = 64 if form.bits == 64 else 32
    gpr = [values.integer(choices, width) if i < 8 or form.bits == 64 else 0 for i in range(16)]
    window = bytearray(choices.bytes(areas.WINDOW_SIZE) if choices.bits(1) else areas.WINDOW_SIZE)
    rflags = machine_state.rflags(choices, form)
    fx = machine_state.fx_image(choices, form)
    pinned = constrain(made, choices, gpr, window, rip)
    ea = None
    if made.memory is not None:
        ea = _place(made, choices, places)
        _solve(made, choices, gpr, pinned, ea)
        _fill(made, choices, gpr, window, ea - places.window, rip)
    try:
        code = encode(made, rip)
    except ValueError as error:
        raise Unsuitable from error
    decoded = Decoder(form.bits, code, ip=rip).decode()
    if decoded.code != form.code or decoded.len != len(code):
        raise Unsuitable
    state = State(gpr, rflags, fx, bytes(window), rip)
    check_accesses(form, decoded, state)
    return Case(
        code,
        state,
        form.mode,
        str(decoded),
        form.family == "string" and (decoded.has_rep_prefix or decoded.has_repne_prefix),
        undefined.undefined_flags(form, decoded, state),
        undefined.undefined_registers(form, decoded, state),
        undefined.undefined_xmm(form, decoded),
        -1 if ea is None else ea - places.window,
        undefined.ignored_memory(form, made.size, 0 if ea is None else ea - places.window, gpr[RSP] - places.window),
        form.name,
        seed,
    )


def _place(made: Draft, choices: Choices, places: areas.Places) -> int:
    """The linear address of the memory operand."""
    size, name = max(made.size, 1), made.form.mnemonic
    window, unmapped = places.window, places.unmapped
    if name in ("BT", "BTS", "BTR", "BTC"):
        return window + 400 + choices.between(0, 100)
    if size >= 90:
        return window + (0 if choices.chance(90) else choices.between(0, 100))
    kind = choices.between(0, 99)
    if places.faults and name not in NO_FAULTS and size != 10:
        if kind < 3 and size > 1:
            return unmapped - choices.between(1, size - 1)
        if kind < 5:
            return unmapped + choices.between(0, 64)
        if kind < 8:
            return places.read_only + choices.between(0, areas.PAGE - size)
        memory = made.memory
        assert memory is not None
        if kind < 10 and memory.bits == 64 and memory.base >= 0 and not memory.segment:
            return choices.pick((1 << 63, 1 << 47, _MASK64 - (1 << 47) - 2000)) + choices.between(0, 1000)
    if kind < 20:
        return unmapped - size
    if kind < 80 or (size == 16 and kind < 95):
        return window + choices.between(0, (areas.WINDOW_SIZE - size) // 16) * 16
    return window + choices.between(0, areas.WINDOW_SIZE - size)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)


def _solve(made: Draft, choices: Choices, gpr: list[int], pinned: set[int], linear: int) -> None:
    """Choose displacement and address registers so that the operand lies at `linear`."""
    memory = made.memory
    assert memory is not None
    bits = memory.bits
    mask = (1 << bits) - 1
    ea = linear - areas.GS_BASE if memory.segment else linear
    if memory.ip_relative or memory.offset_only:
        memory.displacement = ea & _MASK64
        return
    base, index, scale = memory.base, memory.index, memory.scale
    if made.form.name == "XLAT_M8":
        gpr[base] = ((ea - (gpr[0] & 0xFF)) & mask) | (gpr[base] & ~mask & _MASK64)
        pinned.update((0, base))
        return
    scaled = 0
    if index >= 0:
        if index not in pinned and (base < 0 or base in pinned or base == index):
            gpr[index] = _with_low(gpr[index], choices.bits(5), bits, made.form.bits)
        scaled = gpr[index] * scale
    limits = 15 if bits == 16 else 31
    if base >= 0 and base not in pinned and base != index:
        displacement = choices.pick((0, choices.between(-128, 127), _signed(choices.bits(limits + 1), limits + 1)))
        gpr[base] = _with_low(gpr[base], ea - scaled - displacement, bits, made.form.bits)
    else:
        displacement = _signed(ea - scaled - (gpr[base] if base >= 0 else 0), bits)
        if base < 0 and index < 0:
            displacement = ea & mask
        elif not -(1 << limits) <= displacement < 1 << limits:
            raise Unsuitable
    memory.displacement = displacement
    pinned.update(r for r in (base, index) if r >= 0)


def _with_low(old: int, new: int, bits: int, mode_bits: int) -> int:
    """`new` in the low `bits`; what is above them stays random."""
    mask = (1 << bits) - 1
    full = _MASK64 if mode_bits == 64 else 0xFFFF_FFFF
    return (new & mask) | (old & ~mask & full)


def _fill(made: Draft, choices: Choices, gpr: list[int], window: bytearray, offset: int, rip: int) -> None:
    """Put a telling value where the memory operand lies, as far as that is in the window."""
    size = made.size
    data = machine_state.memory_operand(made, choices, gpr, rip)
    for i in range(size):
        if 0 <= offset + i < len(window):
            window[offset + i] = data[i]


def check_accesses(form: Form, decoded: Instruction, state: State) -> None:
    """Refuse what would touch memory that the test does not look at."""
    name, places = form.mnemonic, areas.PLACES[form.mode]
    if name in NO_ACCESS or form.family in ("privileged", "string"):
        return
    if decoded.op_count > 1 and decoded.op1_kind == OpKind.REGISTER and name in ("BT", "BTS", "BTR", "BTC"):
        _check_bit_offset(decoded, state)
    if name in ("SHLD", "SHRD") and decoded.op0_kind == OpKind.MEMORY:
        count, size = undefined.shift_count(decoded, state)
        if count > size:
            raise Unsuitable  # an undefined result in memory
    factory = _info()
    for used in factory.info(decoded).used_memory():
        if used.access in (OpAccess.NO_MEM_ACCESS, OpAccess.NONE):
            continue
        address = used.displacement
        for register, scale in ((used.base, 1), (used.index, used.scale)):
            if register:
                address += _register_value(register, state, decoded) * scale
        if name == "XLATB" or form.name == "XLAT_M8":
            continue
        address &= (1 << _CODE_SIZES.get(used.address_size, form.bits)) - 1
        if decoded.segment_prefix:
            address = (address + areas.GS_BASE) & _MASK64
        _check_access(address, used.access, places)


def _info():  # type: ignore[no-untyped-def]
    global _factory
    if _factory is None:
        from iced_x86 import InstructionInfoFactory

        _factory = InstructionInfoFactory()
    return _factory


_factory = None


def _register_value(register: int, state: State, decoded: Instruction) -> int:
    if RegisterExt.is_segment_register(register):
        return 0
    if RegisterExt.is_ip(register):
        return 0
    size = RegisterExt.size(register)
    number = RegisterExt.number(register)
    value = state.gpr[number]
    return value & ((1 << (8 * size)) - 1)


def _check_access(address: int, access: int, places: areas.Places) -> None:
    if not places.faults:
        if not places.window <= address < places.unmapped:
            raise Unsuitable
        return
    if (1 << 47) - 1 < address < (1 << 64) - (1 << 47):
        return
    reads = access in (OpAccess.READ, OpAccess.COND_READ)
    if places.window <= address < places.unmapped + 256 or places.read_only <= address < places.read_only + areas.PAGE:
        return
    if reads and places.read_only <= address < places.unmapped:
        return
    raise Unsuitable


def _check_bit_offset(decoded: Instruction, state: State) -> None:
    if decoded.op0_kind != OpKind.MEMORY:
        return
    number = RegisterExt.number(decoded.op1_register)
    bits = 8 * RegisterExt.size(decoded.op1_register)
    if abs(_signed(state.gpr[number], bits)) > 8 * 300:
        raise Unsuitable


__all__ = ["RSP", "Unsuitable", "make_case"]
