"""Operands of the hot tier: their places are known, so registers are values and addresses are sums."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from trapgate.arch import layout
from trapgate.engine.operands import ColdOperand, CountOperand, MemoryOperand
from trapgate.isa.context import Operand
from trapgate.isa.decoded import Decoded
from trapgate.isa.form import MemoryShape, parse_memory
from trapgate.isa.ir import Value

if TYPE_CHECKING:
    from trapgate.engine.hot.context import RegionContext

_M64 = (1 << 64) - 1


class HotRegister(ColdOperand):
    """A general-purpose register; AH, CH, DH and BH are the second byte of the first four."""

    def __init__(self, context: RegionContext, width: int, offset: int) -> None:
        super().__init__(context, width)
        self._r = context
        self._number, self._byte = divmod(offset - layout.GPR, 8)

    def read(self) -> Value:
        if self._byte:
            return (self._r.register(self._number, 16) >> 8).trunc(8)
        return self._r.register(self._number, self.width)

    def write(self, value: Value) -> None:
        if self._byte:
            old = self._r.register(self._number, 64) & ~0xFF00
            self._r.set_register(self._number, old | (value.zext(64) << 8))
        else:
            self._r.set_register(self._number, value)


class HotVectorRegister(ColdOperand):
    """An XMM register."""

    def __init__(self, context: RegionContext, offset: int) -> None:
        super().__init__(context, 128)
        self._r = context
        self._offset = offset

    def read(self) -> Value:
        return self._r.vector(self._offset).bitcast("i128")

    def write(self, value: Value) -> None:
        if value.width < 128:
            e, lane = self._r.emit, f"i{value.width}"
            old = self._r.vector(self._offset).bitcast(f"<{128 // value.width} x {lane}>")
            value = e.insert(old, value.bitcast(lane), 0)
        self._r.set_vector(self._offset, value.bitcast("<2 x i64>"))


class StateRegister(ColdOperand):
    """An MMX, segment or other register that stays in the state block."""

    def __init__(self, context: RegionContext, width: int, offset: int) -> None:
        super().__init__(context, width)
        self._place = context.state_pointer(offset)

    def read(self) -> Value:
        return self.c.emit.load(self.width, self._place, 8 if self.width > 64 else 0)

    def write(self, value: Value) -> None:
        if self.width == 32 and value.width == 32:
            value = value.zext(64)
        self.c.emit.store(value, self._place, 8 if value.width > 64 else 0)


class HotStackRegister(ColdOperand):
    """ST(i)."""

    def __init__(self, context: RegionContext, number: int) -> None:
        super().__init__(context, 80)
        self._number = number

    def st_index(self) -> Value:
        return self.c.emit.constant(self._number, 32)


class Constant(ColdOperand):
    """An immediate."""

    def __init__(self, context: RegionContext, width: int, value: int) -> None:
        super().__init__(context, width)
        self._value = value

    def read(self) -> Value:
        return self.c.emit.constant(self._value, self.width)


class HotMemory(MemoryOperand):
    """A memory operand with known registers and displacement."""

    def __init__(
        self, context: RegionContext, shape: MemoryShape, slots: tuple[int, ...], displacement: int, wide: int
    ) -> None:
        super().__init__(context, shape, 0)
        self._r = context
        self._slots, self._displacement, self._wide = slots, displacement, wide

    def _register(self, slot: int, bits: int) -> Value | None:
        if slot == layout.ZERO:
            return None
        return self._r.register((slot - layout.GPR) // 8, bits)

    def _compute(self, extra_base: tuple[int, int] | None) -> Value:
        e, bits = self._r.emit, self.shape.address_bits
        if self.shape.address == "a":
            return e.constant(self._wide, bits)
        address = self._register(self._slots[0], bits)
        displacement = self._displacement
        if extra_base is not None and self._slots[0] == layout.gpr(extra_base[0]):
            displacement += extra_base[1]
        if self.shape.address != "b":
            index = self._register(self._slots[1], bits)
            scale = int(self.shape.address[1])
            if index is not None:
                index = index << scale.bit_length() - 1 if scale > 1 else index
                address = index if address is None else address + index
        if address is None:
            return e.constant(displacement, bits)
        return address + displacement if displacement else address

    def _linear(self, is_write: bool | None, size: int) -> Value:
        place = self._r.state_pointer(self._slots[self.segment_slot]) if self.shape.segment else None
        return self._r.linear_address(self.address(), place, self.shape.segment, is_write, size)

    def displaced(self, delta: Value) -> Operand:
        moved = HotMemory(self._r, self.shape, self._slots, self._displacement, self._wide)
        moved._address = self.address() + delta
        return moved

    def after_pop(self, size: int) -> Operand:
        moved = HotMemory(self._r, self.shape, self._slots, self._displacement, self._wide)
        if self.shape.address != "a":
            moved._address = self._compute((4, size))
        return moved

    def write(self, value: Value) -> None:
        if self._updated is None:
            self._r.store_linear(self._linear(True, value.width // 8), value)
        else:
            self._r.emit.store(value, self._updated, 1)


def operands_of(context: RegionContext, decoded: Decoded, rip: int) -> list[ColdOperand]:
    """The operands of an instruction that stands at `rip`."""
    assert decoded.form is not None
    *slots, displacement, immediate, wide = struct.unpack("<4HiiQ", decoded.body)
    if decoded.relative is not None:
        wide = (rip + decoded.relative) & _M64
    operands: list[ColdOperand] = []
    slot = 0
    for shape in decoded.form.operands:
        kind = shape[0]
        if kind == "m":
            memory = HotMemory(context, parse_memory(shape), tuple(slots[slot:]), displacement, wide)
            slot += memory.segment_slot + (1 if memory.shape.segment else 0)
            operands.append(memory)
        elif kind == "i":
            operands.append(Constant(context, int(shape[1:]), immediate))
        elif kind == "I":
            operands.append(Constant(context, 64, wide))
        elif kind == "j":
            operands.append(Constant(context, int(shape[1:]), displacement))
        elif shape == "cl":
            operands.append(CountOperand(context, 8))
        else:
            operands.append(_register(context, shape, slots[slot]))
            slot += 1
    return operands


def _register(context: RegionContext, shape: str, slot: int) -> ColdOperand:
    if shape == "st":
        return HotStackRegister(context, slot)
    if shape == "x":
        return HotVectorRegister(context, slot)
    if shape == "q":
        return StateRegister(context, 64, slot)
    if layout.GPR <= slot < layout.gpr(16):
        return HotRegister(context, int(shape[1:]), slot)
    return StateRegister(context, int(shape[1:]), slot)
