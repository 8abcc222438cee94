"""What plain Python does on the processor: memory through the modelled TLB, the stack, operands, near jumps.

The engine makes a subclass that runs code; everything here works without it being in native code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import iced_x86 as iced

from trapgate.arch import layout, vectors, vmcb
from trapgate.arch.paging import PF_W
from trapgate.arch.registers import (
    CS,
    RSP,
    SS,
)
from trapgate.cpu.faults import Fault, VmExit
from trapgate.cpu.operands import effective_address, operand_bits, register_of
from trapgate.cpu.registers import Registers

_M64 = (1 << 64) - 1


class Core(Registers):
    """Registers with memory and operands."""

    # -- memory

    def translate(self, linear: int, access: int) -> int:
        """Physical address for a data access, through the modelled TLB: the machine's, whatever guest of AMD-V runs.

        Raises Fault; one with vector EXIT_NPF has EXITINFO1 and EXITINFO2 as error and address.

        `access` has the bits of a page-fault error code (PF_W, PF_U).
        """
        q = self.q
        if q[layout.KNOWN_FAULT >> 3] and (q[layout.KNOWN_LINEAR >> 3], q[layout.KNOWN_ACCESS >> 3]) == (
            linear,
            access,
        ):
            # Native code has translated it, counted that, and left the fault to Python (cpu/native_delivery.py).
            q[layout.KNOWN_FAULT >> 3] = 0
            self._raise_fault(layout.KNOWN_VECTOR, layout.KNOWN_ERROR, layout.KNOWN_ADDRESS)
        q[layout.STALL >> 3] = 0
        result = self.native_translate(self.state.address, linear, access)
        self.charged += q[layout.STALL >> 3]  # what the walk cost
        if result == 0:
            self._raise_fault(layout.FAULT_VECTOR, layout.FAULT_ERROR, layout.FAULT_ADDRESS)
        return q[layout.TRANSLATED >> 3]

    def _raise_fault(self, vector_field: int, error_field: int, address_field: int) -> NoReturn:
        """Raise the fault that a translation has left in these fields."""
        q = self.q
        vector, error, address = q[vector_field >> 3], q[error_field >> 3], q[address_field >> 3]
        if vector == vectors.PF:
            raise Fault(vector, error, address)
        if vector == vmcb.EXIT_NPF:
            raise VmExit(vmcb.EXIT_NPF, error, address)
        raise Fault(vector & 0xFF, error)

    def _parts(self, linear: int, size: int, access: int) -> list[tuple[int, int]]:
        """(guest-physical address, size) of the one or two pages that an access touches."""
        linear &= _M64 if self.long_mode else 0xFFFF_FFFF
        room = 4096 - (linear & 0xFFF)
        if size <= room:
            return [(self.translate(linear, access), size)]
        second = linear + room & (_M64 if self.long_mode else 0xFFFF_FFFF)
        return [(self.translate(linear, access), room), (self.translate(second, access), size - room)]

    def read_linear(self, linear: int, size: int, access: int) -> int:
        """Read `size` bytes with the privilege in `access`."""
        value = shift = 0
        for physical, length in self._parts(linear, size, access):
            value |= self.read_physical(physical, length) << shift
            shift += 8 * length
        return value

    def write_linear(self, linear: int, size: int, value: int, access: int) -> None:
        """Write `size` bytes with the privilege in `access`."""
        for physical, length in self._parts(linear, size, access | PF_W):
            self.write_physical(physical, length, value & ((1 << 8 * length) - 1))
            value >>= 8 * length

    def read_physical(self, physical: int, size: int) -> int:
        """Read RAM or a device."""
        if self.is_ram(physical):
            return int.from_bytes(self.ram[physical : physical + size], "little")
        if size in (1, 2, 4, 8):
            self.charge_device(self.costs.device_memory)
            return self.bus.read_memory(physical, size)
        self.charge_device(self.costs.device_memory * size)
        return sum(self.bus.read_memory(physical + i, 1) << 8 * i for i in range(size))

    def write_physical(self, physical: int, size: int, value: int) -> None:
        """Write RAM (dropping decoded code) or a device."""
        if self.is_ram(physical):
            self.before_write(physical, size)
            self.ram[physical : physical + size] = value.to_bytes(size, "little")
        elif size in (1, 2, 4, 8):
            self.charge_device(self.costs.device_memory)
            self.bus.write_memory(physical, size, value)
        else:
            self.charge_device(self.costs.device_memory * size)
            for i in range(size):
                self.bus.write_memory(physical + i, 1, value >> 8 * i & 0xFF)

    #: Set by the engine.
    is_ram: Callable[[int], bool] = staticmethod(lambda physical: False)
    before_write: Callable[[int, int], None] = staticmethod(lambda physical, size: None)

    @property
    def _user_access(self) -> int:
        return self.q[layout.USER >> 3]

    def read_system(self, linear: int, size: int) -> int:
        """Read as the processor itself does (descriptor tables, TSS)."""
        return self.read_linear(linear, size, 0)

    def write_system(self, linear: int, size: int, value: int) -> None:
        """Write as the processor itself does."""
        self.write_linear(linear, size, value, 0)

    def segment_linear(self, number: int, offset: int, size: int, write: bool) -> int:
        """Linear address of an access through a segment, checked; #SS(0) or #GP(0)."""
        segment = self.segments[number]
        vector = vectors.SS if number == SS else vectors.GP
        if self.bits == 64:
            linear = offset + (segment.base if number >= 4 else 0) & _M64
            last = linear + size - 1 & _M64
            if not (is_canonical(linear) and is_canonical(last)):
                raise Fault(vector, 0)
            return linear
        o = layout.segment(number)
        place = o + (layout.SEGMENT_HIGH_WRITE if write else layout.SEGMENT_HIGH_READ)
        high = self.q[place >> 3]
        if high >> 63 or offset < self.q[(o + layout.SEGMENT_LOW) >> 3] or offset + size - 1 > high:
            raise Fault(vector, 0)
        return segment.base + offset & 0xFFFF_FFFF

    def read_segment(self, segment: int, offset: int, size: int) -> int:
        """Read through a segment at the current privilege."""
        return self.read_linear(self.segment_linear(segment, offset, size, False), size, self._user_access)

    def write_segment(self, segment: int, offset: int, size: int, value: int) -> None:
        """Write through a segment at the current privilege."""
        linear = self.segment_linear(segment, offset, size, True)
        self.write_linear(linear, size, value, self._user_access)

    # -- the stack

    def stack_read(self, offset: int, width: int) -> int:
        """Read the stack at rSP + offset bytes."""
        bits = self.stack_bits
        at = self.register(RSP, bits) + offset & ((1 << bits) - 1)
        return self.read_segment(SS, at, width // 8)

    def add_to_stack_pointer(self, amount: int) -> None:
        """rSP += amount, in the stack's size."""
        bits = self.stack_bits
        self._set_stack_pointer(self.register(RSP, bits) + amount, bits)

    def _set_stack_pointer(self, value: int, bits: int) -> None:
        self.set_register(RSP, bits, value)

    def push(self, width: int, value: int) -> None:
        """Push; rSP changes only when the write succeeded."""
        bits = self.stack_bits
        at = self.register(RSP, bits) - width // 8 & ((1 << bits) - 1)
        self.write_segment(SS, at, width // 8, value & ((1 << width) - 1))
        self._set_stack_pointer(at, bits)

    def pop(self, width: int) -> int:
        """Pop."""
        value = self.stack_read(0, width)
        self.add_to_stack_pointer(width // 8)
        return value

    # -- operands of Python forms

    def memory_operand(self, instruction: iced.Instruction) -> tuple[int, int]:
        """(segment number, offset) of the memory operand."""
        return effective_address(self.q, instruction, self.instruction_rip)

    def operand_bits(self, instruction: iced.Instruction, index: int) -> int:
        """Width of an operand."""
        return operand_bits(instruction, index)

    def operand(self, instruction: iced.Instruction, index: int) -> int:
        """Read an operand."""
        kind = instruction.op_kind(index)
        if kind == iced.OpKind.REGISTER:
            offset, width = register_of(instruction.op_register(index))
            return int.from_bytes(self.state.bytes[offset : offset + width // 8], "little")
        if kind == iced.OpKind.MEMORY:
            segment, at = self.memory_operand(instruction)
            return self.read_segment(segment, at, operand_bits(instruction, index) // 8)
        return instruction.immediate(index)

    def set_operand(self, instruction: iced.Instruction, index: int, value: int) -> None:
        """Write an operand."""
        if instruction.op_kind(index) == iced.OpKind.REGISTER:
            offset, width = register_of(instruction.op_register(index))
            if width == 32:
                width = 64
                value &= 0xFFFF_FFFF
            value &= (1 << width) - 1
            self.state.bytes[offset : offset + width // 8] = value.to_bytes(width // 8, "little")
        else:
            segment, at = self.memory_operand(instruction)
            size = operand_bits(instruction, index) // 8
            self.write_segment(segment, at, size, value & ((1 << 8 * size) - 1))

    # -- control transfer

    def jump(self, rip: int) -> None:
        """Go on at `rip` in the current code segment."""
        if self.bits == 64:
            if not is_canonical(rip):
                raise Fault(vectors.GP, 0)
        elif rip > self.segments[CS].limit:
            raise Fault(vectors.GP, 0)
        self.rip = rip
        self.redirected = True

    def charge(self, cycles: int) -> None:
        """Let modelled time pass."""
        self.charged += cycles

    def charge_device(self, cycles: int) -> None:
        """Let the modelled time of an access to a device pass."""
        self.charged += cycles
        self.device_cycles += cycles

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID: the profile's leaves with what depends on the current state (25481, 2.2)."""
        eax, ebx, ecx, edx = self.profile.cpuid(leaf)
        if leaf in (1, 0x8000_0001) and (self.apic is None or not self.apic.apic_base >> 11 & 1):
            edx &= ~(1 << 9)
        return eax, ebx, ecx, edx


def is_canonical(linear: int) -> bool:
    """Bits 63..47 are equal (APM vol. 2, 5.3.1)."""
    return linear >> 47 in (0, 0x1_FFFF)
