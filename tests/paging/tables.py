"""Random page tables in a processor's memory, and its translations."""

from __future__ import annotations

import random
from dataclasses import dataclass

from trapgate.arch import layout
from trapgate.arch.registers import (
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CS,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
)
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L, CODE_ACCESSED
from trapgate.cpu.faults import Fault
from trapgate.engine.processor import Processor

from . import naive

TABLES_AT = 0x10_0000
_PHYSICAL_BITS = 48


@dataclass
class Setup:
    """Registers, linear addresses worth trying, and the tables as (physical address, bytes)."""

    registers: naive.Registers
    linear: list[int]
    tables: bytes


def random_setup(seed: int, kind: str | None = None) -> Setup:
    """Tables of one of the three formats, mostly sensible, with faults of every kind strewn in."""
    choose = random.Random(seed)
    kind = choose.choice(("two-level", "pae", "long", "long")) if kind is None else kind
    pae, long_mode = kind != "two-level", kind == "long"
    chance = choose.random
    size, index_bits = (8, 9) if pae else (4, 10)
    shifts = {"two-level": (22, 12), "pae": (21, 12), "long": (39, 30, 21, 12)}[kind]
    tables = bytearray(16 * 4096)
    used = 1
    linear = _linear(choose, long_mode)
    addresses = [linear]
    extended = choose.random() < 0.8
    no_execute = choose.random() < 0.8

    def entry(shift: int, target: int) -> int:
        value = target
        for bit, likely in ((0, 0.93), (1, 0.75), (2, 0.75), (5, 0.4), (6, 0.3), (8, 0.3)):
            value |= (chance() < likely) << bit
        if pae:
            value |= (chance() < 0.15) << 63
            if chance() < 0.04:
                value |= 1 << choose.choice((52, 58, 62, 51, 49))
        if chance() < (0.04 if shift == 39 else 0.25) and shift != 12:
            value |= 1 << 7
            if chance() < 0.7:
                value &= ~((1 << shift) - 1 & ~0xFFF) | 1 << 12  # a proper large page, PAT bit or not
            if chance() < 0.5 and shift == 22:
                value |= choose.getrandbits(8) << 13
        elif shift == 12:
            value |= (chance() < 0.3) << 7  # PAT
        return value

    table = 0
    for shift in shifts:
        index = linear >> shift & ((1 << index_bits) - 1)
        if shift == 12:
            frame = choose.getrandbits(36 if pae else 20) << 12 if chance() < 0.3 else choose.randrange(1024) << 12
            for neighbour in (index, index ^ 1):
                value = entry(shift, frame ^ (neighbour << 12 & 0x1000))
                at = table * 4096 + neighbour * size
                tables[at : at + size] = value.to_bytes(size, "little")
            addresses.append(linear ^ 0x1000)
        else:
            at = table * 4096 + index * size
            tables[at : at + size] = entry(shift, TABLES_AT + used * 4096).to_bytes(size, "little")
            table, used = used, used + 1
            addresses.append(linear ^ choose.getrandbits(shift))
    pdptes = tuple(TABLES_AT | 1 if chance() < 0.95 else TABLES_AT for _ in range(4))
    registers = naive.Registers(
        cr3=TABLES_AT,
        pae=pae,
        long_mode=long_mode,
        page_size_extensions=extended,
        write_protect=chance() < 0.5,
        no_execute_enable=no_execute,
        physical_bits=_PHYSICAL_BITS,
        pdptes=pdptes,  # type: ignore[arg-type]
    )
    return Setup(registers, addresses, bytes(tables))


def _linear(choose: random.Random, long_mode: bool) -> int:
    if not long_mode:
        return choose.getrandbits(32)
    value = choose.getrandbits(48)
    return value | (0xFFFF << 48 if value >> 47 else 0)


def install(processor: Processor, setup: Setup) -> None:
    """Put tables and control registers in place; the TLB is empty afterwards."""
    processor.reset()
    registers, state = setup.registers, processor.state
    processor.memory.write(TABLES_AT, setup.tables)
    state.set(layout.CR0, CR0_PE | CR0_ET | CR0_PG | (CR0_WP if registers.write_protect else 0))
    cr4 = CR4_PGE | (CR4_PAE if registers.pae else 0) | (CR4_PSE if registers.page_size_extensions else 0)
    state.set(layout.CR4, cr4)
    efer = (EFER_NXE if registers.no_execute_enable else 0) | (EFER_LME | EFER_LMA if registers.long_mode else 0)
    state.set(layout.EFER, efer)
    state.set(layout.CR3, registers.cr3)
    state.set(layout.RESERVED_BITS, ((1 << 52) - 1) & ~((1 << registers.physical_bits) - 1))
    for i, pdpte in enumerate(registers.pdptes or ()):
        state.set(layout.PDPTE + 8 * i, pdpte)
    size = ATTRIBUTE_L if registers.long_mode else ATTRIBUTE_DB
    processor.segments[CS].load(8, 0, 0xFFFF_FFFF, CODE_ACCESSED | size)
    processor.mode_changed()


def translate(processor: Processor, linear: int, access: naive.Access) -> int | Fault:
    """Guest-physical address, or the fault, of a data or instruction access."""
    processor.cpl = 3 if access.user else 0
    processor.mode_changed()
    processor._select()
    bits = (naive.ERROR_RW if access.write else 0) | (naive.ERROR_US if access.user else 0)
    if not access.fetch:
        try:
            return processor.translate(linear, bits)
        except Fault as fault:
            return fault
    state = processor.state
    if processor._translate_code(state.address, linear, bits | naive.ERROR_ID):
        return state.get(layout.TRANSLATED)
    fault_address = state.get(layout.FAULT_ADDRESS)
    return Fault(state.get(layout.FAULT_VECTOR), state.get(layout.FAULT_ERROR), fault_address)
