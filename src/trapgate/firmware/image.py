"""What a boot protocol promises: memory filled by a loader, and the processor's state at the first instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from trapgate.machine.ram import Ram

Mode = Literal["real", "protected32", "long64"]

# AMD64 manual volume 2, 4.7 and 4.8: the access byte (type, S, DPL, P) in bits 0-7, AVL, L, D/B and G in bits 8-11.
CODE64_ATTRIBUTES = 0xA9B
CODE32_ATTRIBUTES = 0xC9B
DATA32_ATTRIBUTES = 0xC93
#: Writable: in real mode no segment's type is checked.
CODE16_ATTRIBUTES = 0x093
DATA16_ATTRIBUTES = 0x093
BUSY_TSS_ATTRIBUTES = 0x08B
LDT_ATTRIBUTES = 0x082

# AMD64 manual volume 2, 3.1.1 (CR0), 3.1.3 (CR4) and 3.1.7 (EFER).
CR0_PE = 1 << 0
CR0_ET = 1 << 4
CR0_PG = 1 << 31
CR4_PAE = 1 << 5
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
RFLAGS_RESERVED = 1 << 1

REGISTER_NAMES = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
    *("rip", "rflags"),
)
SEGMENT_NAMES = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")


@dataclass(frozen=True)
class SegmentValue:
    """A segment register with its hidden part.

    `limit` is the byte limit after scaling by granularity (FFFFFFFFh for a flat segment). `attributes` are bits 8 to
    23 of a descriptor's high dword without the limit's bits: access byte in bits 0-7, AVL, L, D/B, G in bits 8-11.
    """

    selector: int
    base: int
    limit: int
    attributes: int


@dataclass(frozen=True)
class TableRegister:
    """GDTR or IDTR: guest-linear `base` and `limit` in bytes, less one."""

    base: int
    limit: int


@dataclass(frozen=True)
class EntryState:
    """The processor's registers at the guest's first instruction.

    `registers` holds every name of REGISTER_NAMES, `segments` every name of SEGMENT_NAMES. A register that is not
    given to `entry_registers` is zero.
    """

    mode: Mode
    registers: Mapping[str, int]
    segments: Mapping[str, SegmentValue]
    cr0: int
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    gdt: TableRegister = field(default=TableRegister(0, 0))
    idt: TableRegister = field(default=TableRegister(0, 0))


class BootImage(Protocol):
    """A guest that can be put into memory. Made from checked bytes; `load` may be called for many machines."""

    @property
    def description(self) -> str:
        """One line for reports, such as the kernel's own version text."""

    def load(self, memory: Ram, rsdp: int = 0) -> EntryState:
        """Write everything into `memory` and return the state in which the processor starts.

        `rsdp` is the guest-physical address of the ACPI root pointer, 0 when there is none. Raises FirmwareError.
        """


def entry_registers(**values: int) -> dict[str, int]:
    """All general registers, rip and rflags: those given, the rest zero, interrupts disabled."""
    registers = dict.fromkeys(REGISTER_NAMES, 0)
    registers["rflags"] = RFLAGS_RESERVED
    for name, value in values.items():
        if name not in registers:
            raise KeyError(f"no register is called {name}")
        registers[name] = value
    return registers


def flat_segments(code_selector: int, data_selector: int, code_attributes: int) -> dict[str, SegmentValue]:
    """Segments that cover 4 GB from 0, as the boot protocols want; no LDT, a task register that nothing uses."""
    data = SegmentValue(data_selector, 0, 0xFFFF_FFFF, DATA32_ATTRIBUTES)
    segments = dict.fromkeys(("es", "ss", "ds", "fs", "gs"), data)
    segments["cs"] = SegmentValue(code_selector, 0, 0xFFFF_FFFF, code_attributes)
    segments["ldtr"] = SegmentValue(0, 0, 0xFFFF, LDT_ATTRIBUTES)
    segments["tr"] = SegmentValue(0, 0, 0xFFFF, BUSY_TSS_ATTRIBUTES)
    return segments


def real_segments(code: int, data: int, stack: int) -> dict[str, SegmentValue]:
    """Segments of real mode: base = 16 * selector, 64 KB limits (AMD64 manual volume 2, 4.4.1 and 14.1.4)."""
    values = {"cs": code, "ss": stack, "ds": data, "es": data, "fs": data, "gs": data}
    segments = {
        name: SegmentValue(value, value << 4, 0xFFFF, CODE16_ATTRIBUTES if name == "cs" else DATA16_ATTRIBUTES)
        for name, value in values.items()
    }
    segments["ldtr"] = SegmentValue(0, 0, 0xFFFF, LDT_ATTRIBUTES)
    segments["tr"] = SegmentValue(0, 0, 0xFFFF, BUSY_TSS_ATTRIBUTES)
    return segments


def descriptor(base: int, limit: int, attributes: int) -> int:
    """The 8 bytes of a segment descriptor; `limit` in bytes, scaled to pages when `attributes` has G set."""
    scaled = limit >> 12 if attributes & 0x800 else limit
    high = (base & 0xFF00_0000) | (scaled & 0xF_0000) | (base >> 16 & 0xFF)
    high |= (attributes & 0xFF) << 8 | (attributes & 0xF00) << 12
    return high << 32 | (base & 0xFFFF) << 16 | (scaled & 0xFFFF)
