"""The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE (APM vol. 3, chapter 3)."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import AC, DF, ID, IF, IOPL, NT, RBP, RF, RFLAGS_ONE, RSP, TF, VM
from trapgate.isa.context import Context, Operand, semantics


@semantics("push")
def push(c: Context, source: Operand) -> None:
    value = source.read()
    pointer = c.stack_pointer() - value.width // 8
    c.stack_store(pointer, value)
    c.set_stack_pointer(pointer)


@semantics("pop")
def pop(c: Context, destination: Operand) -> None:
    pointer = c.stack_pointer()
    value = c.stack_load(pointer, destination.width)
    if not destination.is_memory:
        c.set_stack_pointer(pointer + destination.width // 8)
        destination.write(value)
        return
    # A memory operand addressed by rSP is computed with the incremented rSP (APM vol. 3, POP); a fault must find the
    # old one, so the operand's address is displaced instead.
    destination = c.after_pop(destination, destination.width // 8)
    destination.write(value)
    c.set_stack_pointer(pointer + destination.width // 8)


@semantics("pusha", "pushad")
def pusha(c: Context) -> None:
    width = c.operand_bits
    pointer = c.stack_pointer()
    for i in range(8):
        c.stack_store(pointer - (i + 1) * (width // 8), c.register(i, width))
    c.set_stack_pointer(pointer - width)


@semantics("popa", "popad")
def popa(c: Context) -> None:
    width = c.operand_bits
    pointer = c.stack_pointer()
    values = [c.stack_load(pointer + (7 - i) * (width // 8), width) for i in range(8)]
    for i, value in enumerate(values):
        if i != RSP:
            c.set_register(i, value)
    c.set_stack_pointer(pointer + width)


@semantics("pushf", "pushfd", "pushfq")
def pushf(c: Context) -> None:
    flags = (c.field(layout.SYSTEM_FLAGS) & ~(VM | RF)) | c.flags.bits() | RFLAGS_ONE
    width = c.operand_bits
    pointer = c.stack_pointer() - width // 8
    c.stack_store(pointer, flags.trunc(width))
    c.set_stack_pointer(pointer)


@semantics("popf", "popfd", "popfq", ends_block=True)
def popf(c: Context) -> None:
    """At CPL 0 outside virtual-8086 mode; elsewhere the decoder chooses the plain Python form."""
    width = c.operand_bits
    pointer = c.stack_pointer()
    new = c.stack_load(pointer, width).zext(64)
    c.set_stack_pointer(pointer + width // 8)
    mask = TF | IF | DF | IOPL | NT
    if width > 16:
        mask |= AC | ID
    old = c.field(layout.SYSTEM_FLAGS)
    keep = ~(mask | RF) if width > 16 else ~mask
    c.set_field(layout.SYSTEM_FLAGS, (old & keep) | (new & mask))
    c.flags.set_bits(new)
    pending = (new & IF).ne(0) & c.field(layout.INTERRUPT_PENDING).ne(0)
    c.leave_if(pending | (new & TF).ne(0))
    c.goto_next()


@semantics("leave")
def leave(c: Context) -> None:
    width = c.operand_bits
    pointer = c.register(RBP, c.stack_bits)
    value = c.stack_load(pointer, width)
    c.set_stack_pointer(pointer + width // 8)
    c.set_register(RBP, value)


@semantics("enter0")
def enter0(c: Context, size: Operand, level: Operand) -> None:
    """ENTER with a nesting level of 0; other levels are carried out in Python.

    The new top of the stack must be writable, or nothing happens (Intel SDM vol. 2, ENTER; AMD's processors do so too).
    """
    width = c.operand_bits
    pointer = c.stack_pointer() - width // 8
    top = pointer - size.read().zext(c.stack_bits)
    c.stack_probe(top)
    c.stack_store(pointer, c.register(RBP, width))
    c.set_register(RBP, pointer.resize(width))
    c.set_stack_pointer(top)
