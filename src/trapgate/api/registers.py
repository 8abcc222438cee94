"""The processor's registers, to read and to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, overload

from trapgate.api import checks
from trapgate.api.errors import ForbiddenValue, InvalidArgument, InvalidRegister, UnknownMsr, UnknownRegister
from trapgate.arch import layout
from trapgate.arch.registers import GPR_NAMES, SEGMENT_NAMES
from trapgate.cpu.faults import NAMES, Fault
from trapgate.cpu.state import SegmentRegister, SystemSegment
from trapgate.engine.processor import Processor


def check(name: str, bits: int, value: int) -> int:
    """`value`, if a register of that many bits can hold it. Raises InvalidRegister."""
    if not isinstance(value, int) or value < 0 or value >> bits:
        raise InvalidRegister(name, bits, value)
    return value


class _General:
    """A 64-bit field of the state block as an attribute."""

    def __init__(self, name: str, offset: int, bits: int = 64) -> None:
        self._name, self._offset, self._bits = name, offset, bits

    @overload
    def __get__(self, owner: None, kind: type) -> _General: ...
    @overload
    def __get__(self, owner: Registers, kind: type) -> int: ...
    def __get__(self, owner: Registers | None, kind: type) -> int | _General:
        return self if owner is None else owner.processor.q[self._offset >> 3]

    def __set__(self, owner: Registers, value: int) -> None:
        owner.processor.q[self._offset >> 3] = check(self._name, self._bits, value)


class Segment:
    """A segment register with its hidden part (APM vol. 2, 4.5.1).

    `attributes` are bits 8..23 of a descriptor's upper half without the limit, as in a VMCB: type, S, DPL and P in bits
    0..7, AVL, L, D/B and G in bits 8..11. `limit` is in bytes, less one.
    """

    def __init__(self, processor: Processor, register: SegmentRegister) -> None:
        self._processor, self._register = processor, register

    @property
    def selector(self) -> int:
        """The visible part, 16 bits."""
        return self._register.selector

    @property
    def base(self) -> int:
        """Linear address of offset 0."""
        return self._register.base

    @property
    def limit(self) -> int:
        """The highest valid offset of a segment that expands up."""
        return self._register.limit

    @property
    def attributes(self) -> int:
        """Rights and type."""
        return self._register.attributes

    def load(self, selector: int, base: int, limit: int, attributes: int) -> None:
        """Load all parts as they are, without looking at a descriptor table. Raises InvalidRegister."""
        name = self._register.name
        self._register.load(
            check(f"{name}.selector", 16, selector),
            check(f"{name}.base", 64, base),
            check(f"{name}.limit", 32, limit),
            check(f"{name}.attributes", 12, attributes),
        )
        self._processor.mode_changed()

    def __repr__(self) -> str:
        return (
            f"<{self._register.name} {self.selector:#06x} base={self.base:#x} limit={self.limit:#x} "
            f"attributes={self.attributes:#05x}>"
        )


@dataclass(frozen=True, slots=True)
class TableRegister:
    """GDTR or IDTR: linear address and highest valid offset of a table."""

    base: int
    limit: int


@dataclass(frozen=True, slots=True)
class SystemRegister:
    """LDTR or TR with its hidden part; `attributes` as in Segment."""

    selector: int
    base: int
    limit: int
    attributes: int

    @classmethod
    def of(cls, register: SystemSegment) -> SystemRegister:
        """What the processor's register holds now."""
        return cls(register.selector, register.base, register.limit, register.attributes)


_WRITABLE = (*GPR_NAMES, "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer")
_READABLE = (*_WRITABLE, *SEGMENT_NAMES, "ldtr", "tr", "gdtr", "idtr", "cpl", "bits", "linear_rip")


def _debug_number(value: object) -> int:
    number = checks.number("dr()", value, 8, "a register of 0 to 3, 6 and 7")
    if number in (4, 5):
        raise InvalidArgument("a register of 0 to 3, 6 and 7 for dr()", str(number), "it is 6 or 7 by another name")
    return number


def _xmm_number(value: object) -> int:
    return checks.number("xmm()", value, 16, "a register from 0 to 15")


class Registers:
    """Registers as attributes. Values are unsigned numbers; a value that does not fit raises InvalidRegister.

    A control register takes what MOV CR takes: writing one may flush the TLB, and what the processor would answer with
    an exception raises ForbiddenValue.
    """

    rax, rcx, rdx, rbx = (_General(name, layout.gpr(i)) for i, name in enumerate(GPR_NAMES[:4]))
    rsp, rbp, rsi, rdi = (_General(name, layout.gpr(4 + i)) for i, name in enumerate(GPR_NAMES[4:8]))
    r8, r9, r10, r11 = (_General(name, layout.gpr(8 + i)) for i, name in enumerate(GPR_NAMES[8:12]))
    r12, r13, r14, r15 = (_General(name, layout.gpr(12 + i)) for i, name in enumerate(GPR_NAMES[12:]))

    #: The names of the general registers, in the order of their numbers.
    GENERAL: ClassVar[tuple[str, ...]] = tuple(GPR_NAMES)

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self._segments = {
            name: Segment(processor, processor.segments[number]) for number, name in enumerate(SEGMENT_NAMES)
        }

    def __getattr__(self, name: str) -> int:
        # Only for names that are no attributes.
        if name.startswith("_"):
            raise AttributeError(name)
        raise UnknownRegister(name, _READABLE, "use its 64-bit name, and xmm(n) for XMM registers")

    if not TYPE_CHECKING:
        # A misspelt name would make a new attribute, and change nothing in the guest.
        def __setattr__(self, name: str, value: int) -> None:
            if name not in _WRITABLE and name not in ("processor", "_segments"):
                remedy = "use set_xmm() for XMM registers" if name not in SEGMENT_NAMES else f"use {name}.load()"
                raise UnknownRegister(name, _WRITABLE, remedy)
            super().__setattr__(name, value)

    @property
    def rip(self) -> int:
        """Offset of the next instruction in the code segment."""
        return self.processor.rip

    @rip.setter
    def rip(self, value: int) -> None:
        self.processor.set_rip(check("rip", 64, value))

    @property
    def linear_rip(self) -> int:
        """Linear address of the next instruction: what breakpoints and symbols are about."""
        return self.processor.linear_rip()

    @property
    def rflags(self) -> int:
        """RFLAGS, all of it."""
        return self.processor.rflags

    @rflags.setter
    def rflags(self, value: int) -> None:
        self.processor.rflags = check("rflags", 32, value)
        self.processor.mode_changed()

    @property
    def cs(self) -> Segment:
        """The code segment."""
        return self._segments["cs"]

    @property
    def ss(self) -> Segment:
        """The stack segment."""
        return self._segments["ss"]

    @property
    def ds(self) -> Segment:
        """The data segment."""
        return self._segments["ds"]

    @property
    def es(self) -> Segment:
        """The extra segment."""
        return self._segments["es"]

    @property
    def fs(self) -> Segment:
        """FS."""
        return self._segments["fs"]

    @property
    def gs(self) -> Segment:
        """GS."""
        return self._segments["gs"]

    @property
    def ldtr(self) -> SystemRegister:
        """The local descriptor table's register."""
        return SystemRegister.of(self.processor.ldtr)

    @property
    def tr(self) -> SystemRegister:
        """The task register."""
        return SystemRegister.of(self.processor.tr)

    @property
    def gdtr(self) -> TableRegister:
        """The global descriptor table's register."""
        return TableRegister(self.processor.gdtr_base, self.processor.gdtr_limit)

    @property
    def idtr(self) -> TableRegister:
        """The interrupt descriptor table's register."""
        return TableRegister(self.processor.idtr_base, self.processor.idtr_limit)

    @property
    def cpl(self) -> int:
        """The current privilege level, 0 to 3."""
        return self.processor.cpl

    @property
    def bits(self) -> int:
        """16, 32 or 64: the kind of code that runs."""
        return self.processor.bits

    @property
    def cr0(self) -> int:
        """Control register 0."""
        return self.processor.cr0

    @cr0.setter
    def cr0(self, value: int) -> None:
        self._control("cr0", self.processor.set_cr0, value)

    @property
    def cr2(self) -> int:
        """The linear address of the last page fault."""
        return self.processor.cr2

    @cr2.setter
    def cr2(self, value: int) -> None:
        self.processor.cr2 = check("cr2", 64, value)

    @property
    def cr3(self) -> int:
        """The page-table root."""
        return self.processor.cr3

    @cr3.setter
    def cr3(self, value: int) -> None:
        self._control("cr3", self.processor.set_cr3, value)

    @property
    def cr4(self) -> int:
        """Control register 4."""
        return self.processor.cr4

    @cr4.setter
    def cr4(self, value: int) -> None:
        self._control("cr4", self.processor.set_cr4, value)

    @property
    def efer(self) -> int:
        """The extended feature enable register."""
        return self.processor.efer

    @efer.setter
    def efer(self, value: int) -> None:
        self._control("efer", self.processor.set_efer, value)

    def xmm(self, number: int) -> int:
        """XMM register `number` (0..15), 128 bits."""
        place = layout.xmm(_xmm_number(number))
        return int.from_bytes(self.processor.state.bytes[place : place + 16], "little")

    def set_xmm(self, number: int, value: int) -> None:
        """Write XMM register `number` (0..15)."""
        place = layout.xmm(_xmm_number(number))
        data = check(f"xmm{number}", 128, value).to_bytes(16, "little")
        self.processor.state.bytes[place : place + 16] = data

    def dr(self, number: int) -> int:
        """Debug register `number`: 0 to 3, 6 or 7."""
        return self.processor.dr[_debug_number(number)]

    def set_dr(self, number: int, value: int) -> None:
        """Write a debug register as MOV DR does. Raises ForbiddenValue."""
        place = _debug_number(number)
        self._control(f"dr{place}", lambda checked: self.processor.write_dr(place, checked), value)

    def msr(self, number: int) -> int:
        """What RDMSR reads. Raises UnknownMsr."""
        try:
            return self.processor.read_msr(number)
        except Fault:
            raise UnknownMsr(number) from None

    def set_msr(self, number: int, value: int) -> None:
        """Write what WRMSR writes. Raises UnknownMsr, ForbiddenValue."""
        self.msr(number)
        self._control(f"MSR {number:#x}", lambda checked: self.processor.write_msr(number, checked), value)

    def general(self) -> dict[str, int]:
        """The general registers, rip and rflags by name."""
        values = {name: self.processor.q[number] for number, name in enumerate(GPR_NAMES)}
        return values | {"rip": self.rip, "rflags": self.rflags}

    def _control(self, name: str, write: Callable[[int], None], value: int) -> None:
        try:
            write(check(name, 64, value))
        except Fault as fault:
            raise ForbiddenValue(name, value, NAMES.get(fault.vector, str(fault.vector))) from None

    def __repr__(self) -> str:
        return "<" + " ".join(f"{name}={value:#x}" for name, value in self.general().items()) + ">"
