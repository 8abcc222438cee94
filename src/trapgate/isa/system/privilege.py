"""Changes of privilege in 64-bit mode as native code: SYSCALL, SYSRET, IRETQ (APM vol. 3), and what they share with the
delivery of page faults (cpu/native_delivery.py).

Only the usual case is here: flat 64-bit code at CPL 0 and 3, descriptors that were accessed before, nobody who must
see the change (layout.PRIVILEGES_VALID). Everything else goes to the plain Python forms with nothing written.
"""

from __future__ import annotations

from typing import Protocol

from trapgate.arch import layout
from trapgate.arch.registers import (
    AC,
    CS,
    DS,
    EFER_SCE,
    ES,
    FS,
    GS,
    IF,
    IOPL,
    NT,
    RCX,
    RF,
    RFLAGS_ONE,
    SS,
    SYSTEM_FLAGS,
    TF,
    VM,
)
from trapgate.arch.segments import (
    ATTRIBUTE_A,
    ATTRIBUTE_CODE,
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_DPL,
    ATTRIBUTE_G,
    ATTRIBUTE_L,
    ATTRIBUTE_P,
    ATTRIBUTE_RW,
    ATTRIBUTE_S,
    CODE_ACCESSED,
    DATA_RW_ACCESSED,
    DPL_SHIFT,
)
from trapgate.isa.context import Context, semantics
from trapgate.isa.ir import Emitter, Value

_FLAT_LIMIT = 0xFFFF_FFFF


class Holder(Protocol):
    """Code that works on the state block: a semantic function's context, or a native helper function."""

    emit: Emitter

    def field(self, offset: int, width: int = 64) -> Value: ...


def set_field(h: Holder, state: Value, offset: int, value: Value | int) -> None:
    """Write a field of the state block."""
    e = h.emit
    e.store(value if isinstance(value, Value) else e.constant(value, 64), e.offset(state, offset))


def enter_privilege(h: Holder, state: Value, user: bool) -> None:
    """CPL 3 or 0, and the tables that are in use there."""
    record = layout.PRIVILEGES + layout.PRIVILEGE_SIZE * user
    for i, place in enumerate((layout.DTLB, layout.ITLB, layout.JUMP_CACHE)):
        set_field(h, state, place, h.field(record + 8 * i))
    set_field(h, state, layout.USER, 4 if user else 0)
    set_field(h, state, layout.CPL, 3 if user else 0)


def attributes_of(descriptor: Value) -> Value:
    """Attributes of an 8-byte descriptor (arch/segments.py)."""
    return ((descriptor >> 40) & 0xFF) | ((descriptor >> 44) & 0xF00)


def _limit_of(h: Holder, descriptor: Value) -> Value:
    limit = (descriptor & 0xFFFF) | ((descriptor >> 32) & 0xF_0000)
    return (attributes_of(descriptor) & ATTRIBUTE_G).ne(0).select((limit << 12) | 0xFFF, limit)


def _base_of(descriptor: Value) -> Value:
    return ((descriptor >> 16) & 0xFF_FFFF) | ((descriptor >> 32) & 0xFF00_0000)


def load_segment(
    h: Holder,
    state: Value,
    number: int,
    selector: Value,
    base: Value | int,
    limit: Value | int,
    attributes: Value | int,
    high_read: Value | int,
    high_write: Value | int,
) -> None:
    """A segment register and its hidden part; the highest offsets for reads and writes as cpu/state.py derives them."""
    place = layout.segment(number)
    for offset, value in (
        (layout.selector(number), selector), (layout.limit(number), limit), (layout.attributes(number), attributes),
        (place + layout.SEGMENT_BASE, base), (place + layout.SEGMENT_LOW, 0),
        (place + layout.SEGMENT_HIGH_READ, high_read), (place + layout.SEGMENT_HIGH_WRITE, high_write),
    ):  # fmt: skip
        set_field(h, state, offset, value)
    set_field(h, state, layout.SEGMENT_LOADS, h.field(layout.SEGMENT_LOADS) + 1)


def is_long_code(descriptor: Value, dpl: Value | int) -> Value:
    """Whether a descriptor is that of a present, accessed, nonconforming 64-bit code segment of that DPL (i1)."""
    looked_at = (
        ATTRIBUTE_P
        | ATTRIBUTE_S
        | ATTRIBUTE_CODE
        | ATTRIBUTE_DC
        | ATTRIBUTE_A
        | ATTRIBUTE_L
        | ATTRIBUTE_DB
        | ATTRIBUTE_DPL
    )
    wanted = ATTRIBUTE_P | ATTRIBUTE_S | ATTRIBUTE_CODE | ATTRIBUTE_A | ATTRIBUTE_L
    return (attributes_of(descriptor) & looked_at).eq((dpl << DPL_SHIFT) | wanted)


def load_long_code(h: Holder, state: Value, selector: Value, descriptor: Value) -> None:
    """CS from a descriptor that `is_long_code`; `selector` has the CPL in its low bits."""
    limit, attributes = _limit_of(h, descriptor), attributes_of(descriptor)
    readable = (attributes & ATTRIBUTE_RW).ne(0)
    none = h.emit.constant(-1, 64)
    load_segment(h, state, CS, selector, _base_of(descriptor), limit, attributes, readable.select(limit, none), none)
    set_field(h, state, layout.CODE_DESCRIPTOR, descriptor)


def is_data(descriptor: Value, rpl: Value) -> Value:
    """Whether code at CPL 0 may load a descriptor with that RPL, and it is that of a present, accessed data segment
    that does not expand down (i1; APM vol. 2, 4.10.2: its DPL is not below the RPL)."""
    looked_at = ATTRIBUTE_P | ATTRIBUTE_S | ATTRIBUTE_CODE | ATTRIBUTE_DC | ATTRIBUTE_A
    attributes = attributes_of(descriptor)
    is_usual = (attributes & looked_at).eq(ATTRIBUTE_P | ATTRIBUTE_S | ATTRIBUTE_A)
    return is_usual & rpl.ule((attributes & ATTRIBUTE_DPL) >> DPL_SHIFT)


def load_data(h: Holder, state: Value, number: int, selector: Value, descriptor: Value) -> None:
    """A data segment register from a descriptor that `is_data`."""
    limit, attributes = _limit_of(h, descriptor), attributes_of(descriptor)
    writable = (attributes & ATTRIBUTE_RW).ne(0)
    none = h.emit.constant(-1, 64)
    base = _base_of(descriptor)
    load_segment(h, state, number, selector, base, limit, attributes, limit, writable.select(limit, none))


def _load_flat(c: Context, cs: Value, ss: Value, cpl: int) -> None:
    """CS and SS as SYSCALL and SYSRET load them, without looking at descriptors; SYSRET leaves SS's hidden part."""
    attributes = CODE_ACCESSED | ATTRIBUTE_L | ATTRIBUTE_G | cpl << DPL_SHIFT
    load_segment(c, c.state, CS, cs, 0, _FLAT_LIMIT, attributes, _FLAT_LIMIT, -1)
    set_field(c, c.state, layout.CODE_DESCRIPTOR, -1)
    if cpl == 0:
        attributes = DATA_RW_ACCESSED | ATTRIBUTE_DB | ATTRIBUTE_G
        load_segment(c, c.state, SS, ss, 0, _FLAT_LIMIT, attributes, _FLAT_LIMIT, _FLAT_LIMIT)
    else:
        set_field(c, c.state, layout.selector(SS), ss)
        set_field(c, c.state, layout.attributes(SS), c.field(layout.attributes(SS)) | ATTRIBUTE_DPL)


def _cannot_call(c: Context) -> Value:
    """No system call here, or not by native code (i1)."""
    return c.field(layout.PRIVILEGES_VALID).eq(0) | (c.field(layout.EFER) & EFER_SCE).eq(0)


def _matters_at_cpl3(flags: Value) -> Value:
    """Flags that make code at CPL 3 another code: traps, alignment checks, ports (i1)."""
    return (flags & (TF | AC)).ne(0) | (flags & IOPL).eq(IOPL)


@semantics("syscall_long", ends_block=True)
def syscall_long(c: Context) -> None:
    """SYSCALL at CPL 3 in 64-bit mode."""
    old = c.field(layout.SYSTEM_FLAGS)
    c.plain_python_if(_cannot_call(c) | (old & TF).ne(0))
    flags = ((old & SYSTEM_FLAGS) | c.flags.bits() | RFLAGS_ONE) & ~RF
    star = c.field(layout.STAR)
    c.set_register(RCX, c.next_ip())
    c.set_register(11, flags)
    new = flags & ~c.field(layout.SFMASK)
    c.set_field(layout.SYSTEM_FLAGS, new & SYSTEM_FLAGS)
    c.flags.set_bits(new)
    # The stack's selector keeps the low bits of STAR, the code's does not (APM vol. 3, SYSCALL: SYSCALL_CS + 8).
    _load_flat(c, (star >> 32) & 0xFFFC, ((star >> 32) + 8) & 0xFFFF, 0)
    enter_privilege(c, c.state, user=False)
    c.goto_address(c.field(layout.LSTAR))


@semantics("sysretq_long", ends_block=True)
def sysretq_long(c: Context) -> None:
    """SYSRET with a 64-bit operand size at CPL 0 in 64-bit mode."""
    flags = c.register(11, 64)
    waits = (flags & IF).ne(0) & c.field(layout.INTERRUPT_PENDING).ne(0)
    traced = (c.field(layout.SYSTEM_FLAGS) & TF).ne(0)
    c.plain_python_if(_cannot_call(c) | _matters_at_cpl3(flags) | waits | traced)
    c.set_field(layout.SYSTEM_FLAGS, flags & (SYSTEM_FLAGS & ~(RF | VM)))
    c.flags.set_bits(flags)
    upper = c.field(layout.STAR) >> 48
    _load_flat(c, ((upper | 3) + 16) & 0xFFFF, ((upper + 8) | 3) & 0xFFFF, 3)
    enter_privilege(c, c.state, user=True)
    # AMD checks the address where it is used, in user mode (APM vol. 3, SYSRET).
    c.goto_address(c.register(RCX, 64))


def _keeps_data_segments(c: Context) -> Value:
    """No data segment has a DPL below 3, which would have to become null at CPL 3 (APM vol. 2, 4.11.2; i1)."""
    keeps = c.emit.constant(1, 1)
    for number in (ES, DS, FS, GS):
        attributes = c.field(layout.attributes(number))
        conforming = ATTRIBUTE_CODE | ATTRIBUTE_DC
        usable = (attributes & ATTRIBUTE_P).eq(0) | (attributes & ATTRIBUTE_DPL).eq(ATTRIBUTE_DPL)
        keeps = keeps & (usable | (attributes & conforming).eq(conforming))
    return keeps


@semantics("iretq_within", ends_block=True)
def iretq_within(c: Context) -> None:
    """IRETQ at CPL 0 in 64-bit mode, to 64-bit code at CPL 0 or 3 (APM vol. 3, IRET).

    Anything else (a null CS, the LDT, NT, TF, VM, the end of an NMI's handler) is left to Python.
    """
    e = c.emit
    old = c.field(layout.SYSTEM_FLAGS)
    c.plain_python_if((old & NT).ne(0))  # #GP(0), before the stack is looked at
    pointer = c.stack_pointer()
    # The order of accesses is Python's: it decides what the TLB replaces.
    rip, selector, flags = (c.stack_load(pointer + 8 * i, 64) for i in range(3))
    selector = selector & 0xFFFF
    rpl, limit = selector & 3, c.field(layout.GDTR_LIMIT)
    user = rpl.eq(3)
    good = (user | rpl.eq(0)) & (selector & 0xFFFC).ne(0) & (selector & 4).eq(0) & (selector | 7).ule(limit)
    good = good & (flags & (NT | VM | TF)).eq(0) & rip.eq(rip.trunc(48).sext(64))
    good = good & c.field(layout.NMI_BLOCKED).eq(0)
    waits = (flags & IF).ne(0) & c.field(layout.INTERRUPT_PENDING).ne(0)
    to_user = _keeps_data_segments(c) & c.field(layout.PRIVILEGES_VALID).ne(0) & ((_matters_at_cpl3(flags) | waits) ^ 1)
    c.plain_python_if((good & (to_user | (user ^ 1))) ^ 1)
    table = c.field(layout.GDTR_BASE)
    code = c.load_system(table + (selector & 0xFFF8), 64)
    c.plain_python_if(is_long_code(code, rpl) ^ 1)
    new_pointer, stack = (c.stack_load(pointer + 8 * i, 64) for i in (3, 4))
    stack = stack & 0xFFFF
    null_stack = (stack & 0xFFFC).eq(0)
    good = (stack & 3).eq(rpl) & ((null_stack & user) ^ 1) & (stack & 4).eq(0) & (stack | 7).ule(limit)
    c.plain_python_if(good ^ 1)
    # A null SS has no descriptor: the code's is read once more.
    data = c.load_system(table + (null_stack.select(selector, stack) & 0xFFF8), 64)
    writable = DATA_RW_ACCESSED
    looked_at = writable | ATTRIBUTE_CODE | ATTRIBUTE_DC | ATTRIBUTE_DPL
    is_stack = (attributes_of(data) & looked_at).eq((rpl << DPL_SHIFT) | writable)
    c.plain_python_if((is_stack | null_stack) ^ 1)
    load_long_code(c, c.state, selector, code)
    zero, none = e.constant(0, 64), e.constant(-1, 64)
    high = _limit_of(c, data)
    load_segment(
        c, c.state, SS, stack, null_stack.select(zero, _base_of(data)), null_stack.select(zero, high),
        null_stack.select(zero, attributes_of(data)), null_stack.select(none, high), null_stack.select(none, high),
    )  # fmt: skip
    # RF only matters to instruction breakpoints; while there are some, IRETQ is Python's.
    c.set_field(layout.SYSTEM_FLAGS, flags & SYSTEM_FLAGS & ~RF)
    c.flags.set_bits(flags)
    c.set_stack_pointer(new_pointer)
    with e.when(user):
        enter_privilege(c, c.state, user=True)
    c.leave_if(waits)
    c.goto_address(rip)
