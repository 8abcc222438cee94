"""Delivery of page faults in 64-bit mode as native code (APM vol. 2, 8.9): the usual case of cpu/delivery.py.

That is a present interrupt or trap gate to 64-bit code of CPL 0, whose frame lies on one page of RAM that holds no
code, while nobody but the guest has to see the fault. Anything else is left to Python, which finds nothing written.

The translations that a delivery needs are the same, in the same order, as Python's: what native code has translated
before it gives up hits the TLB when Python does it again, and the one that has faulted is handed over as known
(layout.KNOWN_FAULT), so that every miss and walk is counted and charged once.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.paging import PF_W
from trapgate.arch.registers import IF, NT, RF, RFLAGS_ONE, RSP, SS, SYSTEM_FLAGS, TF, VM
from trapgate.arch.segments import ATTRIBUTE_P, INTERRUPT_GATE32, TRAP_GATE32, TYPE_MASK
from trapgate.arch.vectors import PF
from trapgate.cpu.lookup import DEVICE
from trapgate.cpu.walk import NativeFunction
from trapgate.isa.flags import Flags
from trapgate.isa.ir import Value
from trapgate.isa.system.privilege import enter_privilege, is_long_code, load_long_code, load_segment

#: What `@deliver_page_fault` returns besides the record to go on at.
LEFT_TO_PYTHON, TO_BE_FOUND, BUDGET_SPENT = 0, 1, 2
#: The table beside the arena of records has an entry for each record: rip (8 bytes), modelled cycles of the block's
#: instructions before it (4), their number (2), and what it is (2).
SIDE_ENTRY = 16
SIDE_CYCLES, SIDE_INDEX, SIDE_KIND = 8, 12, 14
SIDE_INSTRUCTION, SIDE_PAGE_CHECK = 1, 2
#: Where the TSS has RSP0 and IST1 (APM vol. 2, 12.2.5), and the error code, rip, CS, RFLAGS, rSP and SS of a frame.
_RSP0, _IST1, _FRAME = 4, 36, 48


def emit_page_fault_delivery(declarations: set[str]) -> list[str]:
    """`i64 @deliver_page_fault(state)`: deliver the fault in the fault fields, of the record in EXIT_UOP.

    Returns LEFT_TO_PYTHON; or the host address of the record to go on at, with EXIT_BUDGET reduced by what the block
    had done and the delivery cost; or TO_BE_FOUND or BUDGET_SPENT, with layout.RIP set besides.
    """
    return [_emit_translation(declarations), _emit_delivery(declarations)]


def _emit_translation(declarations: set[str]) -> str:
    """`i64 @translate_for_delivery(state, linear, access)`: host address, or 0 where Python must go on.

    When the translation faults, that is kept for Python, and the fault fields stay those of the page fault itself.
    """
    f = NativeFunction("translate_for_delivery", "i64", (("i64", "linear"), ("i64", "access")), declarations)
    e, linear, access = f.emit, f.argument("linear"), f.argument("access")
    fields = (layout.FAULT_VECTOR, layout.FAULT_ERROR, layout.FAULT_ADDRESS)
    before = [f.field(place) for place in fields]
    host = e.call("@translate_data", "i64", [f.state, linear, access])
    with e.when(host.eq(0), likely=False):
        known = (layout.KNOWN_VECTOR, layout.KNOWN_ERROR, layout.KNOWN_ADDRESS)
        for place, kept, value in zip(fields, known, before, strict=True):
            f.set_field(kept, f.field(place))
            f.set_field(place, value)
        f.set_field(layout.KNOWN_LINEAR, linear)
        f.set_field(layout.KNOWN_ACCESS, access)
        f.set_field(layout.KNOWN_FAULT, 1)
    with e.when(host.eq(DEVICE), likely=False):
        e.ret(0)
    e.ret(host)
    return f.text()


def _emit_delivery(declarations: set[str]) -> str:
    f = NativeFunction("deliver_page_fault", "i64", (), declarations)
    e = f.emit
    python = e.new_label("python")

    def refuse_if(condition: Value) -> None:
        go_on = e.new_label("go")
        e.branch(condition, python, go_on, likely=False)
        e.label(go_on)

    def translated(linear: Value, size: int, access: int = 0) -> Value:
        refuse_if((linear & 0xFFF).ugt(4096 - size))
        host = e.call("@translate_for_delivery", "i64", [f.state, linear, e.constant(access, 64)])
        refuse_if(host.eq(0))
        return e.pointer(host)

    def is_canonical(address: Value) -> Value:
        return address.trunc(48).sext(64).eq(address)

    f.set_field(layout.STALL, 0)
    system = f.field(layout.SYSTEM_FLAGS)
    usual = f.field(layout.FAULT_VECTOR).eq(PF) & f.field(layout.DELIVERS_FAULTS).ne(0)
    usual = usual & f.field(layout.SEES_FAULTS).eq(0)
    usual = usual & f.field(layout.PRIVILEGES_VALID).ne(0) & f.field(layout.STEPPING).eq(0) & (system & TF).eq(0)
    refuse_if(usual ^ 1)
    uop = f.field(layout.EXIT_UOP)
    side = e.pointer(f.field(layout.SIDE_TABLE) + ((uop - f.field(layout.ARENA)) >> 1))
    kind = e.load(16, e.offset(side, SIDE_KIND))
    refuse_if(kind.eq(0))
    rip = e.load(64, side)
    address = kind.eq(SIDE_PAGE_CHECK).select(rip, f.field(layout.FAULT_ADDRESS))

    refuse_if(f.field(layout.IDTR_LIMIT).ult(16 * PF + 15))
    gate = translated(f.field(layout.IDTR_BASE) + 16 * PF, 16)
    low, high = e.load(64, gate, 1), e.load(64, e.offset(gate, 8), 1)
    type_ = (low >> 40) & (TYPE_MASK | ATTRIBUTE_P)
    closes = type_.eq(INTERRUPT_GATE32 | ATTRIBUTE_P)
    refuse_if((closes | type_.eq(TRAP_GATE32 | ATTRIBUTE_P)) ^ 1)
    offset = (low & 0xFFFF) | ((low >> 32) & 0xFFFF_0000) | (high << 32)
    selector, ist = (low >> 16) & 0xFFFF, (low >> 32) & 7
    refuse_if((selector & 0xFFFC).eq(0) | (selector & 4).ne(0) | (selector | 7).ugt(f.field(layout.GDTR_LIMIT)))
    code = e.load(64, translated(f.field(layout.GDTR_BASE) + (selector & 0xFFF8), 8), 1)
    refuse_if(is_long_code(code, 0) ^ 1)
    inward, by_ist = f.field(layout.CPL).ne(0), ist.ne(0)
    stack = e.variable(f.field(RSP * 8))
    with e.when(inward | by_ist):
        place = by_ist.select((ist << 3) + (_IST1 - 8), e.constant(_RSP0, 64))
        refuse_if((place + 7).ugt(f.field(layout.TSS_LIMIT)))
        stack.set(e.load(64, translated(f.field(layout.TSS_BASE) + place, 8), 1))
    bottom = (stack.get() & ~15) - _FRAME
    refuse_if((is_canonical(offset) & is_canonical(bottom) & is_canonical(bottom + (_FRAME - 1))) ^ 1)
    frame = translated(bottom, _FRAME, PF_W)
    page = (e.address(frame) - f.field(layout.RAM_BASE)) >> 12
    refuse_if(e.load(64, e.pointer(f.field(layout.CODE_MAP) + page * 8)).ne(0))

    # Nothing can fail any more.
    flags = (system & SYSTEM_FLAGS) | Flags(f).bits() | (RFLAGS_ONE | RF)
    cs = f.field(layout.selector(1))
    words = (f.field(layout.FAULT_ERROR), rip, cs, flags, f.field(RSP * 8), f.field(layout.selector(SS)))
    for i, word in enumerate(words):
        e.store(word, e.offset(frame, 8 * i), 1)
    number = f.field(layout.FAULTS_DELIVERED)
    entry = (number & (layout.LOGGED_FAULTS - 1)) * layout.LOGGED_FAULT_SIZE + layout.FAULT_LOG
    for i, word in enumerate((f.field(layout.FAULT_ERROR), rip, address)):
        f.set_field(entry + 8 * i, word)
    f.set_field(layout.FAULTS_DELIVERED, number + 1)
    f.set_field(layout.CR2, address)
    load_long_code(f, f.state, selector & 0xFFF8, code)
    with e.when(inward):
        zero, none = e.constant(0, 64), e.constant(-1, 64)
        load_segment(f, f.state, SS, zero, 0, 0, 0, none, none)
        enter_privilege(f, f.state, user=False)
    f.set_field(RSP * 8, bottom)
    cleared = closes.select(e.constant(TF | NT | RF | VM | IF, 64), e.constant(TF | NT | RF | VM, 64))
    f.set_field(layout.SYSTEM_FLAGS, system & (cleared ^ -1))

    cycles = e.load(32, e.offset(side, SIDE_CYCLES)).zext(64) + f.field(layout.STALL) + f.field(layout.COST_EXCEPTION)
    done = e.load(16, e.offset(side, SIDE_INDEX)).zext(64)
    budget = f.field(layout.EXIT_BUDGET) - ((cycles << 32) + done)
    f.set_field(layout.EXIT_BUDGET, budget)
    f.set_field(layout.RIP, offset)
    with e.when(budget.slt(0), likely=False):
        e.ret(BUDGET_SPENT)
    cached = e.pointer(f.field(layout.JUMP_CACHE) + layout.jump_cache_offset(offset))
    with e.when(e.load(64, cached).ne(offset), likely=False):
        e.ret(TO_BE_FOUND)
    e.ret(e.load(64, e.offset(cached, 8)))

    e.label(python)
    f.set_field(layout.KNOWN_STALL, f.field(layout.STALL))
    e.ret(LEFT_TO_PYTHON)
    return f.text()
