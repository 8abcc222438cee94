"""Accesses that the fast tables cannot serve, as native code: TLB fills, page crossings, devices, writes to code.

A handler calls `slow_access` with the linear address and the kind of the access and gets a host pointer: into RAM, or
to the bounce buffer. What it then stores in the bounce buffer `commit` carries on. A null pointer means a fault
(fault fields set). The budget is kept in EXIT_BUDGET across the call, so that both this code (stall cycles) and
Python (a device that wants the run to stop soon) can change it; handlers take it from there afterwards.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.paging import PF_I, PF_W
from trapgate.cpu import flush, lookup, native_delivery, walk, walk_cache, walk_memory
from trapgate.cpu.svm.world_switch import emit_world_switch
from trapgate.cpu.tlb import DATA, INSTRUCTION
from trapgate.cpu.walk import NativeFunction
from trapgate.isa.ir import Emitter, Value

KIND_SIZE = 0xFF
KIND_WRITE = 0x100
KIND_READ_TOO = 0x200

MXCSR_MASKS = 0x1F80
FPU_MASKS = 0x3F
BOUNCE_PYTHON, BOUNCE_TWO_PAGES = 1, 2
#: Accesses that a data breakpoint looks for (layout.WATCH_KINDS).
WATCH_WRITE, WATCH_READ = 1, 2
#: Stands in FAULT_VECTOR when an access has hit a data breakpoint: the instruction is to run again by itself.
WATCHED = 0x200
ALIGNMENT_CHECK = 17
#: Why native code is left, as far as `enter` has to do with it (engine/record.py has all).
EXIT_FAULT, EXIT_LOOKUP, EXIT_DELIVERED = 3, 5, 11


def emit_runtime() -> tuple[list[str], set[str]]:
    """All native helper functions, and the intrinsics that they declare."""
    declarations: set[str] = set()
    functions = [walk.emit_entry_access(declarations), *walk.emit_walks(declarations)]
    functions += walk_cache.emit_walk_caches(declarations)
    functions += walk_memory.emit_walk_memory(declarations)
    for side in (DATA, INSTRUCTION):
        functions += lookup.emit_side(side, declarations)
    functions += flush.emit_flushes(declarations)
    functions += emit_world_switch(declarations)
    functions += native_delivery.emit_page_fault_delivery(declarations)
    functions += [
        _emit_drop_code(declarations),
        _emit_watch(declarations),
        _emit_slow_access(declarations),
        _emit_commit(declarations),
        _emit_fetch_page(declarations),
        _emit_enter(declarations),
    ]
    return functions, declarations


def load_host_floating_point(e: Emitter, state: Value) -> None:
    """Give the host its own floating-point environment back, and remember the guest's sticky flags."""
    guest = e.offset(state, layout.FPU_SCRATCH)
    e.intrinsic_void("x86.sse.stmxcsr", [guest], "")
    flags = e.load(32, guest) & 0x3F
    e.store((e.load(32, e.offset(state, layout.MXCSR)) & ~0x3F) | flags, e.offset(state, layout.MXCSR))
    e.intrinsic_void("x86.sse.ldmxcsr", [e.offset(state, layout.HOST_MXCSR)], "")
    _fldcw(e, e.offset(state, layout.HOST_FPU_CONTROL))


def load_guest_floating_point(e: Emitter, state: Value) -> None:
    """Load the guest's floating-point environment with every exception masked."""
    masked = e.load(32, e.offset(state, layout.MXCSR)) | MXCSR_MASKS
    scratch = e.offset(state, layout.FPU_SCRATCH)
    e.store(masked, scratch)
    e.intrinsic_void("x86.sse.ldmxcsr", [scratch], "")
    _fldcw(e, e.offset(state, layout.FPU_CONTROL_MASKED))


def _fldcw(e: Emitter, place: Value) -> None:
    e.raw(f'call void asm sideeffect "fldcw ($0)", "r,~{{memory}},~{{dirflag}},~{{fpsr}},~{{flags}}"(ptr {place.name})')


def _call_python(f: NativeFunction, function: int, arguments: list[Value]) -> None:
    """Call a Python callback in the host's floating-point environment."""
    e = f.emit
    load_host_floating_point(e, f.state)
    e.call_void(e.load_type("ptr", e.offset(f.state, function)), arguments)
    load_guest_floating_point(e, f.state)


def _emit_enter(declarations: set[str]) -> str:
    """`i64 @enter(state, uop, budget)`: run from a record until something has to be done in Python.

    Page faults that need no Python are delivered on the way, and the run goes on in their handlers.
    """
    f = NativeFunction("enter", "i64", (("ptr", "uop"), ("i64", "budget")), declarations)
    e = f.emit
    e.intrinsic_void("x86.sse.stmxcsr", [e.offset(f.state, layout.HOST_MXCSR)], "")
    place = e.offset(f.state, layout.HOST_FPU_CONTROL)
    e.raw(
        f'call void asm sideeffect "fnstcw ($0)", "r,~{{memory}},~{{dirflag}},~{{fpsr}},~{{flags}}"(ptr {place.name})'
    )
    load_guest_floating_point(e, f.state)
    uop, budget = e.variable(f.argument("uop", "ptr")), e.variable(f.argument("budget"))
    code = e.variable(0)
    with e.loop() as loop:
        arguments = [f.state, uop.get(), budget.get()]
        code.set(e.call(e.load_type("ptr", uop.get()), "i64", arguments, "preserve_nonecc"))
        loop.break_if(code.get().ne(EXIT_FAULT))
        next_ = e.call("@deliver_page_fault", "i64", [f.state])
        loop.break_if(next_.eq(native_delivery.LEFT_TO_PYTHON))
        code.set(EXIT_LOOKUP)
        loop.break_if(next_.eq(native_delivery.TO_BE_FOUND))
        code.set(EXIT_DELIVERED)
        loop.break_if(next_.eq(native_delivery.BUDGET_SPENT))
        uop.set(e.pointer(next_))
        budget.set(f.field(layout.EXIT_BUDGET))
    load_host_floating_point(e, f.state)
    e.ret(code.get())
    return f.text()


def _emit_drop_code(declarations: set[str]) -> str:
    """`void @drop_code(state, physical, size)`: Python drops the decoded code under a write."""
    f = NativeFunction("drop_code", "void", (("i64", "physical"), ("i64", "size")), declarations)
    _call_python(f, layout.ON_CODE_WRITE, [f.argument("physical"), f.argument("size")])
    f.emit.ret_void()
    return f.text()


def _add_stall(f: NativeFunction) -> None:
    """Charge the cycles that this access has cost."""
    stall = f.field(layout.STALL) << 32
    f.set_field(layout.EXIT_BUDGET, f.field(layout.EXIT_BUDGET) - stall)


def _begin(f: NativeFunction) -> None:
    f.set_field(layout.EXIT_UOP, f.emit.address(f.argument("uop", "ptr")))
    f.set_field(layout.EXIT_BUDGET, f.argument("budget"))
    f.set_field(layout.STALL, 0)


def _drop_code_under(f: NativeFunction, host: Value, size: Value) -> None:
    """Before a write to RAM: if decoded code was taken from those bytes, it goes."""
    e = f.emit
    physical = host - f.field(layout.RAM_BASE)
    code = e.load(64, e.pointer(f.field(layout.CODE_MAP) + (physical >> 12) * 8))
    with e.when(code.ne(0), likely=False):
        first, last = (physical >> 6) & 63, ((physical + size - 1) >> 6) & 63
        mask = (e.constant(1, 64) << first) | (e.constant(1, 64) << last)
        with e.when((code & mask).ne(0)):
            e.call_void("@drop_code", [f.state, physical, size])


def _emit_watch(declarations: set[str]) -> str:
    """`i64 @watch(state, linear, kind, access)`: alignment checks and data breakpoints; not 0 to leave the handler.

    Every operand has its own alignment (APM vol. 2, 8.2.17): its size, or for the sizes that are no power of two, 8
    for an 80-bit number and 4 for what is left. A page fault goes before #AC (APM vol. 2, table 8-8).
    """
    arguments = (("i64", "linear"), ("i64", "kind"), ("i64", "access"))
    f = NativeFunction("watch", "i64", arguments, declarations)
    e, linear, kind = f.emit, f.argument("linear"), f.argument("kind")
    size = kind & KIND_SIZE
    with e.when(f.field(layout.ALIGNMENT_CHECK).ne(0)):
        required = (size & (size - 1)).eq(0).select(size, size.eq(10).select(e.constant(8, 64), e.constant(4, 64)))
        with e.when((linear & (required - 1)).ne(0)):
            # Where each page is entered: a fault on the second one reports its first byte.
            second = (linear + size - 1) & ~0xFFF
            crosses = second.ne(linear & ~0xFFF)
            wraps = linear.ule(0xFFFF_FFFF) & f.field(layout.CODE_BITS).ne(64)
            second = crosses.select(wraps.select(second & 0xFFFF_FFFF, second), linear)
            for place in (linear, second):
                with e.when(e.call("@translate_data", "i64", [f.state, place, f.argument("access")]).eq(0)):
                    e.ret(1)
            f.set_field(layout.FAULT_VECTOR, ALIGNMENT_CHECK)
            f.set_field(layout.FAULT_ERROR, 0)
            e.ret(1)
    write = (kind & KIND_WRITE).ne(0)
    reads = (write ^ 1) | (kind & KIND_READ_TOO).ne(0)
    done = write.select(e.constant(WATCH_WRITE, 64), e.constant(0, 64))
    done = done | reads.select(e.constant(WATCH_READ, 64), e.constant(0, 64))
    hits = e.variable(0)
    for i in range(4):
        o = layout.WATCHES + i * layout.WATCH_SIZE
        hit = (f.field(o + layout.WATCH_KINDS) & done).ne(0)
        hit = hit & linear.ule(f.field(o + layout.WATCH_LAST))
        hit = hit & (linear + size - 1).uge(f.field(o + layout.WATCH_FIRST))
        hits.set(hits.get() | (hit.zext(64) << i))
    with e.when(hits.get().eq(0)):
        e.ret(0)
    with e.when(f.field(layout.STEPPING).ne(0)):
        f.set_field(layout.WATCH_HITS, f.field(layout.WATCH_HITS) | hits.get())
        e.ret(0)
    f.set_field(layout.FAULT_VECTOR, WATCHED)
    e.ret(1)
    return f.text()


def _emit_slow_access(declarations: set[str]) -> str:
    arguments = (("ptr", "uop"), ("i64", "budget"), ("i64", "linear"), ("i64", "kind"))
    f = NativeFunction("slow_access", "ptr", arguments, declarations)
    e, linear, kind = f.emit, f.argument("linear"), f.argument("kind")
    _begin(f)
    size = kind & KIND_SIZE
    write = (kind & KIND_WRITE).ne(0)
    access = write.select(e.constant(PF_W, 64), e.constant(0, 64)) | f.field(layout.USER)
    bounce = e.offset(f.state, layout.BOUNCE)
    null = e.null()

    def leave(pointer: Value) -> None:
        _add_stall(f)
        e.raw(f"ret ptr {pointer.name}")
        e.terminated = True

    with e.when(f.field(layout.WATCH_DATA).ne(0), likely=False):
        found = e.call("@watch", "i64", [f.state, linear, kind, access])
        with e.when(found.ne(0)):
            leave(null)

    split = e.constant(4096, 64) - (linear & 0xFFF)
    # The last byte must be canonical too, and that comes before a page fault of the first one. Other modes do not get
    # that far up.
    with e.when(size.ugt(split) & (linear + split).eq(1 << 47), likely=False):
        f.set_field(layout.FAULT_VECTOR, lookup.NON_CANONICAL)
        f.set_field(layout.FAULT_ADDRESS, linear)
        f.set_field(layout.FAULT_ERROR, 0)
        leave(null)
    first = e.call("@translate_data", "i64", [f.state, linear, access])
    with e.when(first.eq(0), likely=False):
        leave(null)
    first_physical = f.field(layout.TRANSLATED)
    one_page, two_pages, by_python, copy = (e.new_label(n) for n in ("one", "two", "python", "copy"))
    e.branch(size.ule(split), one_page, two_pages)

    e.label(one_page)
    f.set_field(layout.BOUNCE_SPLIT, size)
    f.set_field(layout.BOUNCE_SECOND, first_physical)
    ram = e.new_label("ram")
    e.branch(first.eq(lookup.DEVICE), by_python, ram)
    e.label(ram)
    with e.when(write):
        _drop_code_under(f, first, size)
    leave(e.pointer(first))

    e.label(two_pages)
    second_linear = linear + split
    # A 32-bit linear address wraps around; a 64-bit one goes on.
    second_linear = (linear.ule(0xFFFF_FFFF) & f.field(layout.CODE_BITS).ne(64)).select(
        second_linear & 0xFFFF_FFFF, second_linear
    )
    second = e.call("@translate_data", "i64", [f.state, second_linear, access])
    with e.when(second.eq(0), likely=False):
        leave(null)
    f.add_to_field(layout.counter("page_crossings"), 1)
    f.set_field(layout.BOUNCE_SPLIT, split)
    f.set_field(layout.BOUNCE_SECOND, f.field(layout.TRANSLATED))
    e.branch(first.eq(lookup.DEVICE) | second.eq(lookup.DEVICE), by_python, copy)
    e.label(copy)
    f.set_field(layout.BOUNCE_FIRST, first_physical)
    f.set_field(layout.BOUNCE_SIZE, size)
    f.set_field(layout.BOUNCE_KIND, write.select(e.constant(BOUNCE_TWO_PAGES, 64), e.constant(0, 64)))
    with e.when(write):
        _drop_code_under(f, first, split)
        _drop_code_under(f, second, size - split)
    _copy(e, bounce, e.pointer(first), split)
    _copy(e, e.offset(bounce, split), e.pointer(second), size - split)
    leave(bounce)

    e.label(by_python)
    f.set_field(layout.BOUNCE_FIRST, first_physical)
    f.set_field(layout.BOUNCE_SIZE, size)
    f.set_field(layout.BOUNCE_KIND, write.select(e.constant(BOUNCE_PYTHON, 64), e.constant(0, 64)))
    f.add_to_field(layout.counter("device_accesses"), 1)
    _add_stall(f)
    with e.when((write ^ 1) | (kind & KIND_READ_TOO).ne(0)):
        _call_python(f, layout.ON_DEVICE_READ, [])
    e.raw(f"ret ptr {bounce.name}")
    e.terminated = True
    return f.text()


def _copy(e: Emitter, to: Value, source: Value, count: Value) -> None:
    """Copy `count` bytes (few)."""
    i = e.variable(0)
    with e.loop() as loop:
        loop.break_if(i.get().uge(count))
        e.store(e.load(8, e.offset(source, i.get())), e.offset(to, i.get()))
        i.set(i.get() + 1)


def _emit_commit(declarations: set[str]) -> str:
    """`void @commit(state)`: carry a write in the bounce buffer where it belongs."""
    f = NativeFunction("commit", "void", (), declarations)
    e = f.emit
    kind = f.field(layout.BOUNCE_KIND)
    with e.when(kind.eq(0), likely=True):
        e.ret_void()
    f.set_field(layout.BOUNCE_KIND, 0)
    with e.when(kind.eq(BOUNCE_PYTHON)):
        _call_python(f, layout.ON_DEVICE_WRITE, [])
        e.ret_void()
    bounce = e.offset(f.state, layout.BOUNCE)
    base, split = f.field(layout.RAM_BASE), f.field(layout.BOUNCE_SPLIT)
    _copy(e, e.pointer(base + f.field(layout.BOUNCE_FIRST)), bounce, split)
    rest = f.field(layout.BOUNCE_SIZE) - split
    _copy(e, e.pointer(base + f.field(layout.BOUNCE_SECOND)), e.offset(bounce, split), rest)
    e.ret_void()
    return f.text()


def _emit_fetch_page(declarations: set[str]) -> str:
    """`i64 @fetch_page(state, uop, budget, linear)`: bring a page of code into the instruction TLB; 0 on a fault."""
    f = NativeFunction("fetch_page", "i64", (("ptr", "uop"), ("i64", "budget"), ("i64", "linear")), declarations)
    e = f.emit
    _begin(f)
    found = e.call("@translate_instruction", "i64", [f.state, f.argument("linear"), f.field(layout.USER) | PF_I])
    _add_stall(f)
    e.ret(found)
    return f.text()
