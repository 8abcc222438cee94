"""The machine that a case starts in: where its tables and pages lie, and its registers.

Guest-physical memory, mapped to itself where paging is on:

    0000h  interrupt vectors of real and virtual-8086 mode      1000h  GDT, 1800h LDT
    2000h  IDT                                                  3000h  TSS, 3800h another
    4000h  one HLT for each vector, 16 bytes apart              5000h  stacks of CPL 0 to 2, and of IST 1
    7000h  the guest's stack       8000h  its code               A000h  its data
    B000h  read-only               C000h  supervisor's           D000h  not present (while paging is on)
    30000h page tables

What nothing else lies in is full of HLTs, so that wherever a case goes the processor halts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MEMORY_SIZE = 0x4_0000
PAGE = 0x1000
VECTORS, GDT, LDT, IDT, TSS, OTHER_TSS, STUBS = 0, 0x1000, 0x1800, 0x2000, 0x3000, 0x3800, 0x4000
STACK0, STACK1, STACK2, IST1 = 0x5800, 0x5C00, 0x6000, 0x6800
STACK, CODE, DATA, READ_ONLY, SUPERVISOR, ABSENT, OTHER_CODE = 0x7800, 0x8100, 0xA000, 0xB000, 0xC000, 0xD000, 0xE000
TABLES = 0x3_0000
HLT = 0xF4
STUB_SIZE = 16
GDT_ENTRIES, LDT_ENTRIES = 64, 16
TSS_LIMIT = 0x68 + 32 + 0x200
IO_BITMAP = 0x68 + 32

ES, CS, SS, DS, FS, GS = range(6)
CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE, CR0_WP, CR0_PG = 1, 2, 4, 8, 16, 32, 1 << 16, 1 << 31
CR4_VME, CR4_PVI, CR4_PSE, CR4_PAE, CR4_PGE, CR4_OSFXSR = 1, 2, 0x10, 0x20, 0x80, 0x200
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = 1, 0x100, 0x400, 0x800
IF, VM = 1 << 9, 1 << 17

#: MSRs (APM vol. 2, appendix A).
STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT = 0x174, 0x175, 0x176, 0x277

#: Selectors of the GDT that are always as they say. The user ones stand in the order that SYSRET wants.
CODE64, DATA0, CODE32, CODE16, DATA16 = 0x08, 0x10, 0x18, 0x20, 0x28
USER32, USER_DATA, USER64, USER16, USER_DATA16 = 0x33, 0x3B, 0x43, 0x4B, 0x53
TSS_SELECTOR, LDT_SELECTOR = 0x60, 0x70  # two entries each, for long mode
#: From here on descriptors are the case's.
FREE = 0x80

_CODE, _DATA = 0x9B, 0x93
_FLAT32, _FLAT64, _USER = 0xC00, 0xA00, 0x60


def descriptor(attributes: int, base: int = 0, limit: int = 0xF_FFFF) -> int:
    """A segment descriptor; `limit` as it stands there (20 bits), `attributes`: type, S, DPL, P, then the flags."""
    return (
        limit & 0xFFFF | (base & 0xFF_FFFF) << 16 | (attributes & 0xFF) << 40 | (limit >> 16 & 0xF) << 48
        | (attributes >> 8 & 0xF) << 52 | (base >> 24 & 0xFF) << 56
    )  # fmt: skip


def gate(kind: int, selector: int, offset: int, count: int = 0) -> int:
    """The 8 bytes of a gate; `kind` is the attribute byte."""
    return offset & 0xFFFF | selector << 16 | (count & 0xFF) << 32 | kind << 40 | (offset >> 16 & 0xFFFF) << 48


FIXED = {
    CODE64: descriptor(_CODE | _FLAT64),
    DATA0: descriptor(_DATA | _FLAT32),
    CODE32: descriptor(_CODE | _FLAT32),
    CODE16: descriptor(_CODE, limit=0xFFFF),
    DATA16: descriptor(_DATA, limit=0xFFFF),
    USER32: descriptor(_CODE | _USER | _FLAT32),
    USER_DATA: descriptor(_DATA | _USER | _FLAT32),
    USER64: descriptor(_CODE | _USER | _FLAT64),
    USER16: descriptor(_CODE | _USER, limit=0xFFFF),
    USER_DATA16: descriptor(_DATA | _USER, limit=0xFFFF),
}


@dataclass(frozen=True)
class Segment:
    """A segment register with its hidden part; `attributes` as in `descriptor`, the limit in bytes."""

    selector: int = 0
    base: int = 0
    limit: int = 0
    attributes: int = 0


def loaded(selector: int, value: int) -> Segment:
    """What a register holds after a descriptor was loaded."""
    limit = value & 0xFFFF | (value >> 48 & 0xF) << 16
    if value >> 55 & 1:
        limit = limit << 12 | 0xFFF
    base = value >> 16 & 0xFF_FFFF | (value >> 56 & 0xFF) << 24
    return Segment(selector, base, limit, value >> 40 & 0xFF | (value >> 52 & 0xF) << 8)


@dataclass
class MachineState:
    """Every register that a case starts with or leaves behind."""

    gpr: list[int]
    rip: int
    rflags: int
    #: ES, CS, SS, DS, FS, GS.
    segments: list[Segment]
    tr: Segment
    ldtr: Segment
    #: (base, limit)
    gdtr: tuple[int, int]
    idtr: tuple[int, int]
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    efer: int
    #: DR0 to DR3, DR6, DR7.
    dr: list[int] = field(default_factory=lambda: [0, 0, 0, 0, 0xFFFF_0FF0, 0x400])
    msrs: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Mode:
    """A mode of the processor that cases run in."""

    name: str
    bits: int
    cpl: int
    kind: str  # "real", "v86", "protected", "long"
    paging: str = ""  # "", "two-level", "pae", "long"


MODES = {
    mode.name: mode
    for mode in (
        Mode("real", 16, 0, "real"),
        Mode("v86", 16, 3, "v86"),
        Mode("v86-paged", 16, 3, "v86", "two-level"),
        Mode("protected16", 16, 0, "protected"),
        Mode("protected16-user", 16, 3, "protected"),
        Mode("protected32", 32, 0, "protected"),
        Mode("protected32-user", 32, 3, "protected"),
        Mode("protected32-paged", 32, 0, "protected", "two-level"),
        Mode("protected32-paged-user", 32, 3, "protected", "two-level"),
        Mode("protected32-pae-user", 32, 3, "protected", "pae"),
        Mode("long64", 64, 0, "long", "long"),
        Mode("long64-user", 64, 3, "long", "long"),
        Mode("compat32", 32, 0, "long", "long"),
        Mode("compat32-user", 32, 3, "long", "long"),
        Mode("compat16-user", 16, 3, "long", "long"),
    )
}

_PRESENT, _WRITABLE, _USER_PAGE, _ACCESSED, _DIRTY = 1, 2, 4, 0x20, 0x40


def _page_entry(address: int, nx: bool) -> int:
    """Accessed and dirty beforehand: nothing is written to the tables while a case runs."""
    entry = address | _PRESENT | _WRITABLE | _ACCESSED | _DIRTY
    if address == ABSENT:
        return 0
    if address >= 0x7000 and address != SUPERVISOR:
        entry |= _USER_PAGE
    if address == READ_ONLY:
        entry &= ~_WRITABLE
    return entry | (int(nx and address == DATA) << 63)


def _tables(memory: bytearray, paging: str) -> None:
    wide = paging != "two-level"
    size, depth = (8, {"pae": 3, "long": 4}[paging]) if wide else (4, 2)
    table = TABLES
    for level in range(depth - 1):
        rights = _PRESENT | _WRITABLE | _USER_PAGE | _ACCESSED
        if paging == "pae" and level == 0:
            rights = _PRESENT
        memory[table : table + size] = (table + PAGE | rights).to_bytes(size, "little")
        table += PAGE
    for number in range(MEMORY_SIZE // PAGE):
        entry = _page_entry(number * PAGE, wide)
        memory[table + number * size : table + (number + 1) * size] = entry.to_bytes(size, "little")


def template(mode: Mode) -> bytes:
    """All of memory as every case of a mode finds it, before what the case puts there itself."""
    memory = bytearray([HLT]) * MEMORY_SIZE
    memory[GDT:STUBS] = bytes(STUBS - GDT)
    memory[TABLES : TABLES + 4 * PAGE] = bytes(4 * PAGE)

    def put(address: int, value: int, size: int) -> None:
        memory[address : address + size] = value.to_bytes(size, "little")

    for selector, value in FIXED.items():
        put(GDT + (selector & ~7), value, 8)
    put(GDT + TSS_SELECTOR, descriptor(0x8B, TSS, TSS_LIMIT), 8)
    put(GDT + LDT_SELECTOR, descriptor(0x82, LDT, LDT_ENTRIES * 8 - 1), 8)
    for vector in range(256):
        stub = STUBS + STUB_SIZE * vector
        put(VECTORS + 4 * vector, stub, 4)
        if mode.kind == "long":
            put(IDT + 16 * vector, gate(0x8E, CODE64, stub), 16)
        else:
            put(IDT + 8 * vector, gate(0x8E, CODE32, stub), 8)
    for base in (TSS, OTHER_TSS):
        if mode.kind == "long":
            for i, stack in enumerate((STACK0, STACK1, STACK2)):
                put(base + 4 + 8 * i, stack, 8)
            put(base + 0x24, IST1, 8)
        else:
            for i, stack in enumerate((STACK0, STACK1, STACK2)):
                put(base + 4 + 8 * i, stack, 4)
                put(base + 8 + 8 * i, DATA0, 4)  # right for CPL 0 alone
        put(base + 0x66, IO_BITMAP, 2)
        put(base + TSS_LIMIT, 0xFF, 1)
    if mode.paging:
        _tables(memory, mode.paging)
    return bytes(memory)


def initial_state(mode: Mode) -> MachineState:
    """The registers that every case of a mode starts from."""
    cr0, cr4, efer = CR0_ET | CR0_NE, CR4_OSFXSR, 0
    idt_limit = 0x3FF
    if mode.kind != "real":
        cr0 |= CR0_PE
        idt_limit = 0xFFF if mode.kind == "long" else 0x7FF
    if mode.paging:
        cr0 |= CR0_PG | CR0_WP
        cr4 |= {"two-level": 0, "pae": CR4_PAE, "long": CR4_PAE}[mode.paging]
        if mode.paging != "two-level":
            efer |= EFER_NXE
    if mode.kind == "long":
        efer |= EFER_LME | EFER_LMA | EFER_SCE
    if mode.kind == "real":
        segments = [Segment(0, 0, 0xFFFF, _CODE if i == CS else _DATA) for i in range(6)]
    elif mode.kind == "v86":
        segments = [Segment(0, 0, 0xFFFF, 0xF3) for _ in range(6)]
    else:
        code = {
            (16, 0): CODE16, (16, 3): USER16, (32, 0): CODE32, (32, 3): USER32, (64, 0): CODE64, (64, 3): USER64,
        }[mode.bits, mode.cpl]  # fmt: skip
        data = {(16, 0): DATA16, (16, 3): USER_DATA16}.get((mode.bits, mode.cpl), USER_DATA if mode.cpl else DATA0)
        segments = [loaded(code if i == CS else data, FIXED[code if i == CS else data]) for i in range(6)]
    return MachineState(
        gpr=[0] * 4 + [STACK] + [0] * 11,
        rip=CODE,
        rflags=2 | (VM | 0x3000 if mode.kind == "v86" else 0),
        segments=segments,
        tr=Segment(TSS_SELECTOR, TSS, TSS_LIMIT, 0x8B),
        ldtr=Segment(LDT_SELECTOR, LDT, LDT_ENTRIES * 8 - 1, 0x82),
        gdtr=(GDT, GDT_ENTRIES * 8 - 1),
        idtr=(VECTORS if mode.kind == "real" else IDT, idt_limit),
        cr0=cr0,
        cr2=0,
        cr3=TABLES if mode.paging else 0,
        cr4=cr4,
        efer=efer,
    )
