"""Random page tables in every paging mode: the naive walker (tests/paging/naive.py) says what must come of an access.

A case is one set of tables and eight accesses: one by an instruction that runs, the rest by the processor's own
translation. All translations, faults (error code and CR2), and accessed and dirty bits are compared.
"""

from __future__ import annotations

import random

import numpy as np

from engine.harness import TABLES
from paging import naive
from paging.tables import translate
from trapgate.arch import layout
from trapgate.arch.cpuid import PROFILES
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
from trapgate.arch.segments import ATTRIBUTE_DB, ATTRIBUTE_L, CODE_ACCESSED, DATA_RW_ACCESSED
from trapgate.cpu.faults import Fault
from trapgate.engine.handlers import HandlerStore

from .machine import MEMORY_SIZE, FuzzMachine, Snapshot

ACCESSES = 8
TOGETHER = 64
#: Paging modes by name: (PAE, long mode, the flag that a profile needs).
MODES = {"two-level": (False, False, ""), "pae": (True, False, "PAE"), "long": (True, True, "LM")}
PLACES = [(name, mode) for name, profile in PROFILES.items() for mode, (_, _, flag) in MODES.items()
          if not flag or flag in profile.flags]  # fmt: skip
_PAGES = 12
_SHIFTS = {"two-level": (22, 12), "pae": (21, 12), "long": (39, 30, 21, 12)}
#: mov al, [rbx]; mov [rbx], al. Then HLT, which ends the case (#GP at CPL 3).
_READ, _WRITE = bytes.fromhex("8a03f4"), bytes.fromhex("8803f4")


class RandomPages:
    """The family: `run(choose, index)` runs one case."""

    def __init__(self, handlers: HandlerStore) -> None:
        self._handlers = handlers
        self._machines: dict[str, tuple[FuzzMachine, Snapshot]] = {}
        self._where = ""
        #: RAM as it must be.
        self._image = bytearray()

    def _prepared(self, profile: str) -> FuzzMachine:
        if profile not in self._machines:
            machine = FuzzMachine(self._handlers, PROFILES[profile])
            self._machines[profile] = machine, Snapshot(machine)
        machine, snapshot = self._machines[profile]
        machine.restore(snapshot)
        return machine

    def run(self, choose: random.Random, index: int) -> str:
        """One case; its outcomes in a word. Raises what went wrong."""
        name, mode = PLACES[index // TOGETHER % len(PLACES)]
        self._where = f"{mode} paging on {name}"
        machine = self._prepared(name)
        registers, linear = _tables(choose, machine, mode)
        _install(machine, registers)
        self._image = bytearray(machine.memory.view.obj)
        outcome = self._execute(choose, machine, registers, linear)
        for _ in range(ACCESSES - 1):
            access = naive.Access(*choose.choice(_KINDS))
            at = choose.choice(linear)
            self._translate(machine, registers, at, access)
        _compare(machine, self._image)
        machine.check()
        return outcome

    def _expected(
        self, view: bytearray | memoryview, registers: naive.Registers, at: int, access: naive.Access
    ) -> naive.Translation | naive.PageFault:

        def read(place: int, size: int) -> int:
            if place + size > MEMORY_SIZE:
                return (1 << 8 * size) - 1  # nobody answers; MMIO has no page tables
            return int.from_bytes(view[place : place + size], "little")

        return naive.translate(read, registers, at, access)

    def _translate(self, machine: FuzzMachine, registers: naive.Registers, at: int, access: naive.Access) -> None:
        expected = self._expected(machine.memory.view, registers, at, access)
        self._where += f"\n{access} at {at:#x}, wanted {expected}"
        got = translate(machine.processor, at, access)
        if isinstance(expected, naive.PageFault):
            assert isinstance(got, Fault), f"wanted {expected}, got {got:#x}"
            assert (got.vector, got.error, got.address) == (14, expected.error, at), f"wanted {expected}, got {got!r}"
        else:
            assert not isinstance(got, Fault), f"wanted {expected.physical:#x}, got {got!r}"
            assert got == expected.physical, f"wanted {expected.physical:#x}, got {got:#x}"
            _apply(self._image, expected, registers)

    def _execute(
        self, choose: random.Random, machine: FuzzMachine, registers: naive.Registers, linear: list[int]
    ) -> str:
        """An instruction that reads or writes, delivered into a handler-less IDT: what it faults with is what counts."""  # noqa: E501
        p, memory = machine.processor, machine.memory
        access = naive.Access(choose.random() < 0.5, choose.random() < 0.5, False)
        at, code_at = choose.choice(linear), choose.choice(linear) & ~0xFFF | choose.randrange(0x800)
        fetch = naive.Access(False, access.user, True)
        self._where = f"{registers}, {access} at {at:#x} by code at {code_at:#x}"
        expected = self._expected(machine.memory.view, registers, code_at, fetch)
        before, value = self._image, choose.randrange(256)
        code = _WRITE if access.write else _READ
        where, code_page, ends_in_doubt = code_at, -1, False
        if isinstance(expected, naive.Translation):
            code_page = expected.physical >> 12
            if not memory.is_ram(expected.physical & ~0xFFF, 4096) or _in_tables(expected.physical):
                return "code outside RAM"
            memory.write(expected.physical, code)
            before[expected.physical : expected.physical + len(code)] = code
        if isinstance(expected, naive.Translation):
            _apply(before, expected, registers)
            expected = self._expected(before, registers, at, access)
            where = at
            if isinstance(expected, naive.Translation):
                _apply(before, expected, registers)
                if access.write and expected.physical < MEMORY_SIZE:
                    before[expected.physical] = value
                    ends_in_doubt = expected.physical >> 12 == code_page  # perhaps it writes to its HLT
        p.cpl = 3 if access.user else 0
        for segment in p.segments:
            segment.attributes = segment.attributes & ~0x60 | p.cpl << 5
        p.rip = code_at
        p.q[0], p.q[3] = value, at
        p.mode_changed()
        caught: list[Fault] = []

        def catch(fault: Fault) -> None:
            caught.append(fault)
            raise _Caught

        p.deliver_exception = catch  # type: ignore[method-assign]
        try:
            p.run(2, max_stall=1000)
        except _Caught:
            pass
        finally:
            del p.deliver_exception
        fault = caught[0] if caught else None
        if isinstance(expected, naive.PageFault):
            assert fault is not None, f"wanted {expected} at {where:#x}, got no fault"
            assert (fault.vector, fault.error, fault.address) == (14, expected.error, where), \
                f"wanted {expected} at {where:#x}, got {fault!r}"  # fmt: skip
        else:
            assert ends_in_doubt or fault is None or (fault.vector, p.cpl, p.rip) == (13, 3, code_at + 2), \
                f"wanted {expected.physical:#x}, got {fault!r}"  # fmt: skip
        p.native_flush(p.state.address, 0)  # the write may have gone to the tables
        return "fault" if caught else "done"

    def describe(self, index: int) -> str:
        """What a reader wants to know about the case that has just failed."""
        name, mode = PLACES[index // TOGETHER % len(PLACES)]
        lines = [f"{mode} paging on {name}", self._where]
        ram = self._machines[name][0].memory.view
        for page in range(_PAGES):
            table = bytes(ram[TABLES + 4096 * page :][:4096])
            size = 8 if mode != "two-level" else 4
            used = [f"[{i // size}] {int.from_bytes(table[i : i + size], 'little'):#x}" for i in range(0, 4096, size)
                    if any(table[i : i + size])]  # fmt: skip
            if used:
                lines.append(f"table at {TABLES + 4096 * page:#x}: {' '.join(used)}")
        return "\n".join(lines)


def _compare(machine: FuzzMachine, wanted: bytearray) -> None:
    different = np.flatnonzero(np.frombuffer(wanted, np.uint64) != machine.words)
    if different.size:
        place = int(different[0]) * 8
        got = machine.memory.read(place, 8).hex(" ")
        raise AssertionError(
            f"accessed or dirty bits: at {place:#x} is {got}, not {wanted[place : place + 8].hex(' ')}"
        )


class _Caught(Exception):
    pass


_KINDS = [(False, False, False), (True, False, False), (False, True, False), (True, True, False), (False, False, True),
          (False, True, True)]  # fmt: skip


def _in_tables(physical: int) -> bool:
    return TABLES <= physical < TABLES + 4096 * _PAGES


def _apply(ram: bytearray, translation: naive.Translation, registers: naive.Registers) -> None:
    size = 8 if registers.pae else 4
    for place, entry in translation.updates.items():
        if place + size <= MEMORY_SIZE:
            ram[place : place + size] = entry.to_bytes(size, "little")


def _target(choose: random.Random, table: int, used: int) -> int:
    """Where an entry leads: mostly to the next table, else to itself, beyond RAM, to a device, anywhere."""
    kind = choose.random()
    if kind < 0.9:
        return TABLES + used * 4096
    if kind < 0.95:
        return TABLES + table * 4096
    return choose.choice((MEMORY_SIZE, MEMORY_SIZE - 4096, 0xF000_0000, 0xFFFF_F000, choose.getrandbits(20) << 12))


def _tables(choose: random.Random, machine: FuzzMachine, mode: str) -> tuple[naive.Registers, list[int]]:
    """Mostly sensible tables with faults of every kind strewn in, and linear addresses worth trying."""
    pae, long_mode, _ = MODES[mode]
    profile, chance, shifts = machine.profile, choose.random, _SHIFTS[mode]
    size, index_bits = (8, 9) if pae else (4, 10)
    tables = bytearray(_PAGES * 4096)
    used, linear = 1, []
    level_used: dict[tuple[int, int], int] = {}
    strange = choose.choice((0.0, 0.02, 0.1))

    def entry(shift: int, target: int) -> int:
        value = target
        for bit, likely in ((0, 0.98 - strange), (1, 0.8), (2, 0.8), (5, 0.4), (6, 0.3), (8, 0.3)):
            value |= (chance() < likely) << bit
        if pae and chance() < strange + 0.05:
            value |= 1 << 63
        if pae and chance() < strange:
            value |= 1 << choose.randrange(32, 63)
        if shift == 12:
            return value | (chance() < 0.3) << 7  # PAT
        if chance() < (strange if shift == 39 else 0.2):
            value |= 1 << 7
            if chance() < 0.8:
                value &= ~((1 << shift) - 1 & ~0xFFF) | 1 << 12
            if shift == 22 and chance() < 0.5:
                value |= choose.getrandbits(9) << 13
        return value

    for _ in range(choose.randrange(1, 4)):
        at = choose.getrandbits(48 if long_mode else 32)
        if long_mode and at >> 47:
            at |= 0xFFFF << 48
        linear += [at, at ^ choose.getrandbits(12)]
        table = 0
        for shift in shifts:
            index = at >> shift & ((1 << index_bits) - 1)
            place = table * 4096 + index * size
            if shift == 12:
                for neighbour in (index, index ^ 1):
                    frame = choose.choice((choose.randrange(64) << 12, choose.randrange(256) << 12,
                                           _target(choose, table, table)))  # fmt: skip
                    place = table * 4096 + neighbour * size
                    tables[place : place + size] = entry(shift, frame & (1 << 8 * size) - 1).to_bytes(size, "little")
                linear.append(at ^ 0x1000)
            elif (table, index) in level_used:
                table = level_used[table, index]
            elif used < _PAGES:
                value = entry(shift, _target(choose, table, used)) & (1 << 8 * size) - 1
                tables[place : place + size] = value.to_bytes(size, "little")
                level_used[table, index] = used
                table, used = used, used + 1
                linear.append(at ^ choose.getrandbits(shift) if chance() < 0.5 else at)
            else:
                break
    machine.memory.write(TABLES, tables)
    below_4g = TABLES
    pdptes = tuple(below_4g | 1 if chance() < 0.95 else choose.choice((below_4g, MEMORY_SIZE | 1)) for _ in range(4))
    reserved_pse = "PSE36" in profile.flags
    return naive.Registers(
        cr3=TABLES if chance() < 0.98 else choose.choice((MEMORY_SIZE, MEMORY_SIZE - 4096)),
        pae=pae,
        long_mode=long_mode,
        page_size_extensions="PSE" in profile.flags and chance() < 0.8,
        write_protect=chance() < 0.5,
        no_execute_enable="NX" in profile.flags and pae and chance() < 0.8,
        physical_bits=profile.physical_bits,
        pdptes=pdptes,  # type: ignore[arg-type]
        pse36=reserved_pse,
        pat="PAT" in profile.flags,
        gigabyte_pages="PAGE1GB" in profile.flags,
    ), linear


def _install(machine: FuzzMachine, registers: naive.Registers) -> None:
    p, state = machine.processor, machine.processor.state
    state.set(layout.CR0, CR0_PE | CR0_ET | CR0_PG | (CR0_WP if registers.write_protect else 0))
    cr4 = CR4_PGE | (CR4_PAE if registers.pae else 0) | (CR4_PSE if registers.page_size_extensions else 0)
    state.set(layout.CR4, cr4 & machine.profile.cr4_bits)
    efer = (EFER_NXE if registers.no_execute_enable else 0) | (EFER_LME | EFER_LMA if registers.long_mode else 0)
    state.set(layout.EFER, efer)
    state.set(layout.CR3, registers.cr3)
    for i, pdpte in enumerate(registers.pdptes):
        state.set(layout.PDPTE + 8 * i, pdpte)
    size = ATTRIBUTE_L if registers.long_mode else ATTRIBUTE_DB
    for number, segment in enumerate(p.segments):
        segment.load(8, 0, 0xFFFF_FFFF, CODE_ACCESSED | size if number == CS else DATA_RW_ACCESSED | ATTRIBUTE_DB)
    p.mode_changed()
