"""The processor's registers, and the mode that follows from them.

General registers, flags and what else native code touches live in the state block; the rest are attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from trapgate.arch import layout
from trapgate.arch.costs import Costs
from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.paging import PTE_PS
from trapgate.arch.registers import (
    AC,
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
    SS,
    SYSTEM_FLAGS,
    VM,
)
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L, DATA_RW_ACCESSED, REAL_CODE
from trapgate.cpu.faults import Fault, Unimplemented
from trapgate.cpu.mode import DecodeMode, Mode
from trapgate.cpu.state import SegmentRegister, State, SystemCallMsrs, SystemSegment, TaskRegister

_M64 = (1 << 64) - 1


class Ports(Protocol):
    """What the processor needs of the machine's bus."""

    def read_port(self, port: int, width: int) -> int: ...
    def write_port(self, port: int, width: int, value: int) -> None: ...
    def has_runs(self, port: int) -> bool: ...
    def read_run(self, port: int, width: int, count: int) -> bytes: ...
    def write_run(self, port: int, width: int, data: bytes) -> int: ...
    def read_memory(self, address: int, width: int) -> int: ...
    def write_memory(self, address: int, width: int, value: int) -> None: ...


class LocalApicRegisters(Protocol):
    """What the processor itself holds of its local APIC."""

    apic_base: int

    def read_cr8(self) -> int: ...
    def write_cr8(self, value: int) -> None: ...


class Registers:
    """Registers, flags, control registers and the mode that follows from them."""

    def __init__(self, profile: CpuProfile, ram: memoryview, ram_base: int, bus: Ports, costs: Costs) -> None:
        self.profile = profile
        self.costs = costs
        #: Modelled cycles that went into world switches (AMD-V), and into what Python delivers of exceptions and
        #: interrupts.
        self.switch_cycles = self._event_cycles = 0
        #: And into accesses to devices.
        self.device_cycles = 0
        self.state = State()
        self.q = self.state.q
        self.ram = ram
        self.ram_base = ram_base
        self.bus = bus
        self.apic: LocalApicRegisters | None = None
        self.segments = [SegmentRegister(self.state, i) for i in range(6)]
        #: Those; and the same with ES to DS of a guest, whose host has the others (cpu/svm).
        self.own_segments = self.segments
        self.guest_segments = [SegmentRegister(self.state, i) for i in range(4)] + self.segments[4:]
        self.ldtr, self.tr = SystemSegment(), TaskRegister(self.state)
        self.dr = [0] * 8
        #: Linear addresses of the enabled instruction breakpoints (cpu/debug.py).
        self.breakpoints: frozenset[int] = frozenset()
        self._msrs = SystemCallMsrs(self.state, {})
        #: VM_CR, VM_HSAVE_PA and SVM_KEY (APM vol. 2, 15.30).
        self.vm_cr = self.hsave_pa = self.svm_key = 0
        #: Operations that native code carries out in other modes, intercepted in the guest that runs (cpu/svm).
        self.intercepted: frozenset[str] = frozenset()
        #: A guest's translated kernel runs at CPL 3 (cpu/svm).
        self.deprivileged = False
        self.rip = 0
        self.instruction_rip = 0
        self.shadow = False
        self.halted = False
        #: Cycles that the current Python form has added.
        self.charged = 0
        #: True when the next instruction must be looked up again.
        self.redirected = False
        #: True when the next instruction must run by itself (cpu/debug.py).
        self.step_wanted = False
        self._mode: Mode | None = None
        self._modes: dict[tuple[object, ...], Mode] = {}
        # Native functions, set by the engine: (state address, ...) -> int
        self.native_translate: Callable[[int, int, int], int] = _missing
        #: (guest-physical address, access): see cpu/walk.py.
        self.native_nested_walk: Callable[[int, int, int], int] = _missing
        # cpu/lookup.py says what each flushes; the further arguments are ASIDs, linear addresses, keep_global.
        self.native_flush: Callable[[int, int], None] = _missing
        self.native_flush_asid: Callable[[int, int, int], None] = _missing
        self.native_flush_all: Callable[[int], None] = _missing
        self.native_flush_page: Callable[[int, int], None] = _missing
        self.native_flush_page_asid: Callable[[int, int, int], None] = _missing
        self.native_reset_fast: Callable[[int], None] = _missing
        # cpu/svm/world_switch.py says what each does.
        self.native_world_enter: Callable[[int], int] = _missing
        self.native_world_exchange: Callable[[int], int] = _missing
        self.native_world_run: Callable[[int], int] = _missing
        self.native_world_round_trip: Callable[[int], int] = _missing
        self.native_world_restore: Callable[[int], None] = _missing
        self.native_world_load: Callable[[int], None] = _missing
        self.native_world_accept: Callable[[int], None] = _missing
        self.native_world_save: Callable[[int], None] = _missing

    @property
    def nmi_blocked(self) -> bool:
        """Whether NMIs wait for an IRET (APM vol. 2, 8.2.3)."""
        return bool(self.q[layout.NMI_BLOCKED >> 3])

    @nmi_blocked.setter
    def nmi_blocked(self, value: bool) -> None:
        self.q[layout.NMI_BLOCKED >> 3] = int(value)

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
                segment.load(0xF000, 0xFFFF_0000, 0xFFFF, REAL_CODE)
            else:
                segment.load(0, 0, 0xFFFF, DATA_RW_ACCESSED)
        self.ldtr.load(0, 0, 0xFFFF, 0x82)
        self.tr.load(0, 0, 0xFFFF, 0x8B)
        self.gdtr_base = self.idtr_base = 0
        self.gdtr_limit = self.idtr_limit = 0xFFFF
        self.set_state_field(layout.CODE_DESCRIPTOR, -1)
        self.set_state_field(layout.STACK_DESCRIPTOR, -1)
        self.rip, self.cpl = 0xFFF0, 0
        self.dr = [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
        self.breakpoints = frozenset()
        self.msrs = SystemCallMsrs(self.state, self.profile.reset_msrs)
        self.shadow = self.halted = self.step_wanted = False
        self.state.set(layout.RESERVED_BITS, self.profile.reserved_address_bits)
        self.state.set(layout.RESERVED_IN_PDPTE, 0 if "PAGE1GB" in self.profile.flags else PTE_PS)
        self.state.set(layout.RESERVED_IN_4MB, self.profile.reserved_in_4mb_entry)
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
        if (q[layout.SYSTEM_FLAGS >> 3] ^ value) & AC:
            self.mode_changed()  # alignment checks
        q[layout.FLAG_ZERO >> 3] = ~value & 0x40
        q[layout.FLAG_SIGN >> 3] = (value & 0x80) << 56 | (value >> 2 & 1 ^ 1)
        carry, overflow = value & 1, value >> 11 & 1
        q[layout.FLAG_CARRY >> 3] = carry << 63 | (carry ^ overflow) << 62 | value >> 1 & 8
        q[layout.SYSTEM_FLAGS >> 3] = value & RFLAGS_WRITABLE & ~ARITHMETIC_FLAGS

    def set_state_bytes(self, offset: int, value: bytes) -> None:
        """Write bytes of the state block."""
        self.state.bytes[offset : offset + len(value)] = value

    @property
    def mxcsr(self) -> int:
        """MXCSR, while native code is not running."""
        return self.state.d[layout.MXCSR >> 2]

    @mxcsr.setter
    def mxcsr(self, value: int) -> None:
        """Unmasked exceptions make code another code."""
        self.state.d[layout.MXCSR >> 2] = value
        self.mode_changed()

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
    def cpl(self) -> int:
        """Current privilege level."""
        return self.q[layout.CPL >> 3]

    @cpl.setter
    def cpl(self, value: int) -> None:
        self.q[layout.CPL >> 3] = value

    @property
    def msrs(self) -> SystemCallMsrs:
        """Values of the MSRs that have no field of their own, by number."""
        return self._msrs

    @msrs.setter
    def msrs(self, value: SystemCallMsrs) -> None:
        self._msrs = value
        value.into_state()

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

    @property
    def idtr_base(self) -> int:
        """Linear address of the IDT."""
        return self.q[layout.IDTR_BASE >> 3]

    @idtr_base.setter
    def idtr_base(self, value: int) -> None:
        self.q[layout.IDTR_BASE >> 3] = value & _M64

    @property
    def idtr_limit(self) -> int:
        """Limit of the IDT in bytes."""
        return self.q[layout.IDTR_LIMIT >> 3]

    @idtr_limit.setter
    def idtr_limit(self, value: int) -> None:
        self.q[layout.IDTR_LIMIT >> 3] = value & 0xFFFF

    @property
    def cr2(self) -> int:
        """Linear address of the last page fault."""
        return self.q[layout.CR2 >> 3]

    @cr2.setter
    def cr2(self, value: int) -> None:
        self.q[layout.CR2 >> 3] = value & _M64

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
        cs.check_type(bool(cr0 & CR0_PE))  # APM vol. 2, 3.1.1: PE enables protection
        simd_checked = self.state.d[layout.MXCSR >> 2] & 0x1F80 != 0x1F80
        flat = 0
        if bits != 64:
            for number in (ES, SS, DS):
                flat |= int(self.segments[number].is_flat(write=True)) << number
            flat |= int(cs.is_flat(write=False)) << CS
        key = (cs.attributes, cs.base, cs.limit, ss.attributes & ATTRIBUTE_DB, self.cpl, flags, flat, bits,
               cr0 & (CR0_PE | CR0_MP | CR0_EM | CR0_TS), cr4 & (CR4_TSD | CR4_OSFXSR), simd_checked,
               self.breakpoints, self.intercepted, self.deprivileged)  # fmt: skip
        mode = self._modes.get(key)
        if mode is None:
            if len(self._modes) > 4096:
                self._modes.clear()
            mode = self._modes[key] = self._make_mode(bits, flat, flags, cr0, cr4, simd_checked)
        return mode

    def _make_mode(self, bits: int, flat: int, flags: int, cr0: int, cr4: int, simd_checked: bool) -> Mode:
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
            wait_nm=cr0 & (CR0_MP | CR0_TS) == CR0_MP | CR0_TS, simd_checked=simd_checked,
            instruction_breakpoints=bool(self.breakpoints), intercepted=self.intercepted,
            deprivileged=self.deprivileged,
        )  # fmt: skip
        cs = self.segments[CS]
        return Mode(
            decode, 0 if bits == 64 else cs.base, _M64 if bits == 64 else cs.limit, tuple(sorted(self.breakpoints))
        )

    def mode_changed(self) -> None:
        """CS, CPL, or something else that code depends on has changed."""
        self._mode = None
        self.redirected = True

    def refetch(self) -> None:
        """The translation of code addresses may have changed."""
        self.redirected = True


def _missing(*arguments: int) -> Any:
    raise RuntimeError("the engine has not connected its native functions")
