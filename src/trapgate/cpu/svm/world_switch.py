"""The part of VMRUN and #VMEXIT that only moves data, as native code (APM vol. 2, 15.5 and 15.6).

A hypervisor mostly goes back into the guest that it comes from, and changes little in the VMCB. So the processor keeps
two copies: of what VMRUN has checked (the control area), and of what #VMEXIT has stored (the state save area) as long
as it still has that guest's state. VMRUN reads the VMCB each time and compares: what is the same need not be
checked or worked out again. Nothing is taken on trust, clean bits included: anybody may write to a VMCB.

A host that the processor runs itself needs its registers back at #VMEXIT: then the fields of the state block that a
switch changes are exchanged, those of the host for those of its last guest.

Fields that begin with WORLD (arch/layout.py) are arguments: the VMCB's place, and what plain Python alone knows: debug
registers and PAT.
"""

from __future__ import annotations

from trapgate.arch import layout, vmcb
from trapgate.arch.registers import (
    AC,
    ARITHMETIC_FLAGS,
    CR0_PG,
    CR4_PAE,
    EFER_LMA,
    IOPL,
    RAX,
    RF,
    RFLAGS_ONE,
    RFLAGS_WRITABLE,
    RSP,
    SYSTEM_FLAGS,
    TF,
    VM,
)
from trapgate.cpu.walk import NativeFunction
from trapgate.isa.ir import Value

#: What `world_enter` and `world_exchange` return: what of the VMCB is as it was; with SAME_ALL the guest's state has
#: been loaded. EVENT: there is one to inject.
SAME_STATE, SAME_CONTROLS, EVENT = 1, 2, 4
SAME_ALL = SAME_STATE | SAME_CONTROLS
#: What `world_run` returns besides the codes of engine/record.py.
EXIT_LEFT_GUEST, NOT_RUN = 64, 128
#: As engine/record.py has them.
EXIT_PYTHON, SLOTS, DISPLACEMENT = 4, 8, 16

Ranges = tuple[tuple[int, int], ...]
#: First offset and end in the VMCB of what is compared. EVENTINJ is looked at each time.
_CONTROLS: Ranges = (
    (0, vmcb.INTERRUPT_SHADOW), (vmcb.NESTED_CONTROL, vmcb.EVENTINJ), (vmcb.N_CR3, vmcb.LBR_CONTROL + 8),
)  # fmt: skip
#: ES to DS, CPL and EFER, CR4 to DR6, G_PAT. What is no part of a mode is loaded each time.
_STATE: Ranges = (
    (vmcb.ES, vmcb.FS), (vmcb.CPL & ~7, vmcb.EFER + 8), (vmcb.CR4, vmcb.RFLAGS), (vmcb.G_PAT, vmcb.G_PAT + 8),
)  # fmt: skip
_SEGMENT_WORDS = (vmcb.FS - vmcb.ES) // 8
#: Changes of these make code another code.
_MODE_FLAGS = VM | IOPL | AC

#: Field of the VMCB -> of the state block: loaded and stored, or only stored.
_MOVED = (
    (vmcb.GDTR + vmcb.SEGMENT_BASE, layout.GDTR_BASE), (vmcb.IDTR + vmcb.SEGMENT_BASE, layout.IDTR_BASE),
    (vmcb.CR2, layout.CR2), (vmcb.RSP, layout.gpr(RSP)), (vmcb.RAX, layout.gpr(RAX)), (vmcb.RIP, layout.RIP),
)  # fmt: skip
_STORED = (
    (vmcb.EFER, layout.EFER), (vmcb.CR4, layout.CR4), (vmcb.CR3, layout.CR3), (vmcb.CR0, layout.CR0),
    (vmcb.DR6, layout.WORLD_DR6), (vmcb.DR7, layout.WORLD_DR7),
)  # fmt: skip
_LIMITS = ((vmcb.GDTR, layout.GDTR_LIMIT), (vmcb.IDTR, layout.IDTR_LIMIT))

#: Fields of the state block that are a host's or a guest's: what VMRUN and #VMEXIT change, and what follows from it.
EXCHANGED: tuple[int, ...] = (
    layout.SYSTEM_FLAGS, layout.FLAG_ZERO, layout.FLAG_SIGN, layout.FLAG_CARRY,
    layout.gpr(RAX), layout.gpr(RSP), layout.RIP,
    *range(layout.segment(0), layout.segment(4), 8), *range(layout.selector(0), layout.selector(4), 8),
    *range(layout.attributes(0), layout.attributes(4), 8), *range(layout.limit(0), layout.limit(4), 8),
    layout.CODE_DESCRIPTOR, layout.STACK_DESCRIPTOR,
    layout.GDTR_BASE, layout.GDTR_LIMIT, layout.IDTR_BASE, layout.IDTR_LIMIT,
    layout.CR0, layout.CR3, layout.CR4, layout.EFER, *range(layout.PDPTE, layout.PDPTE + 32, 8),
    layout.ASID, layout.NESTED, layout.NESTED_CR3, layout.IN_GUEST,
    layout.USER, layout.DTLB, layout.ITLB, layout.CODE_BASE, layout.CODE_LIMIT, layout.CODE_BITS, layout.JUMP_CACHE,
    layout.WATCH_DATA, layout.ALIGNMENT_CHECK,
    layout.CPL, layout.PRIVILEGES_VALID,
    *range(layout.PRIVILEGES, layout.PRIVILEGES + 2 * layout.PRIVILEGE_SIZE, 8), layout.DELIVERS_FAULTS,
)  # fmt: skip
#: RFLAGS of the host, without the arithmetic flags, while its guest runs.
HOST_SYSTEM_FLAGS = layout.WORLD_HOST

assert sum(end - first for first, end in _CONTROLS) <= layout.WORLD_STATE - layout.WORLD_CONTROLS
assert sum(end - first for first, end in _STATE) <= layout.WORLD_FLAGS - layout.WORLD_STATE
assert len(EXCHANGED) * 8 <= layout.WORLD_GUEST - layout.WORLD_HOST


def emit_world_switch(declarations: set[str]) -> list[str]:
    """The functions, of (state) alone:

    - `i64 @world_enter()`: VMRUN for a hypervisor outside; the last guest's state is in the registers still. Returns
      SAME_STATE, SAME_CONTROLS, EVENT; with SAME_ALL the state has been loaded.
    - `i64 @world_exchange()`: the same for a host that the processor runs: its fields are kept. SAME_ALL: they have
      been exchanged for the guest's, whose state has been loaded; there is no event. Else SAME_CONTROLS or 0.
    - `i64 @world_run()`: as `world_enter`, then the guest's code until native code is left, with WORLD_BUDGET. Returns
      why (engine/record.py); or EXIT_LEFT_GUEST when #VMEXIT has been done, too; or NOT_RUN plus what `world_enter`
      says, where plain Python has to look at something first.
    - `i64 @world_round_trip()`: the same for a host that the processor runs, by `world_exchange` and `world_restore`.
    - `void @world_load()`: RIP, RSP, RAX, RFLAGS, CR2 and the descriptor tables from the VMCB.
    - `void @world_accept()`: VMRUN has checked this VMCB's control area.
    - `void @world_save()`: the guest's state to the VMCB, without what few guests have (last branches).
    - `void @world_restore()`: the guest's fields are kept, and the host's are back.
    """
    return [
        _emit_compare(declarations),
        _emit_enter(declarations),
        _emit_exchange(declarations),
        _emit_run("world_run", "@world_enter", False, declarations),
        _emit_run("world_round_trip", "@world_exchange", True, declarations),
        _emit_load(declarations),
        _emit_accept(declarations),
        _emit_save(declarations),
        _emit_restore(declarations),
    ]


def _function(name: str, result: str, declarations: set[str]) -> NativeFunction:
    return NativeFunction(name, result, (), declarations)


def _control_block(f: NativeFunction) -> Value:
    return f.emit.pointer(f.field(layout.RAM_BASE) + f.field(layout.WORLD_VMCB))


def _words(ranges: Ranges, copy: int) -> list[tuple[int, int]]:
    """(offset in the VMCB, offset in the state block) of each word of a copy."""
    offsets = [offset for first, end in ranges for offset in range(first, end, 8)]
    return [(offset, copy + 8 * i) for i, offset in enumerate(offsets)]


def _difference(f: NativeFunction, block: Value, ranges: Ranges, copy: int) -> Value:
    e = f.emit
    difference = e.constant(0, 64)
    for offset, place in _words(ranges, copy):
        difference = difference | (e.load(64, e.offset(block, offset)) ^ f.field(place))
    return difference


def _emit_compare(declarations: set[str]) -> str:
    """`i64 @world_compare(state)`: what `world_enter` returns."""
    f = _function("world_compare", "i64", declarations)
    e = f.emit
    wanted = f.field(layout.WORLD_VMCB) + 1
    block = _control_block(f)
    same = e.variable(0)
    code = e.load(64, e.pointer(f.field(layout.CODE_MAP) + (f.field(layout.WORLD_VMCB) >> 12) * 8))
    with e.when(code.ne(0), likely=False):
        e.ret(0)  # it has to go before #VMEXIT writes there
    with e.when(f.field(layout.WORLD_STATE_OF).eq(wanted)):
        moved = (e.load(64, e.offset(block, vmcb.RFLAGS)) ^ f.field(layout.WORLD_FLAGS)) & _MODE_FLAGS
        with e.when((_difference(f, block, _STATE, layout.WORLD_STATE) | moved).eq(0)):
            same.set(SAME_STATE)
    with e.when(f.field(layout.WORLD_CONTROLS_OF).eq(wanted)):
        with e.when(_difference(f, block, _CONTROLS, layout.WORLD_CONTROLS).eq(0)):
            same.set(same.get() | SAME_CONTROLS)
    event = e.load(64, e.offset(block, vmcb.EVENTINJ)) & vmcb.EVENT_VALID
    with e.when(event.ne(0)):
        same.set(same.get() | EVENT)
    e.ret(same.get())
    return f.text()


def _emit_enter(declarations: set[str]) -> str:
    f = _function("world_enter", "i64", declarations)
    e = f.emit
    same = e.call("@world_compare", "i64", [f.state])
    with e.when((same & SAME_ALL).eq(SAME_ALL)):
        e.call_void("@world_load", [f.state])
        f.set_field(layout.WORLD_STATE_OF, 0)
    e.ret(same)
    return f.text()


def _emit_exchange(declarations: set[str]) -> str:
    f = _function("world_exchange", "i64", declarations)
    e = f.emit
    for i, field in enumerate(EXCHANGED):
        f.set_field(layout.WORLD_HOST + 8 * i, f.field(field))
    same = e.call("@world_compare", "i64", [f.state])
    # Nested paging is refused while the host has paging off.
    with e.when((f.field(layout.CR0) & CR0_PG).eq(0)):
        e.ret(0)
    f.set_field(layout.HOST_CR4, f.field(layout.CR4))
    f.set_field(layout.HOST_EFER, f.field(layout.EFER))
    with e.when(same.ne(SAME_ALL)):
        e.ret(same & SAME_CONTROLS)
    for i, field in enumerate(EXCHANGED):
        f.set_field(field, f.field(layout.WORLD_GUEST + 8 * i))
    e.call_void("@world_load", [f.state])
    f.set_field(layout.WORLD_STATE_OF, 0)
    e.call_void("@reset_fast", [f.state])
    e.ret(same)
    return f.text()


def simple_exit(code: int, length: int, cycles: int) -> int:
    """The first operand word of the record of an instruction that plain Python carries out, where its intercept has
    nothing to look at but the intercept's bit: exit code, bytes, modelled cycles."""
    return code | length << 16 | cycles << 32


def _emit_run(name: str, enter: str, exchanged: bool, declarations: set[str]) -> str:
    f = _function(name, "i64", declarations)
    e = f.emit
    same = e.call(enter, "i64", [f.state])
    with e.when(same.ne(SAME_ALL)):
        e.ret(same + NOT_RUN)
    block = _control_block(f)
    flush = e.load(8, e.offset(block, vmcb.TLB_CONTROL)).zext(64)
    waits = (e.load(64, e.offset(block, vmcb.VIRTUAL_INTERRUPT)) & vmcb.V_IRQ) | (
        f.field(layout.SYSTEM_FLAGS) & (TF | RF)
    )
    waits = waits | (e.load(8, e.offset(block, vmcb.INTERRUPT_SHADOW)).zext(64) & 1) | (flush & ~vmcb.FLUSH_ALL)
    rip = f.field(layout.RIP)
    entry = e.offset(e.pointer(f.field(layout.JUMP_CACHE)), layout.jump_cache_offset(rip))
    with e.when(waits.ne(0) | e.load(64, entry).ne(rip)):
        e.ret(NOT_RUN + SAME_ALL)
    f.set_field(layout.IN_GUEST, 1)
    with e.when(flush.eq(vmcb.FLUSH_ALL)):
        e.call_void("@flush_all", [f.state])
    uop = e.load_type("ptr", e.offset(entry, 8))
    code = e.call("@enter", "i64", [f.state, uop, f.field(layout.WORLD_BUDGET)])
    with e.when(code.ne(EXIT_PYTHON) | f.field(layout.WORLD_EXITS).eq(0)):
        e.ret(code)
    at = e.pointer(f.field(layout.EXIT_UOP))
    simple = e.load(64, e.offset(at, SLOTS))
    intercepts = e.load(64, e.offset(f.state, layout.WORLD_CONTROLS + vmcb.INTERCEPT_MISC1), 4)
    left = simple.ne(0) & ((intercepts >> ((simple & 0xFF) - 0x60)) & 1).ne(0)
    with e.when((left & f.field(layout.WATCH_HITS).eq(0)) ^ 1):
        e.ret(code)
    # As leave_guest of guest_mode.py; the instruction has not been carried out.
    at_rip = e.load(64, e.offset(at, DISPLACEMENT))
    f.set_field(layout.EXIT_BUDGET, f.field(layout.EXIT_BUDGET) + (simple >> 32 << 32) + 1)
    f.set_field(layout.RIP, at_rip)
    e.call_void("@world_save", [f.state])
    e.store(simple & 0xFF, e.offset(block, vmcb.EXITCODE))
    for offset in (vmcb.EXITINFO1, vmcb.EXITINFO2, vmcb.EXITINTINFO):
        e.store(e.constant(0, 64), e.offset(block, offset))
    copy = layout.WORLD_CONTROLS + vmcb.VIRTUAL_INTERRUPT
    e.store(f.field(copy), e.offset(block, vmcb.VIRTUAL_INTERRUPT))
    e.store(e.constant(0, 8), e.offset(block, vmcb.INTERRUPT_SHADOW))
    with e.when(f.field(layout.WORLD_EXITS).eq(3)):
        e.store(at_rip + (simple >> 16 & 0xFF), e.offset(block, vmcb.NEXT_RIP))
    f.set_field(layout.IN_GUEST, 0)
    if exchanged:
        e.call_void("@world_restore", [f.state])
    e.ret(EXIT_LEFT_GUEST)
    return f.text()


def _emit_load(declarations: set[str]) -> str:
    f = _function("world_load", "void", declarations)
    e = f.emit
    block = _control_block(f)
    for offset, field in _MOVED:
        f.set_field(field, e.load(64, e.offset(block, offset)))
    for offset, field in _LIMITS:
        f.set_field(field, e.load(64, e.offset(block, offset)) >> 32 & 0xFFFF)
    flags = e.load(64, e.offset(block, vmcb.RFLAGS))
    # As cpu/registers.py: rflags takes them apart.
    carry, overflow = flags & 1, flags >> 11 & 1
    f.set_field(layout.FLAG_ZERO, ~flags & 0x40)
    f.set_field(layout.FLAG_SIGN, ((flags & 0x80) << 56) | ((flags >> 2 & 1) ^ 1))
    f.set_field(layout.FLAG_CARRY, (carry << 63) | ((carry ^ overflow) << 62) | (flags >> 1 & 8))
    f.set_field(layout.SYSTEM_FLAGS, flags & (RFLAGS_WRITABLE & ~ARITHMETIC_FLAGS))
    e.ret_void()
    return f.text()


def _emit_accept(declarations: set[str]) -> str:
    f = _function("world_accept", "void", declarations)
    e = f.emit
    block = _control_block(f)
    for offset, place in _words(_CONTROLS, layout.WORLD_CONTROLS):
        f.set_field(place, e.load(64, e.offset(block, offset)))
    f.set_field(layout.WORLD_CONTROLS_OF, f.field(layout.WORLD_VMCB) + 1)
    e.ret_void()
    return f.text()


def _emit_save(declarations: set[str]) -> str:
    f = _function("world_save", "void", declarations)
    e = f.emit
    block = _control_block(f)
    for offset, field in _MOVED + _STORED:
        e.store(f.field(field), e.offset(block, offset))
    for offset, field in _LIMITS:
        e.store(f.field(field) << 32, e.offset(block, offset))
    # As cpu/registers.py: rflags puts them together.
    zero, sign, carry = (f.field(field) for field in (layout.FLAG_ZERO, layout.FLAG_SIGN, layout.FLAG_CARRY))
    system = f.field(layout.SYSTEM_FLAGS)
    flags = (system & SYSTEM_FLAGS) | RFLAGS_ONE | carry >> 63 | ((carry >> 3 & 1) << 4)
    flags = flags | (((carry >> 63) ^ (carry >> 62 & 1)) << 11) | ((sign >> 63) << 7) | (zero.eq(0).zext(64) << 6)
    odd = e.intrinsic("ctpop", "i8", [sign.trunc(8)]) & 1
    e.store(flags | ((odd ^ 1).zext(64) << 2), e.offset(block, vmcb.RFLAGS))
    e.store(f.field(layout.CPL).trunc(8), e.offset(block, vmcb.CPL))
    words = _words(_STATE, layout.WORLD_STATE)
    with e.when(f.field(layout.NESTED).ne(0)):
        e.store(f.field(layout.WORLD_PAT), e.offset(block, vmcb.G_PAT))
    for number in range(4):
        rest = f.field(layout.limit(number)) << 32 | f.field(layout.attributes(number)) << 16
        for (offset, place), value in zip(
            words[2 * number : 2 * number + 2],
            (f.field(layout.selector(number)) | rest, f.field(layout.segment(number) + layout.SEGMENT_BASE)),
            strict=True,
        ):
            e.store(value, e.offset(block, offset))
            f.set_field(place, value)
    for offset, place in words[_SEGMENT_WORDS:]:
        f.set_field(place, e.load(64, e.offset(block, offset)))
    f.set_field(layout.WORLD_FLAGS, system)
    f.set_field(layout.WORLD_STATE_OF, f.field(layout.WORLD_VMCB) + 1)
    # VMRUN reads the page-directory pointers of PAE each time.
    legacy = (f.field(layout.CR0) & CR0_PG).ne(0) & (f.field(layout.CR4) & CR4_PAE).ne(0)
    legacy = legacy & (f.field(layout.EFER) & EFER_LMA).eq(0) & f.field(layout.NESTED).eq(0)
    with e.when(legacy):
        f.set_field(layout.WORLD_CONTROLS_OF, 0)
    e.ret_void()
    return f.text()


def _emit_restore(declarations: set[str]) -> str:
    f = _function("world_restore", "void", declarations)
    e = f.emit
    for i, field in enumerate(EXCHANGED):
        f.set_field(layout.WORLD_GUEST + 8 * i, f.field(field))
    for i, field in enumerate(EXCHANGED):
        f.set_field(field, f.field(layout.WORLD_HOST + 8 * i))
    f.set_field(layout.SYSTEM_FLAGS, f.field(layout.SYSTEM_FLAGS) & ~VM)
    f.set_field(layout.CODE_DESCRIPTOR, -1)
    f.set_field(layout.STACK_DESCRIPTOR, -1)
    e.call_void("@reset_fast", [f.state])
    e.ret_void()
    return f.text()
