"""The processor's architectural state and what plain Python does with it: registers, memory, ports, MSRs, control registers.

The engine makes a subclass that runs code; everything here works without it being in native code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import iced_x86 as iced

from trapgate.arch import layout, vectors
from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.paging import PF_W
from trapgate.arch.registers import (
    ARITHMETIC_FLAGS,
    CR0_EM,
    CR0_MP,
    CR0_PE,
    CR0_TS,
    CR4_OSFXSR,
    CR4_TSD,
    CS,
    DS,
    EFER_LMA,
    ES,
    IOPL,
    IOPL_SHIFT,
    RFLAGS_ONE,
    RFLAGS_WRITABLE,
    RSP,
    SS,
    SYSTEM_FLAGS,
    VM,
)
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L, CODE_ACCESSED, DATA_RW_ACCESSED
from trapgate.cpu.faults import Fault
from trapgate.cpu.mode import DecodeMode, Mode
from trapgate.cpu.operands import effective_address, operand_bits, register_of
from trapgate.cpu.state import SegmentRegister, State, SystemSegment

_M64 = (1 << 64) - 1


class Unimplemented(Exception):
    """The guest used something that the modelled processor has and trapgate does not have yet."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"unimplemented: {what} at {where}: this guest needs a feature that trapgate does not have yet")
        self.what = what
        self.where = where


class Ports(Protocol):
    """What the processor needs of the machine's bus."""

    def read_port(self, port: int, width: int) -> int: ...
    def write_port(self, port: int, width: int, value: int) -> None: ...
    def read_memory(self, address: int, width: int) -> int: ...
    def write_memory(self, address: int, width: int, value: int) -> None: ...


class LocalApicRegisters(Protocol):
    """What the processor itself holds of its local APIC."""

    apic_base: int

    def read_cr8(self) -> int: ...
    def write_cr8(self, value: int) -> None: ...


class Core:
    """The architectural state of one processor."""

    def __init__(self, profile: CpuProfile, ram: memoryview, ram_base: int, bus: Ports) -> None:
        self.profile = profile
        self.state = State()
        self.q = self.state.q
        self.ram = ram
        self.ram_base = ram_base
        self.bus = bus
        self.apic: LocalApicRegisters | None = None
        self.segments = [SegmentRegister(self.state, i) for i in range(6)]
        self.ldtr, self.tr = SystemSegment(), SystemSegment()
        self.idtr_base = self.idtr_limit = 0
        self.cr2 = 0
        self.dr = [0] * 8
        self.msrs: dict[int, int] = {}
        self.rip = 0
        self.instruction_rip = 0
        self.cpl = 0
        self.shadow = False
        self.halted = False
        #: Cycles that the current Python form has added.
        self.charged = 0
        #: True when the next instruction must be looked up again.
        self.redirected = False
        self._mode: Mode | None = None
        self._modes: dict[tuple[int, ...], Mode] = {}
        # Native functions, set by the engine: (state address, ...) -> int
        self.native_translate: Callable[[int, int, int], int] = _missing
        self.native_flush: Callable[[int, int], None] = _missing
        self.native_flush_page: Callable[[int, int], None] = _missing
        self.native_reset_fast: Callable[[int], None] = _missing

    # -- reset

    def reset(self) -> None:
        """The state after RESET# (APM vol. 2, 14.1.3)."""
        q = self.q
        for offset in range(0, layout.COUNTERS, 8):
            if offset not in self._kept_by_reset:
                q[offset >> 3] = 0
        self.state.set(layout.CR0, 0x6000_0010)
        self.rflags = RFLAGS_ONE
        self.set_register(2, 64, self.profile.leaves[1][0])
        for i, segment in enumerate(self.segments):
            if i == CS:
                segment.load(0xF000, 0xFFFF_0000, 0xFFFF, CODE_ACCESSED)
            else:
                segment.load(0, 0, 0xFFFF, DATA_RW_ACCESSED)
        self.ldtr.load(0, 0, 0xFFFF, 0x82)
        self.tr.load(0, 0, 0xFFFF, 0x8B)
        self.gdtr_base = self.idtr_base = 0
        self.gdtr_limit = self.idtr_limit = 0xFFFF
        self.set_state_field(layout.CODE_DESCRIPTOR, -1)
        self.set_state_field(layout.STACK_DESCRIPTOR, -1)
        self.rip, self.cpl = 0xFFF0, 0
        self.cr2 = 0
        self.dr = [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
        self.msrs = dict(_RESET_MSRS)
        self.shadow = self.halted = False
        self.state.set(layout.RESERVED_BITS, ((1 << 52) - 1) & ~((1 << self.profile.physical_bits) - 1))
        self.state.set(layout.A20_MASK, -1)
        self.reset_fpu()
        self.state.d[layout.MXCSR >> 2] = 0x1F80
        self.state.empty_tlb()
        self.mode_changed()

    #: Offsets that the engine sets once.
    _kept_by_reset: frozenset[int] = frozenset()

    def reset_fpu(self) -> None:
        """FNINIT."""
        self.state.w[layout.FPU_CONTROL >> 1] = 0x037F
        self.state.w[layout.FPU_STATUS >> 1] = 0
        self.state.d[layout.FPU_TOP >> 2] = 0
        self.state.set(layout.FPU_VALID, 0)
        self.state.d[layout.FPU_CONTROL_MASKED >> 2] = 0x037F

    # -- faults and reports

    def fault(self, vector: int, error: int | None = None) -> NoReturn:
        """Raise an exception of the guest."""
        raise Fault(vector, error)

    def unimplemented(self, what: str) -> NoReturn:
        """Stop the run with a report."""
        raise Unimplemented(what, f"rip {self.instruction_rip:#x}, {self.bits}-bit code, CPL {self.cpl}")

    # -- registers

    def register(self, number: int, width: int) -> int:
        """The low `width` bits of a general-purpose register."""
        return self.q[number] & ((1 << width) - 1)

    def set_register(self, number: int, width: int, value: int) -> None:
        """Write a general-purpose register as an instruction of that operand size does."""
        if width >= 32:
            self.q[number] = value & ((1 << width) - 1)
        else:
            mask = (1 << width) - 1
            self.q[number] = self.q[number] & ~mask & _M64 | value & mask

    def state_field(self, offset: int) -> int:
        """A 64-bit field of the state block."""
        return self.q[offset >> 3]

    def set_state_field(self, offset: int, value: int) -> None:
        """Write a 64-bit field of the state block."""
        self.q[offset >> 3] = value & _M64

    @property
    def rflags(self) -> int:
        """RFLAGS, the lazy flags worked out."""
        q = self.q
        zero, sign = q[layout.FLAG_ZERO >> 3], q[layout.FLAG_SIGN >> 3]
        carry = q[layout.FLAG_CARRY >> 3]
        flags = q[layout.SYSTEM_FLAGS >> 3] & SYSTEM_FLAGS | RFLAGS_ONE | carry >> 63 | carry >> 3 << 4 & 16
        flags |= (carry >> 63 ^ carry >> 62 & 1) << 11 | sign >> 63 << 7
        if zero == 0:
            flags |= 1 << 6
        if (sign & 0xFF).bit_count() & 1 == 0:
            flags |= 1 << 2
        return flags

    @rflags.setter
    def rflags(self, value: int) -> None:
        q = self.q
        q[layout.FLAG_ZERO >> 3] = ~value & 0x40
        q[layout.FLAG_SIGN >> 3] = (value & 0x80) << 56 | (value >> 2 & 1 ^ 1)
        carry, overflow = value & 1, value >> 11 & 1
        q[layout.FLAG_CARRY >> 3] = carry << 63 | (carry ^ overflow) << 62 | value >> 1 & 8
        q[layout.SYSTEM_FLAGS >> 3] = value & RFLAGS_WRITABLE & ~ARITHMETIC_FLAGS

    @property
    def cr0(self) -> int:
        """Control register 0."""
        return self.q[layout.CR0 >> 3]

    @property
    def cr3(self) -> int:
        """Control register 3."""
        return self.q[layout.CR3 >> 3]

    @property
    def cr4(self) -> int:
        """Control register 4."""
        return self.q[layout.CR4 >> 3]

    @property
    def efer(self) -> int:
        """Extended feature enable register."""
        return self.q[layout.EFER >> 3]

    @property
    def gdtr_base(self) -> int:
        """Linear address of the GDT."""
        return self.q[layout.GDTR_BASE >> 3]

    @gdtr_base.setter
    def gdtr_base(self, value: int) -> None:
        self.q[layout.GDTR_BASE >> 3] = value & _M64

    @property
    def gdtr_limit(self) -> int:
        """Limit of the GDT in bytes."""
        return self.q[layout.GDTR_LIMIT >> 3]

    @gdtr_limit.setter
    def gdtr_limit(self, value: int) -> None:
        self.q[layout.GDTR_LIMIT >> 3] = value & 0xFFFF

    # -- modes

    @property
    def real_mode(self) -> bool:
        """CR0.PE = 0."""
        return not self.q[layout.CR0 >> 3] & CR0_PE

    @property
    def virtual8086(self) -> bool:
        """RFLAGS.VM in legacy protected mode."""
        return bool(self.q[layout.SYSTEM_FLAGS >> 3] & VM)

    @property
    def long_mode(self) -> bool:
        """EFER.LMA."""
        return bool(self.q[layout.EFER >> 3] & EFER_LMA)

    @property
    def bits(self) -> int:
        """16, 32 or 64: the code segment's size."""
        attributes = self.segments[CS].attributes
        if self.q[layout.EFER >> 3] & EFER_LMA and attributes & ATTRIBUTE_L:
            return 64
        return 32 if attributes & ATTRIBUTE_DB else 16

    @property
    def stack_bits(self) -> int:
        """Size of the stack pointer."""
        if self.bits == 64:
            return 64
        return 32 if self.segments[SS].attributes & ATTRIBUTE_DB else 16

    def mode(self) -> Mode:
        """The mode of the code that runs now."""
        if self._mode is None:
            self._mode = self._work_out_mode()
        return self._mode

    def _work_out_mode(self) -> Mode:
        q, cs, ss = self.q, self.segments[CS], self.segments[SS]
        flags = q[layout.SYSTEM_FLAGS >> 3] & (IOPL | VM)
        cr0, cr4 = q[layout.CR0 >> 3], q[layout.CR4 >> 3]
        bits = self.bits
        flat = 0
        if bits != 64:
            for number in (ES, SS, DS):
                flat |= int(self.segments[number].is_flat(write=True)) << number
            flat |= int(cs.is_flat(write=False)) << CS
        key = (cs.attributes, cs.base, cs.limit, ss.attributes & ATTRIBUTE_DB, self.cpl, flags, flat, bits,
               cr0 & (CR0_PE | CR0_MP | CR0_EM | CR0_TS), cr4 & (CR4_TSD | CR4_OSFXSR))  # fmt: skip
        mode = self._modes.get(key)
        if mode is None:
            if len(self._modes) > 4096:
                self._modes.clear()
            mode = self._modes[key] = self._make_mode(bits, flat, flags, cr0, cr4)
        return mode

    def _make_mode(self, bits: int, flat: int, flags: int, cr0: int, cr4: int) -> Mode:
        real = not cr0 & CR0_PE
        stack = "64"
        if bits != 64:
            stack = f"{self.stack_bits}{'f' if flat >> SS & 1 and self.stack_bits == 32 else 's'}"
        x87 = "nm" if cr0 & (CR0_EM | CR0_TS) else ""
        sse = "ud" if cr0 & CR0_EM or not cr4 & CR4_OSFXSR else "nm" if cr0 & CR0_TS else ""
        mmx = "ud" if cr0 & CR0_EM else "nm" if cr0 & CR0_TS else ""
        io_allowed = real or (not flags & VM and self.cpl <= flags >> IOPL_SHIFT & 3)
        decode = DecodeMode(
            bits=bits, stack=stack, flat=flat, cpl=self.cpl, real=real, virtual8086=bool(flags & VM),
            io_allowed=io_allowed, time_stamp_allowed=not cr4 & CR4_TSD or self.cpl == 0, x87=x87, sse=sse, mmx=mmx,
            wait_nm=cr0 & (CR0_MP | CR0_TS) == CR0_MP | CR0_TS,
        )  # fmt: skip
        cs = self.segments[CS]
        return Mode(decode, 0 if bits == 64 else cs.base, _M64 if bits == 64 else cs.limit)

    def mode_changed(self) -> None:
        """CS, CPL, or something else that code depends on has changed."""
        self._mode = None
        self.redirected = True

    def refetch(self) -> None:
        """The translation of code addresses may have changed."""
        self.redirected = True

    # -- memory

    def translate(self, linear: int, access: int) -> int:
        """Guest-physical address for a data access, through the modelled TLB. Raises Fault.

        `access` has the bits of a page-fault error code (PF_W, PF_U).
        """
        result = self.native_translate(self.state.address, linear, access)
        if result == 0:
            q = self.q
            vector = q[layout.FAULT_VECTOR >> 3]
            if vector == vectors.PF:
                raise Fault(vector, q[layout.FAULT_ERROR >> 3], q[layout.FAULT_ADDRESS >> 3])
            raise Fault(vector & 0xFF, q[layout.FAULT_ERROR >> 3])
        return self.q[layout.TRANSLATED >> 3]

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
            return self.bus.read_memory(physical, size)
        return sum(self.bus.read_memory(physical + i, 1) << 8 * i for i in range(size))

    def write_physical(self, physical: int, size: int, value: int) -> None:
        """Write RAM (dropping decoded code) or a device."""
        if self.is_ram(physical):
            self.before_write(physical, size)
            self.ram[physical : physical + size] = value.to_bytes(size, "little")
        elif size in (1, 2, 4, 8):
            self.bus.write_memory(physical, size, value)
        else:
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

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID: the profile's leaves with what depends on the current state (25481, 2.2)."""
        leaves = self.profile.leaves
        limit = leaves[0x8000_0000][0] if leaf >> 31 else leaves[0][0]
        known = leaves.get(leaf)
        if known is None:
            known = (0, 0, 0, 0)
        eax, ebx, ecx, edx = known if leaf <= limit else (0, 0, 0, 0)
        if leaf in (1, 0x8000_0001) and (self.apic is None or not self.apic.apic_base >> 11 & 1):
            edx &= ~(1 << 9)
        return eax, ebx, ecx, edx

def is_canonical(linear: int) -> bool:
    """Bits 63..47 are equal (APM vol. 2, 5.3.1)."""
    return linear >> 47 in (0, 0x1_FFFF)


def _missing(*arguments: int) -> Any:
    raise RuntimeError("the engine has not connected its native functions")


#: PAT and MTRR capability after reset (APM vol. 2, 7.8.2, 7.7).
_RESET_MSRS = {0x277: 0x0007_0406_0007_0406, 0xFE: 0x508, 0x1B: 0xFEE0_0900}
