"""Operands of the cold tier: their places come out of the micro-op record when the handler runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import layout
from trapgate.arch.registers import RCX
from trapgate.engine import record
from trapgate.isa.context import Operand
from trapgate.isa.form import MemoryShape
from trapgate.isa.ir import Value

if TYPE_CHECKING:
    from trapgate.engine.cold import ColdContext


class ColdOperand:
    """What all operands share: a width and a place in the record."""

    is_memory = False

    def __init__(self, context: ColdContext, width: int) -> None:
        self.c = context
        self.width = width

    def read(self) -> Value:
        raise TypeError("operand cannot be read")

    def update(self) -> Value:
        return self.read()

    def write(self, value: Value) -> None:
        raise TypeError("operand cannot be written")

    def address(self) -> Value:
        raise TypeError("operand is not in memory")

    linear = address

    def displaced(self, delta: Value) -> Operand:
        raise TypeError("operand is not in memory")

    def st_index(self) -> Value:
        raise TypeError("operand is not an x87 register")


class RegisterOperand(ColdOperand):
    """A general-purpose, XMM or MMX register; the slot holds its offset in the state block."""

    def __init__(self, context: ColdContext, width: int, slot: int) -> None:
        super().__init__(context, width)
        self._slot = slot
        self._pointer: Value | None = None

    def _place(self) -> Value:
        if self._pointer is None:
            self._pointer = self.c.state_pointer(self.c.slot(self._slot))
        return self._pointer

    def read(self) -> Value:
        return self.c.emit.load(self.width, self._place(), 8 if self.width > 64 else 0)

    def write(self, value: Value) -> None:
        if self.width == 32 and value.width == 32:
            value = value.zext(64)
        self.c.emit.store(value, self._place(), 8 if value.width > 64 else 0)


class CountOperand(ColdOperand):
    """CL."""

    def read(self) -> Value:
        return self.c.register(RCX, 8)


class StackRegisterOperand(ColdOperand):
    """ST(i); the slot holds i."""

    def __init__(self, context: ColdContext, slot: int) -> None:
        super().__init__(context, 80)
        self._slot = slot

    def st_index(self) -> Value:
        return self.c.slot(self._slot).trunc(32)


class ImmediateOperand(ColdOperand):
    """An immediate; `offset` is its place in the record and `stored` its width there."""

    def __init__(self, context: ColdContext, width: int, offset: int, stored: int) -> None:
        super().__init__(context, width)
        self._offset, self._stored = offset, stored

    def read(self) -> Value:
        if self.width <= self._stored:
            return self.c.of_record(self._offset, self.width)
        return self.c.of_record(self._offset, self._stored).sext(self.width)


class MemoryOperand(ColdOperand):
    """A memory operand; its slots hold base, index (x shapes) and segment (g and s shapes)."""

    is_memory = True

    def __init__(self, context: ColdContext, shape: MemoryShape, slot: int) -> None:
        super().__init__(context, shape.width)
        self.shape = shape
        self._slot = slot
        self._address: Value | None = None
        self._updated: Value | None = None
        self.segment_slot = slot + {"b": 1, "a": 0}.get(shape.address, 2)

    def address(self) -> Value:
        if self._address is None:
            self._address = self._compute(None)
        return self._address

    def _compute(self, extra_base: tuple[int, int] | None) -> Value:
        c, bits = self.c, self.shape.address_bits
        if self.shape.address == "a":
            return c.of_record(record.LINK, bits)
        base_slot = c.slot(self._slot)
        address = c.emit.load(bits, c.state_pointer(base_slot))
        if extra_base is not None:
            number, amount = extra_base
            is_it = base_slot.eq(layout.gpr(number))
            address = address + is_it.select(c.emit.constant(amount, bits), c.emit.constant(0, bits))
        displacement = c.of_record(record.DISPLACEMENT, 32)
        address = address + displacement.sext(bits) if bits >= 32 else address + displacement.trunc(bits)
        if self.shape.address != "b":
            index = c.emit.load(bits, c.state_pointer(c.slot(self._slot + 1)))
            scale = int(self.shape.address[1])
            address = address + (index << scale.bit_length() - 1 if scale > 1 else index)
        return address

    def linear(self) -> Value:
        return self._linear(None, self.width // 8)

    def _linear(self, is_write: bool | None, size: int) -> Value:
        segment = self.shape.segment
        place = self.c.state_pointer(self.c.slot(self.segment_slot)) if segment else None
        return self.c.linear_address(self.address(), place, segment, is_write, size)

    def displaced(self, delta: Value) -> Operand:
        moved = MemoryOperand(self.c, self.shape, self._slot)
        moved._address = self.address() + delta
        return moved

    def after_pop(self, size: int) -> Operand:
        moved = MemoryOperand(self.c, self.shape, self._slot)
        if self.shape.address not in ("a",):
            moved._address = self._compute((4, size))
        return moved

    def read(self) -> Value:
        size = self.width // 8
        return self.c.load_linear(self._linear(False, size), self.width)

    def update(self) -> Value:
        size = self.width // 8
        pointer = self.c.host_pointer(self._linear(True, size), size, is_write=True)
        self._updated = pointer
        return self.c.emit.load(self.width, pointer, 1)

    def write(self, value: Value) -> None:
        c = self.c
        if self._updated is None:
            c.store_linear(self._linear(True, value.width // 8), value)
            return
        c.emit.store(value, self._updated, 1)
        bounce = c.state_pointer(layout.BOUNCE)
        with c.emit.when(c.emit.compare("eq", self._updated, bounce), likely=False):
            c.commit()
