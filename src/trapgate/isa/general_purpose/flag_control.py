"""Flags as operands: CLC, STC, CMC, CLD, STD, LAHF, SAHF, CLI, STI, SALC (APM vol. 3, chapter 3)."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import DF, IF, RAX, RFLAGS_ONE
from trapgate.isa.context import Context, semantics


@semantics("clc")
def clc(c: Context) -> None:
    if not c.flags.dead:
        c.flags.set_carry(c.emit.constant(0, 1))


@semantics("stc")
def stc(c: Context) -> None:
    if not c.flags.dead:
        c.flags.set_carry(c.emit.constant(1, 1))


@semantics("cmc")
def cmc(c: Context) -> None:
    if not c.flags.dead:
        c.flags.set_carry(c.flags.carry() ^ 1)


@semantics("cld")
def cld(c: Context) -> None:
    c.set_field(layout.SYSTEM_FLAGS, c.field(layout.SYSTEM_FLAGS) & ~DF)


@semantics("std")
def std(c: Context) -> None:
    c.set_field(layout.SYSTEM_FLAGS, c.field(layout.SYSTEM_FLAGS) | DF)


@semantics("lahf")
def lahf(c: Context) -> None:
    low = c.flags.bits().trunc(8) | RFLAGS_ONE
    ax = c.register(RAX, 16)
    c.set_register(RAX, (ax & 0xFF) | (low.zext(16) << 8))


@semantics("sahf")
def sahf(c: Context) -> None:
    ah = (c.register(RAX, 16) >> 8).zext(64)
    overflow = c.flags.overflow().zext(64) << 11
    c.flags.set_bits((ah & 0xD5) | overflow)


@semantics("salc")
def salc(c: Context) -> None:
    c.set_register(RAX, c.flags.carry().sext(8))


@semantics("cli")
def cli(c: Context) -> None:
    """Only where CPL <= IOPL; elsewhere the decoder chooses the plain Python form."""
    c.set_field(layout.SYSTEM_FLAGS, c.field(layout.SYSTEM_FLAGS) & ~IF)


@semantics("sti", ends_block=True)
def sti(c: Context) -> None:
    """Only where CPL <= IOPL. Interrupts are recognized after the next instruction (APM vol. 3, STI)."""
    flags = c.field(layout.SYSTEM_FLAGS)
    c.set_field(layout.SYSTEM_FLAGS, flags | IF)
    shadowed = (flags & IF).eq(0) & c.field(layout.IN_GUEST).ne(0)
    c.leave_if(c.field(layout.INTERRUPT_PENDING).ne(0) | shadowed)
    c.goto_next()
