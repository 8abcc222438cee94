"""The page walks, as native code: legacy two-level, PAE and four-level tables (APM vol. 2, 5.2 and 5.3), and the walks
of nested paging (15.25).

`walk` is the plain one. Under nested paging `nested_walk` translates guest-physical addresses by the host's tables, and
`guest_walk` walks the guest's tables, whose entries it reaches through `nested_walk`.

Accessed and dirty bits are set when the translation succeeds. Every entry read counts as one memory reference, whose
cycles `walk_reference` tells (cpu/walk_memory.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trapgate.arch import layout
from trapgate.arch.paging import (
    ADDRESS_MASK,
    PDPTE_RESERVED,
    PF_I,
    PF_P,
    PF_RSV,
    PF_U,
    PF_W,
    PTE_A,
    PTE_D,
    PTE_G,
    PTE_NX,
    PTE_P,
    PTE_PS,
    PTE_RW,
    PTE_US,
)
from trapgate.arch.registers import CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, EFER_LMA, EFER_NXE
from trapgate.arch.vmcb import EXIT_NPF, NPF_FINAL, NPF_TABLE
from trapgate.cpu.tlb import RIGHT_D, RIGHT_G, RIGHT_NX, RIGHT_U, RIGHT_W
from trapgate.isa.ir import Emitter, Value, Variable

PAGE_FAULT = 14
#: What the fault vector field holds for a nested page fault; the error is then EXITINFO1, the address EXITINFO2.
NESTED_PAGE_FAULT = EXIT_NPF
#: In the access of a nested walk: it is made for a fetch, whose side counts the references.
FOR_FETCH = 1 << 34
#: In a tag of the page walk cache or the nested TLB: the entry came from nested tables (cpu/walk_cache.py).
FROM_NESTED = 1 << 62
#: The kind of a reference that the page walk cache does not hold (cpu/walk_memory.py).
LAST_LEVEL = -1
_SMALL, _LARGE_2M, _LARGE_4M, _LARGE_1G = 4 << 10, 2 << 20, 4 << 20, 1 << 30


class NativeFunction:
    """A native helper function being written: `state` is its first argument."""

    def __init__(self, name: str, result: str, arguments: tuple[tuple[str, str], ...], declarations: set[str]) -> None:
        self.emit = Emitter(declarations)
        self.state = Value(self.emit, "%state", "ptr", 0)
        text = "".join(f", {type_} %{argument}" for type_, argument in arguments)
        self._header = f"define {result} @{name}(ptr noalias %state{text}) #0"

    def argument(self, name: str, type_: str = "i64") -> Value:
        """An argument by name."""
        return Value(self.emit, f"%{name}", type_, 64 if type_ == "i64" else 0)

    def field(self, offset: int | Value, width: int = 64) -> Value:
        """A field of the state block."""
        return self.emit.load(width, self.emit.offset(self.state, offset))

    def set_field(self, offset: int | Value, value: Value | int, width: int = 64) -> None:
        """Write a field of the state block."""
        v = value if isinstance(value, Value) else self.emit.constant(value, width)
        self.emit.store(v, self.emit.offset(self.state, offset))

    def add_to_field(self, offset: int, amount: Value | int) -> None:
        """Add to a field of the state block."""
        self.set_field(offset, self.field(offset) + amount)

    def flag(self, offset: int, mask: int) -> Value:
        """Whether any bit of `mask` is set in a field (i1)."""
        return (self.field(offset) & mask).ne(0)

    def text(self) -> str:
        """The function's LLVM assembly."""
        return self.emit.text(self._header)


class _Tables(NamedTuple):
    """Whose tables a walk follows: fields of the state block, and where the entries are."""

    cr3: int
    cr4: int
    efer: int
    #: The table's addresses are guest-physical: a nested walk translates them.
    guest: bool = False
    #: Nested tables: always walked for a user, write-protected, faults leave for the host.
    nested: bool = False

    @property
    def pdptes_in_memory(self) -> bool:
        """Under nested paging PAE's first level is read by each walk (APM vol. 2, 15.25.10); else from registers."""
        return self.guest or self.nested


_PLAIN = _Tables(layout.CR3, layout.CR4, layout.EFER)
_GUEST = _Tables(layout.CR3, layout.CR4, layout.EFER, guest=True)
_NESTED = _Tables(layout.NESTED_CR3, layout.HOST_CR4, layout.HOST_EFER, nested=True)
_ARGUMENTS = (("i64", "linear"), ("i64", "access"))


def emit_walks(declarations: set[str]) -> list[str]:
    """`@walk`, `@guest_walk`, `@nested_walk`."""
    return [emit_walk(declarations), emit_guest_walk(declarations), emit_nested_walk(declarations)]


def emit_walk(declarations: set[str]) -> str:
    """`i64 @walk(state, linear, access)`: 1 and the WALK_ fields set, or 0 and the fault fields set.

    `access` has the bits of a page-fault error code (PF_W, PF_U, PF_I). The caller counts the miss; the references go
    to the counter of the side that the access belongs to.
    """
    f = NativeFunction("walk", "i64", _ARGUMENTS, declarations)
    walk = _Walk(f, _PLAIN)
    walk.all_formats()
    walk.end()
    return f.text()


def emit_guest_walk(declarations: set[str]) -> str:
    """`i64 @guest_walk(state, linear, access)`: as `@walk`, in a guest with nested paging (APM vol. 2, 15.25).

    WALK_PAGE is host-physical. WALK_MASK is that of the smaller page (15.25.11). Of the rights, U, W and G are the
    guest's; NX is the OR of both tables'; D is set when a write needs no other walk: dirty in both, and writable
    in the nested table. A nested page fault can take the place of the guest's own.

    With paging off in the guest the linear address is the guest-physical one.
    """
    f = NativeFunction("guest_walk", "i64", _ARGUMENTS, declarations)
    walk = _Walk(f, _GUEST)
    e = f.emit
    unpaged, paged = e.new_label("unpaged"), e.new_label("paged")
    e.branch(f.flag(layout.CR0, CR0_PG), paged, unpaged)
    e.label(unpaged)
    walk.page.set(walk.linear & -_LARGE_2M)
    walk.mask.set(-_LARGE_2M)
    walk.leaf.set(PTE_A | PTE_D)
    e.jump(walk.final)
    e.label(paged)
    walk.all_formats()
    walk.end()
    return f.text()


def emit_nested_walk(declarations: set[str]) -> str:
    """`i64 @nested_walk(state, linear, access)`: `linear` is guest-physical; 1 and the WALK_ fields (host-physical
    page, at most 2 MB), or 0 and the fault fields: vector NESTED_PAGE_FAULT, EXITINFO1 and EXITINFO2 (APM vol. 2,
    15.25.6).

    `access` has PF_W and PF_I, NPF_FINAL or NPF_TABLE, and FOR_FETCH. The tables are in the host's format; the access
    is a user's, and CR0.WP plays no part (15.25.5). An address that the host's format has no bits for (4 GB and up
    outside long mode) is not present (assumed). The references count as the walk's, and as nested ones too.
    """
    f = NativeFunction("nested_walk", "i64", _ARGUMENTS, declarations)
    walk = _Walk(f, _NESTED)
    e = f.emit
    width = f.flag(_NESTED.efer, EFER_LMA).select(e.constant(48, 64), e.constant(32, 64))
    walk.fault_if((walk.linear >> width).ne(0), 0)
    is_table = (walk.access & NPF_TABLE).ne(0) & f.field(layout.NESTED_TLB_SIZE).ne(0)
    with e.when(is_table), e.when(e.call("@nested_tlb_find", "i64", [f.state, walk.linear]).ne(0)):
        e.ret(1)
    walk.all_formats()
    walk.end(lambda: walk.fill_nested_tlb(is_table))
    return f.text()


class _Walk:
    """The state of a walk while its code is written."""

    def __init__(self, f: NativeFunction, tables: _Tables) -> None:
        self.f, self.e, self.tables = f, f.emit, tables
        e = f.emit
        self.linear, self.access = f.argument("linear"), f.argument("access")
        self.table: Variable = e.variable(0)
        self.rights: Variable = e.variable(RIGHT_W | RIGHT_U)
        self.references: Variable = e.variable(0)
        #: Modelled cycles of them.
        self.stall: Variable = e.variable(0)
        self.error: Variable = e.variable(0)
        self.leaf: Variable = e.variable(0)
        self.leaf_place: Variable = e.variable(0)
        self.leaf_bits: Variable = e.variable(0)
        self.page: Variable = e.variable(0)
        self.mask: Variable = e.variable(0)
        # (entry, place) of upper levels, to set their accessed bits at the end; those not used need none set.
        self.uppers = [(e.variable(PTE_A), e.variable(0), e.variable(0)) for _ in range(4)]
        self.fail, self.found = e.new_label("fail"), e.new_label("found")
        self.final, self.leave = e.new_label("final"), e.new_label("leave")

    def all_formats(self) -> None:
        """The three formats; each ends in `found` or `fail`."""
        e, f, tables = self.e, self.f, self.tables
        pae, legacy = e.new_label("pae"), e.new_label("legacy")
        long_mode, three = e.new_label("long"), e.new_label("three")
        e.branch(f.flag(tables.cr4, CR4_PAE), pae, legacy)
        e.label(pae)
        e.branch(f.flag(tables.efer, EFER_LMA), long_mode, three)

        e.label(long_mode)
        self.table.set(f.field(tables.cr3) & ADDRESS_MASK)
        self.level(3, entry_bits=64)
        self.level(2, entry_bits=64, large=_LARGE_1G)
        self.level(1, entry_bits=64, large=_LARGE_2M)
        self.level(0, entry_bits=64)

        e.label(three)
        index = (self.linear >> 30) & 3
        if tables.pdptes_in_memory:
            pdpte = self._read((f.field(tables.cr3) & 0xFFFF_FFE0) + index * 8)[0]
        else:
            pdpte = f.field(index * 8 + layout.PDPTE)
        self.fault_if((pdpte & PTE_P).eq(0), 0)
        if tables.pdptes_in_memory:
            # Else MOV CR3 has checked them.
            self.fault_if((pdpte & (f.field(layout.RESERVED_BITS) | PDPTE_RESERVED)).ne(0), PF_P | PF_RSV)
        self.table.set(pdpte & ADDRESS_MASK)
        self.level(1, entry_bits=64, large=_LARGE_2M)
        self.level(0, entry_bits=64)

        e.label(legacy)
        self.table.set(f.field(tables.cr3) & 0xFFFF_F000)
        self.level(1, entry_bits=32, large=_LARGE_4M)
        self.level(0, entry_bits=32)

    def _read(self, place: Value, upper: bool = True) -> tuple[Value, Value]:
        """(the entry at an address of the tables' owner, its host-physical address); `upper`: not of the last level."""
        e, f = self.e, self.f
        if self.tables.guest:
            access = e.constant(PF_W | PF_U | NPF_TABLE, 64) | self._for_fetch()
            self._nested_walk(place, access)
            place = f.field(layout.WALK_PAGE) | (place & ~f.field(layout.WALK_MASK))
        elif not self.tables.nested:
            place = place & f.field(layout.A20_MASK)
        self.references.set(self.references.get() + 1)
        kind = FROM_NESTED if self.tables.nested else 0 if upper else LAST_LEVEL
        cycles = e.call("@walk_reference", "i64", [f.state, place, e.constant(kind, 64)])
        self.stall.set(self.stall.get() + cycles)
        return e.call("@read_entry", "i64", [f.state, place]), place

    def _for_fetch(self) -> Value:
        return (self.access & PF_I).ne(0).select(self.e.constant(FOR_FETCH, 64), self.e.constant(0, 64))

    def _nested_walk(self, guest_physical: Value, access: Value) -> None:
        """Translate, or leave with the nested page fault."""
        e = self.e
        done = e.new_label("reached")
        walked = e.call("@nested_walk", "i64", [self.f.state, guest_physical, access])
        e.branch(walked.eq(0), self.leave, done, likely=False)
        e.label(done)

    def fault_if(self, condition: Value, error: int) -> None:
        e = self.e
        self.error.set(error)
        go_on = e.new_label("present")
        e.branch(condition, self.fail, go_on, likely=False)
        e.label(go_on)

    def level(self, number: int, entry_bits: int, large: int = 0) -> None:
        """One level; a level that can hold a large page may jump to `found`; level 0 always does."""
        e, f = self.e, self.f
        size = entry_bits // 8
        index_bits = 9 if entry_bits == 64 else 10
        index = (self.linear >> (12 + index_bits * number)) & ((1 << index_bits) - 1)
        entry, place = self._read(self.table.get() + index * size, upper=number != 0)
        if entry_bits == 32:
            # A 32-bit entry at an address that is 4 modulo 8 is the upper half of what was read.
            entry = entry & 0xFFFF_FFFF
        self.fault_if((entry & PTE_P).eq(0), 0)
        is_large: Value | None = None
        if large:
            is_large = (entry & PTE_PS).ne(0)
            if entry_bits == 32:
                is_large = is_large & f.flag(self.tables.cr4, CR4_PSE)
        self._check_reserved(number, entry, entry_bits, large, is_large)
        rights = self.rights.get()
        rights = (rights & ~(RIGHT_W | RIGHT_U)) | (rights & ((entry >> 1) & (RIGHT_W | RIGHT_U)))
        if entry_bits == 64:
            rights = rights | ((entry >> 61) & RIGHT_NX)
        self.rights.set(rights)
        if number == 0:
            self._leaf(entry, place, entry_bits, _SMALL)
            return
        if is_large is not None:
            small = e.new_label("table")
            leaf = e.new_label("large")
            e.branch(is_large, leaf, small)
            e.label(leaf)
            self._leaf(entry, place, entry_bits, large)
            e.label(small)
        kept_entry, kept_place, kept_bits = self.uppers[number]
        kept_entry.set(entry)
        kept_place.set(place)
        kept_bits.set(entry_bits)
        self.table.set(entry & (ADDRESS_MASK if entry_bits == 64 else 0xFFFF_F000))

    def _check_reserved(self, number: int, entry: Value, entry_bits: int, large: int, is_large: Value | None) -> None:
        e, f = self.e, self.f
        if entry_bits == 32:
            if is_large is not None:
                # PSE-36: bits 20:13 are physical address bits 39:32, bit 21 is reserved (APM vol. 2, 5.2.2).
                self.fault_if(is_large & (entry & f.field(layout.RESERVED_IN_4MB)).ne(0), PF_P | PF_RSV)
            return
        reserved = f.field(layout.RESERVED_BITS)
        # NX is reserved while EFER.NXE is 0.
        nx_enabled = f.flag(self.tables.efer, EFER_NXE)
        reserved = reserved | nx_enabled.select(e.constant(0, 64), e.constant(PTE_NX, 64))
        # Bits 62:52 are the system's to use in long mode only (APM vol. 2, 5.2.3 and 5.3.3).
        long_mode = f.flag(self.tables.efer, EFER_LMA)
        reserved = reserved | long_mode.select(e.constant(0, 64), e.constant(0x7FF << 52, 64))
        if is_large is not None:
            low = (large - 1) & ~0x1FFF  # bit 12 is PAT
            reserved = reserved | is_large.select(e.constant(low, 64), e.constant(0, 64))
            if number == 2:
                reserved = reserved | f.field(layout.RESERVED_IN_PDPTE)
        elif number == 3:
            reserved = reserved | PTE_PS  # APM vol. 2, 5.3.1: PML4E bit 7 must be 0
        self.fault_if((entry & reserved).ne(0), PF_P | PF_RSV)

    def _leaf(self, entry: Value, place: Value, entry_bits: int, size: int) -> None:
        e = self.e
        self.leaf.set(entry)
        self.leaf_place.set(place)
        self.leaf_bits.set(entry_bits)
        base = entry & (ADDRESS_MASK & ~(size - 1))
        if size == _LARGE_4M:
            base = (entry & 0xFFC0_0000) | (((entry >> 13) & 0xFF) << 32)
        if size > _LARGE_2M:
            # Held as one 2 MB piece.
            base = base | (self.linear & ((size - 1) & ~(_LARGE_2M - 1)))
        self.page.set(base)
        self.mask.set(-min(size, _LARGE_2M))
        e.jump(self.found)

    def fill_nested_tlb(self, wanted: Value) -> None:
        """Take the result into the nested TLB."""
        with self.e.when(wanted):
            self.e.call_void("@nested_tlb_fill", [self.f.state, self.linear])

    def end(self, then: Callable[[], None] = lambda: None) -> None:
        """The code behind `found` and `fail`; `then` writes what a success does last."""
        e, f = self.e, self.f
        e.label(self.found)
        self._check_rights()
        self._set_accessed_and_dirty()
        if self.tables.guest:
            e.jump(self.final)
            self._translate_final()
        else:
            f.set_field(layout.WALK_PAGE, self.page.get())
            f.set_field(layout.WALK_MASK, self.mask.get())
            f.set_field(layout.WALK_RIGHTS, self.rights.get() | self._flags())
        self._count()
        then()
        e.ret(1)

        e.label(self.fail)
        # The I bit is reported only while NX is enabled, which needs PAE (APM vol. 2, 8.4.2).
        nx = f.flag(self.tables.efer, EFER_NXE) & f.flag(self.tables.cr4, CR4_PAE)
        reported = PF_W | PF_U | (NPF_FINAL | NPF_TABLE if self.tables.nested else 0)
        seen = self.access & nx.select(e.constant(reported | PF_I, 64), e.constant(reported, 64))
        f.set_field(layout.FAULT_VECTOR, NESTED_PAGE_FAULT if self.tables.nested else PAGE_FAULT)
        f.set_field(layout.FAULT_ERROR, self.error.get() | seen | (PF_U if self.tables.nested else 0))
        f.set_field(layout.FAULT_ADDRESS, self.linear)
        e.jump(self.leave)
        e.label(self.leave)
        self._count()
        e.ret(0)

    def _check_rights(self) -> None:
        f, access, rights = self.f, self.access, self.rights.get()
        write, fetch = (access & PF_W).ne(0), (access & PF_I).ne(0)
        not_user, read_only = (rights & RIGHT_U).eq(0), (rights & RIGHT_W).eq(0)
        if self.tables.nested:
            denied = not_user | (write & read_only)
        else:
            user = (access & PF_U).ne(0)
            denied = (user & not_user) | (write & read_only & (user | f.flag(layout.CR0, CR0_WP)))
        self.fault_if(denied | (fetch & (rights & RIGHT_NX).ne(0)), PF_P)

    def _set_accessed_and_dirty(self) -> None:
        e = self.e
        for entry, place, bits in self.uppers:
            with e.when((entry.get() & PTE_A).eq(0)):
                self._store(place.get(), entry.get() | PTE_A, bits.get())
        leaf = self.leaf.get()
        write = (self.access & PF_W).ne(0)
        dirty = write.select(e.constant(PTE_A | PTE_D, 64), e.constant(PTE_A, 64))
        with e.when((leaf & dirty).ne(dirty)):
            self._store(self.leaf_place.get(), leaf | dirty, self.leaf_bits.get())
        self.leaf.set(leaf | dirty)

    def _flags(self) -> Value:
        """RIGHT_G and RIGHT_D of the leaf."""
        e, leaf = self.e, self.leaf.get()
        is_dirty = (leaf & PTE_D).ne(0).select(e.constant(RIGHT_D, 64), e.constant(0, 64))
        if self.tables.nested:
            return is_dirty  # the nested tables' G bit means nothing
        is_global = (leaf & PTE_G).ne(0) & self.f.flag(self.tables.cr4, CR4_PGE)
        return is_dirty | is_global.select(e.constant(RIGHT_G, 64), e.constant(0, 64))

    def _translate_final(self) -> None:
        """From the guest-physical page to the host-physical one; the WALK_ fields of both together."""
        e, f, access, mask = self.e, self.f, self.access, self.mask
        e.label(self.final)
        guest_physical = self.page.get() | (self.linear & ~mask.get())
        self._nested_walk(guest_physical, (access & (PF_W | PF_I)) | PF_U | NPF_FINAL | self._for_fetch())
        nested_mask, nested_rights = f.field(layout.WALK_MASK), f.field(layout.WALK_RIGHTS)
        host_physical = f.field(layout.WALK_PAGE) | (guest_physical & ~nested_mask)
        # The smaller page's mask has more ones.
        smaller = mask.get() | nested_mask
        f.set_field(layout.WALK_MASK, smaller)
        f.set_field(layout.WALK_PAGE, host_physical & smaller)
        needs_no_walk = (nested_rights & (RIGHT_D | RIGHT_W)).eq(RIGHT_D | RIGHT_W)
        kept = needs_no_walk.select(e.constant(-1, 64), e.constant(~RIGHT_D, 64))
        rights = (self.rights.get() | self._flags()) & kept
        f.set_field(layout.WALK_RIGHTS, rights | (nested_rights & RIGHT_NX))

    def _store(self, place: Value, entry: Value, bits: Value) -> None:
        self.e.call_void("@write_entry", [self.f.state, place, entry, bits])

    def _count(self) -> None:
        e, f = self.e, self.f
        references = self.references.get()
        f.add_to_field(layout.STALL, self.stall.get())
        fetch = (self.access & (PF_I | FOR_FETCH if self.tables.nested else PF_I)).ne(0)
        for what in ("walk_references", "nested_references") if self.tables.nested else ("walk_references",):
            place = fetch.select(
                e.constant(layout.counter(f"itlb_{what}"), 64), e.constant(layout.counter(f"dtlb_{what}"), 64)
            )
            f.set_field(place, f.field(place) + references)


# `level` moves the bits of an entry to those of the rights with one shift.
assert PTE_RW == RIGHT_W << 1
assert PTE_US == RIGHT_U << 1


def emit_entry_access(declarations: set[str]) -> str:
    """`@read_entry` and `@write_entry`: page-table entries in RAM, by host-physical address (A20 has been masked).

    An entry outside RAM reads as all ones, as an open bus does. 64 bits are read wherever the entry ends before its
    page does; the caller masks.
    """
    f = NativeFunction("read_entry", "i64", (("i64", "place"),), declarations)
    e, place = f.emit, f.argument("place")
    with e.when(is_ram(f, place) ^ 1, likely=False):
        e.ret(-1)
    host = e.pointer(f.field(layout.RAM_BASE) + place)
    last = (place & 0xFFF).eq(0xFFC)
    with e.when(last, likely=False):
        e.ret(e.load(32, host, 4).zext(64))
    e.ret(e.load(64, host, 4))
    read = f.text()

    f = NativeFunction("write_entry", "void", (("i64", "place"), ("i64", "value"), ("i64", "bits")), declarations)
    e, place = f.emit, f.argument("place")
    with e.when(is_ram(f, place) ^ 1, likely=False):
        e.ret_void()
    code = e.load(64, e.pointer(f.field(layout.CODE_MAP) + (place >> 12) * 8))
    with e.when(code.ne(0), likely=False):
        e.call_void("@drop_code", [f.state, place, e.constant(8, 64)])
    host = e.pointer(f.field(layout.RAM_BASE) + place)
    with e.when(f.argument("bits").eq(32)):
        e.store(f.argument("value").trunc(32), host, 4)
        e.ret_void()
    e.store(f.argument("value"), host, 4)
    e.ret_void()
    return read + "\n" + f.text()


def is_ram(f: NativeFunction, physical: Value) -> Value:
    """Whether the page of a guest-physical address is RAM (i1)."""
    e = f.emit
    page = physical >> 12
    inside = page.ult(f.field(layout.PAGE_COUNT))
    safe = inside.select(page, e.constant(0, 64))
    return inside & e.load(8, e.pointer(f.field(layout.PAGE_KIND) + safe)).ne(0)
