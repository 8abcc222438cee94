"""Near transfers of control: JMP, Jcc, CALL, RET, LOOP (APM vol. 3, chapter 3); RDTSC, SWAPGS.

A direct branch that would leave CS is not carried out here (isa/system/transfers.py, branch_outside).
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import GS, RAX, RCX, RDX
from trapgate.arch.vectors import GP
from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value


def _target(c: Context, target: Value) -> Value:
    """A computed target as 64 bits, checked: canonical, or within the limit of CS."""
    wide = target.zext(64)
    if c.bits == 64:
        c.fault_if(wide.trunc(48).sext(64).ne(wide), GP, 0)
    else:
        c.fault_if(wide.ugt(c.field(layout.CODE_LIMIT)), GP, 0)
    return wide


@semantics("jcc", ends_block=True)
def jcc(c: Context) -> None:
    c.branch_if(c.flags.condition(c.condition))


@semantics("jmp", ends_block=True)
def jmp(c: Context) -> None:
    c.goto_target()


@semantics("jmp_indirect", ends_block=True)
def jmp_indirect(c: Context, target: Operand) -> None:
    c.goto_address(_target(c, target.read()))


@semantics("call", ends_block=True)
def call(c: Context) -> None:
    width = c.operand_bits
    pointer = c.stack_pointer() - width // 8
    c.stack_store(pointer, c.next_ip().trunc(width))
    c.set_stack_pointer(pointer)
    c.goto_target()


@semantics("call_indirect", ends_block=True)
def call_indirect(c: Context, target: Operand) -> None:
    width = c.operand_bits
    address = _target(c, target.read())
    pointer = c.stack_pointer() - width // 8
    c.stack_store(pointer, c.next_ip().trunc(width))
    c.set_stack_pointer(pointer)
    c.goto_address(address)


@semantics("ret", ends_block=True)
def ret(c: Context, extra: Operand | None = None) -> None:
    width = c.operand_bits
    pointer = c.stack_pointer()
    address = _target(c, c.stack_load(pointer, width))
    pointer = pointer + width // 8
    if extra is not None:
        pointer = pointer + extra.read().zext(c.stack_bits)
    c.set_stack_pointer(pointer)
    c.goto_address(address)


@semantics("jcxz", "jecxz", "jrcxz", ends_block=True)
def jcxz(c: Context) -> None:
    c.branch_if(c.register(RCX, c.address_bits).eq(0))


def _loop(c: Context, extra: Value | None) -> None:
    count = c.register(RCX, c.address_bits) - 1
    c.set_register(RCX, count)
    again = count.ne(0)
    c.branch_if(again if extra is None else again & extra)


@semantics("loop", ends_block=True)
def loop(c: Context) -> None:
    _loop(c, None)


@semantics("loope", ends_block=True)
def loope(c: Context) -> None:
    _loop(c, c.flags.zero())


@semantics("loopne", ends_block=True)
def loopne(c: Context) -> None:
    _loop(c, c.flags.zero() ^ 1)


@semantics("end_of_block", ends_block=True)
def end_of_block(c: Context) -> None:
    """No instruction: goes on where a block ended for want of a branch."""
    c.goto_next()


@semantics("rdtsc", ends_block=True)
def rdtsc(c: Context) -> None:
    """Where CR4.TSD allows it; elsewhere the decoder chooses the plain Python form."""
    stamp = c.time_stamp()
    c.set_register(RAX, stamp.trunc(32))
    c.set_register(RDX, (stamp >> 32).trunc(32))
    c.goto_next()


@semantics("rdtscp", ends_block=True)
def rdtscp(c: Context) -> None:
    """Where CR4.TSD allows it."""
    stamp = c.time_stamp()
    c.set_register(RAX, stamp.trunc(32))
    c.set_register(RDX, (stamp >> 32).trunc(32))
    c.set_register(RCX, c.field(layout.TSC_AUX, 32))
    c.goto_next()


@semantics("swapgs")
def swapgs(c: Context) -> None:
    """In 64-bit mode at CPL 0; elsewhere the decoder chooses an exception."""
    base = layout.segment(GS) + layout.SEGMENT_BASE
    old, new = c.field(base), c.field(layout.KERNEL_GS_BASE)
    c.set_field(base, new)
    c.set_field(layout.KERNEL_GS_BASE, old)


@semantics("mov_from_sreg")
def mov_from_sreg(c: Context, destination: Operand, source: Operand) -> None:
    destination.write(source.read().trunc(destination.width))
