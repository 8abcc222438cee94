"""Random descriptor tables, hit by segment loads, far transfers, interrupts and task switches.

The naive model (naive_transfer.py and its neighbours) says what must come of one instruction: the fault, or the new
segments, privilege, instruction and stack pointers, flags and memory. Half of the faults are delivered too, through
the random IDT, up to double and triple faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from engine.harness import CODE, DATA, GDT, IDT, STACK, TSS, TSS_SELECTOR
from trapgate.arch.cpuid import PROFILES
from trapgate.arch.registers import IF, RSP
from trapgate.cpu.faults import Fault
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Stopped

from . import naive_returns
from .machine import FuzzMachine, Snapshot
from .naive_transfer import Naive, NaiveFault, Segment

LDT, LDT_ENTRIES, GDT_ENTRIES, GATES = 0x1800, 16, 32, 64
_TASKS = (0x3200, 0x3400, 0x3600)
TOGETHER = 64
_FLAGS = 0x3F_7FD7
MODES: dict[str, Callable[[FuzzMachine], object]] = {
    **{f"32-bit, CPL {cpl}": (lambda m, cpl=cpl: m.enter_protected(cpl=cpl)) for cpl in range(4)},  # type: ignore[misc]
    "compatibility, CPL 0": lambda m: m.enter_long(compatibility=True),
    "compatibility, CPL 3": lambda m: m.enter_long(cpl=3, compatibility=True),
    "64-bit, CPL 0": lambda m: m.enter_long(),
    "64-bit, CPL 3": lambda m: m.enter_long(cpl=3),
}
PLACES = [(name, mode) for name, profile in PROFILES.items() for mode in MODES
          if mode.startswith("32") or "LM" in profile.flags]  # fmt: skip


class _Caught(Exception):
    pass


class RandomTables:
    """The family: `run(choose, index)` runs one case."""

    def __init__(self, handlers: HandlerStore) -> None:
        self._handlers = handlers
        self._machines: dict[str, FuzzMachine] = {}
        self._snapshots: dict[tuple[str, str], Snapshot] = {}
        self._text = ""

    def _prepared(self, index: int) -> tuple[FuzzMachine, str]:
        profile, mode = PLACES[index // TOGETHER % len(PLACES)]
        machine = self._machines.get(profile)
        if machine is None:
            machine = self._machines[profile] = FuzzMachine(self._handlers, PROFILES[profile])
        snapshot = self._snapshots.get((profile, mode))
        if snapshot is None:
            machine.blank()
            MODES[mode](machine)
            snapshot = self._snapshots[profile, mode] = Snapshot(machine)
        machine.restore(snapshot)
        return machine, mode

    def run(self, choose: random.Random, index: int) -> str:
        """One case; what it did. Raises what went wrong."""
        machine, mode = self._prepared(index)
        p, memory = machine.processor, machine.memory
        long_mode = p.long_mode
        _write_tables(choose, machine, long_mode)
        p.gdtr_limit = choose.choice((8 * GDT_ENTRIES - 1, 8 * GDT_ENTRIES - 1, choose.randrange(0x50, 0x100)))
        p.idtr_limit = choose.choice((0x3FF, 0x3FF, 0x3FF, choose.randrange(0x400)))
        p.ldtr.load(0x48, LDT, 8 * LDT_ENTRIES - 1, choose.choice((0x82, 0x82, 0x82, 2)))
        if choose.random() < 0.1:
            p.tr.limit = choose.randrange(0x68)
        if not long_mode and choose.random() < 0.1:
            p.tr.attributes = 0x83
        p.rflags = 2 | choose.getrandbits(8) & 0xD5 | (IF if choose.random() < 0.5 else 0) | choose.getrandbits(2) << 12
        if choose.random() < 0.3:
            p.rflags |= 1 << 14
        for number in range(16 if long_mode else 8):
            p.q[number] = choose.getrandbits(32)
        p.q[3], p.q[RSP] = DATA, STACK - 0x100 + choose.randrange(64) * 4
        if choose.random() < 0.02:
            p.q[RSP] = choose.choice((2, 0x8_0004, 0xFFFF_FFF8, 14))
        for i in range(16):
            memory.write_u32(p.q[RSP] + 4 * i & 0xF_FFFC, _word(choose, p.cpl))
        text, operation = _instruction(choose, machine)
        code = bytes.fromhex(text)
        memory.write(CODE, code)
        p.mode_changed()

        return self.judge(machine, mode, code, operation, choose.random() < 0.5)

    def judge(
        self, machine: FuzzMachine, mode: str, code: bytes, operation: Callable[[Naive], None], delivered: bool
    ) -> str:
        """Carry out one instruction on both sides and compare; a fault is `delivered`, or caught before it is."""
        p = machine.processor
        before = _naive(machine)
        wanted = before.copy()
        wanted.ip += len(code)
        fault: NaiveFault | None = None
        try:
            operation(wanted)
        except NaiveFault as found:
            fault = found
        self._text = f"{mode}: {code.hex()}, wanted {fault!r}"
        if fault is None:
            assert _step(machine, None).reason == "steps"
            self._compare(machine, wanted, [])
            return "done"
        if not delivered:
            caught = _catch(machine)
            assert caught is not None, "no fault"
            got = caught.vector, caught.error, caught.address
            assert got == (fault.vector, fault.error, fault.address), f"got {caught!r}"
            if not wanted.switched:
                now = _naive(machine)
                assert (now.ip, now.sp, now.cpl, now.seg) == (before.ip, before.sp, before.cpl, before.seg)
            return "fault"
        start = wanted if wanted.switched else before
        tables = [(GDT, 8 * GDT_ENTRIES), (LDT, 8 * LDT_ENTRIES)]
        try:
            wanted, tried = naive_returns.deliver_exception(start, fault)
        except naive_returns.TripleFault:
            assert _step(machine, None).reason == "triple-fault"
            return "triple fault"
        self._text += f", then {tried}"
        assert _step(machine, None).reason == "steps"
        assert p.exception_counts == {v: tried.count(v) for v in tried}, f"exceptions {p.exception_counts}"
        self._compare(machine, wanted, tables)
        return "delivered"

    def _compare(self, machine: FuzzMachine, wanted: Naive, except_for: list[tuple[int, int]]) -> None:
        got = _naive(machine)
        for number, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs")):
            mine, theirs = wanted.seg[number], got.seg[number]
            if mine.rights & 0x80:
                assert theirs == mine, f"{name} is {theirs}, not {mine}"
            else:
                assert (theirs.selector, theirs.rights & 0x80) == (mine.selector, 0), f"{name} is {theirs}, not {mine}"
        for name in ("cpl", "ip", "sp"):
            assert getattr(got, name) == getattr(wanted, name), f"{name} is {getattr(got, name):#x}, not {wanted}"
        flags, mine_flags = got.flags & _FLAGS, wanted.flags & _FLAGS
        assert flags == mine_flags, f"flags are {flags:#x}, not {mine_flags:#x}"
        assert got.tr == wanted.tr, f"tr is {got.tr}, not {wanted.tr}"
        assert got.ldt.selector == wanted.ldt.selector
        if wanted.ldt.rights & 0x80:
            assert (got.ldt.base, got.ldt.limit) == (wanted.ldt.base, wanted.ldt.limit), f"ldtr is {got.ldt}"
        if wanted.switched:
            mask = 0xFFFF_FFFF
            registers = [machine.processor.q[i] & mask for i in range(8) if i != RSP]
            assert registers == [v & mask for i, v in enumerate(wanted.registers) if i != RSP], f"got {registers}"
        for at, length in except_for:
            wanted.ram[at : at + length] = machine.memory.read(at, length)
        different = np.flatnonzero(np.frombuffer(wanted.ram, np.uint8) != machine.words.view(np.uint8))
        if machine.processor.long_mode:
            different = different[different < 0x4_0000]  # the page tables' accessed bits
        if different.size:
            place = int(different[0])
            raise AssertionError(
                f"memory at {place:#x} is {machine.memory.read_u8(place):#x}, not {wanted.ram[place]:#x}"
            )

    def describe(self, index: int) -> str:
        """What a reader wants to know about the case that has just failed."""
        profile, mode = PLACES[index // TOGETHER % len(PLACES)]
        p, memory = self._machines[profile].processor, self._machines[profile].memory
        lines = [f"{mode} on {profile}: {self._text}", f"now: {_naive(self._machines[profile], ram=False)}",
                 f"stack {memory.read(p.q[RSP] & 0xF_FF80, 128).hex(' ', 4)}, at [rbx] {memory.read(DATA, 10).hex()}"]  # fmt: skip  # noqa: E501
        for name, at, count in (("GDT", GDT, GDT_ENTRIES), ("LDT", LDT, LDT_ENTRIES), ("IDT", IDT, GATES)):
            words = " ".join(f"[{i}] {memory.read_u64(at + 8 * i):016x}" for i in range(count))
            lines.append(f"{name}: {words}")
        return "\n".join(lines)


def _step(machine: FuzzMachine, catch: Callable[[Fault], None] | None) -> Stopped:
    p = machine.processor
    if catch is not None:
        p.deliver_exception = catch  # type: ignore[method-assign]
    try:
        return p.step(1)
    finally:
        if catch is not None:
            del p.deliver_exception


def _catch(machine: FuzzMachine) -> Fault | None:
    caught: list[Fault] = []

    def catch(fault: Fault) -> None:
        caught.append(fault)
        raise _Caught

    try:
        _step(machine, catch)
    except _Caught:
        return caught[0]
    return None


def _naive(machine: FuzzMachine, ram: bool = True) -> Naive:
    """The machine's state in the naive model's terms."""
    p = machine.processor
    segments = [Segment(s.selector, s.base, s.limit, s.attributes & 0xFF, s.attributes >> 8) for s in p.segments]
    system = [Segment(s.selector, s.base, s.limit, s.attributes & 0xFF, s.attributes >> 8) for s in (p.ldtr, p.tr)]
    return Naive(
        bytearray(machine.memory.view.obj) if ram else bytearray(), p.long_mode, segments, p.cpl, p.rip, p.q[RSP],
        p.rflags, (p.gdtr_base, p.gdtr_limit), (p.idtr_base, p.idtr_limit), *system, [p.q[i] for i in range(8)],
    )  # fmt: skip


# -- what the tables hold


#: Where the GDT mostly has a code segment of each level, a data segment of each level, gates, and TSSs.
_CODE, _DATA, _SYSTEM = 12, 16, (20, 22, 24, 25, 26)


def _selector(choose: random.Random, cpl: int, first: int = 0) -> int:
    """A selector; with `first` mostly that of the fitting segment of level `cpl`."""
    kind = choose.random()
    if first and kind > 0.25:
        return first + cpl << 3 | cpl
    if kind < 0.04:
        return choose.randrange(4)
    if kind < 0.06:
        return choose.getrandbits(16)
    rpl = cpl if choose.random() < 0.7 else choose.randrange(4)
    local = choose.random() < 0.15
    return choose.randrange(LDT_ENTRIES + 1 if local else GDT_ENTRIES + 1) << 3 | local << 2 | rpl


def _offset(choose: random.Random) -> int:
    return choose.choice((CODE, choose.randrange(0x10000), choose.randrange(0x10000), choose.getrandbits(32)))


def _frame(choose: random.Random, cpl: int) -> list[int]:
    """What mostly fits a far return or, with flags between, IRET."""
    level = choose.choice((cpl, cpl, 3, choose.randrange(cpl, 4)))
    flags = [choose.getrandbits(22) & ~(1 << 17 if choose.random() < 0.9 else 0)] if choose.random() < 0.6 else []
    head = [choose.randrange(0x8000), _selector(choose, level, _CODE), *flags]
    return [*head, choose.randrange(0x5000, 0x7000), _selector(choose, level, _DATA)]


def _word(choose: random.Random, cpl: int) -> int:
    """An element of a stack."""
    kind = choose.random()
    if kind < 0.5:
        return _selector(choose, max(cpl, choose.choice((0, 3)))) | (
            choose.getrandbits(32) & ~0xFFFF if kind < 0.1 else 0
        )
    return choose.randrange(0x1000, 0x7000) if kind < 0.8 else _offset(choose)


def _descriptor(choose: random.Random, cpl: int, long_mode: bool) -> int:
    kind = choose.random()
    if kind < 0.03:
        return choose.getrandbits(64)
    dpl = choose.choice((cpl, cpl, 0, 3, choose.randrange(4)))
    access = (choose.random() < 0.94) << 7 | dpl << 5
    if kind < 0.65:
        access |= 0x10 | choose.choice((choose.randrange(16), 0xA | choose.getrandbits(2) & 1, 2, 0xE))
        size = choose.choice((0xC, 0xC, 4, 0, 0xA, 0xA, 0xE) if long_mode else (0xC, 0xC, 4, 0))
        limit = choose.choice((0xF_FFFF, 0xFFFF, choose.getrandbits(20), 0x7F))
        base = choose.choice((0, 0, choose.getrandbits(12), choose.getrandbits(32)))
        if access & 0xC == 4 and choose.random() < 0.8:
            limit = choose.randrange(0x1000)  # expand-down
            size &= ~8
        return _segment(access, size, base, limit)
    if kind < 0.82:
        return gate(choose, access | (12 if long_mode or choose.random() < 0.6 else choose.choice((4, 5))), cpl)
    if kind < 0.95:
        access |= choose.choice((9, 9, 11, 1, 3, 2, choose.randrange(16)))
        limit = choose.choice((0x67, 0x67, 0xFF, 0x2B, choose.randrange(0x70)))
        return _segment(access, 0, LDT if access & 15 == 2 else choose.choice(_TASKS), limit)
    return 0


def _fitting(choose: random.Random, index: int, long_mode: bool, cpl: int) -> int:
    """The descriptor that belongs at an index of the GDT, or 0."""
    if _CODE <= index < _DATA:
        access = 0x9A | choose.getrandbits(1) | index - _CODE << 5 | (choose.random() < 0.15) << 2
        return _segment(access, 0xA if long_mode and choose.random() < 0.8 else 0xC, 0, choose.choice((0xF_FFFF, 0x3F)))
    if _DATA <= index < _DATA + 4:
        return _segment(0x92 | choose.getrandbits(1) | index - _DATA << 5, choose.choice((0xC, 0xC, 8)), 0, 0xF_FFFF)
    if index in (20, 22):
        kind = 12 if long_mode or choose.random() < 0.7 else 4
        return gate(choose, 0x80 | choose.choice((3, cpl)) << 5 | kind, cpl)
    if index == 24:
        return _segment(0x80 | choose.choice((9, 9, 1, 11, 3, 2)) | cpl << 5, 0, choose.choice(_TASKS), 0x67)
    if index == 25 and not long_mode:
        return 24 << 19 | 0x85 << 40 | choose.choice((3, cpl)) << 45
    return 0


def _segment(access: int, size: int, base: int, limit: int) -> int:
    return (limit & 0xFFFF | (base & 0xFF_FFFF) << 16 | access << 40 | (limit >> 16 & 15) << 48 | size << 52
            | (base >> 24 & 0xFF) << 56)  # fmt: skip


def gate(choose: random.Random, access: int, cpl: int) -> int:
    """A gate: `access` is its byte of rights and type."""
    offset = _offset(choose)
    return (offset & 0xFFFF | _selector(choose, choose.choice((0, 0, cpl)), _CODE) << 16 | choose.choice((0, 0, choose.randrange(32))) << 32  # noqa: E501
            | access << 40 | (offset >> 16) << 48)  # fmt: skip


def _write_tables(choose: random.Random, machine: FuzzMachine, long_mode: bool) -> None:
    memory, cpl = machine.memory, machine.processor.cpl
    for at, count in ((GDT, GDT_ENTRIES), (LDT, LDT_ENTRIES)):
        i = 0
        while i < count:
            if at == GDT and (i == TSS_SELECTOR >> 3 or i < 9) and choose.random() < 0.5:
                i += 1
                continue
            value = _descriptor(choose, cpl, long_mode)
            if at == GDT and choose.random() < 0.85:
                value = _fitting(choose, i, long_mode, cpl) or value
            memory.write_u64(at + 8 * i, value)
            i += 1
            if long_mode and not value >> 44 & 1 and i < count and choose.random() < 0.9:
                memory.write_u64(at + 8 * i, 0 if choose.random() < 0.95 else choose.getrandbits(64) & ~(0x1F << 40))
                i += 1
    memory.write_u8(GDT + (TSS_SELECTOR & ~7) + 5, 0x8B)
    for vector in range(GATES):
        kind = choose.choice(
            (14, 14, 15, 6, 7, 5, choose.randrange(32)) if not long_mode else (14, 14, 15, choose.randrange(32))
        )
        access = (choose.random() < 0.95) << 7 | choose.choice((0, 3, cpl)) << 5 | kind
        value = gate(choose, access, cpl)
        if kind == 5 and choose.random() < 0.8:
            value = 24 << 19 | access << 40
        if long_mode:
            value &= ~(0xFF << 32) | choose.choice((0, 0, 1, 2)) << 32
            memory.write_u64(IDT + 16 * vector, value)
            memory.write_u64(IDT + 16 * vector + 8, 0 if choose.random() < 0.97 else 1 << choose.randrange(32))
        else:
            memory.write_u64(IDT + 8 * vector, value)
    for ring in range(3):
        if long_mode:
            memory.write_u64(
                TSS + 4 + 8 * ring, choose.choice((0x5800, 0x5808, choose.getrandbits(20), choose.getrandbits(64)))
            )
        else:
            memory.write_u32(TSS + 4 + 8 * ring, choose.choice((0x5800, 0x5800, choose.getrandbits(16), 6)))
            memory.write_u16(TSS + 8 + 8 * ring, _selector(choose, ring, _DATA))
    memory.write_u16(TSS, 24 << 3 if choose.random() < 0.8 else _selector(choose, 0))
    if long_mode:
        memory.write_u64(TSS + 36, 0x5C00)
        memory.write_u64(TSS + 44, choose.choice((0x5C08, choose.getrandbits(64))))
        return
    for task in _TASKS:
        memory.write(task, choose.randbytes(0x68))
        wide = choose.random() < 0.7
        start, size, count = (32, 4, 6) if wide else (14, 2, 4)
        values = [_offset(choose), choose.getrandbits(16) & ~0x100 | (choose.random() < 0.05) << 17]
        values += [choose.getrandbits(32) if i != 4 else choose.randrange(0x5000, 0x7000) for i in range(8)]
        level = choose.choice((0, 3, cpl))
        values += [_selector(choose, level, _CODE if i == 1 else _DATA) for i in range(count)]
        mask = (1 << 8 * size) - 1
        memory.write(task + start, b"".join((v & mask).to_bytes(size, "little") for v in values))
        memory.write_u16(task + (96 if wide else 42), choose.choice((0, choose.randrange(GDT_ENTRIES) << 3)))
        memory.write_u16(task + 100, choose.random() < 0.05)


# -- the instruction


def _instruction(choose: random.Random, machine: FuzzMachine) -> tuple[str, Callable[[Naive], None]]:
    p, memory = machine.processor, machine.memory
    bits64, cpl = p.bits == 64, p.cpl
    kind = choose.choice(("mov", "far", "far", "far", "retf", "iret", "iret", "int", "int", "ud2", "system"))
    narrow = choose.random() < 0.2
    size = 2 if narrow else 4
    prefix = "66" if narrow else ""
    if kind == "mov":
        number, selector = choose.choice((0, 2, 3, 4, 5)), _selector(choose, cpl, choose.choice((0, _CODE, _DATA)))
        p.q[0] = selector
        return f"8e{0xC0 | number << 3:02x}", lambda n: n.load(number, selector)
    if kind == "system":
        selector, task = _selector(choose, 0), choose.random() < 0.5
        p.q[0] = selector
        return f"0f00{0xD8 if task else 0xD0:02x}", lambda n: n.system_segment(selector, task)
    if kind == "far":
        first = choose.choice((_CODE, choose.choice(_SYSTEM) - cpl))
        selector, call = _selector(choose, cpl, first), choose.random() < 0.6
        offset = _offset(choose) & (1 << 8 * size) - 1
        if selector >> 3 == TSS_SELECTOR >> 3 and choose.random() < 0.9:
            selector += 8
        memory.write(DATA, offset.to_bytes(size, "little") + selector.to_bytes(2, "little"))
        return f"{prefix}ff{0x1B if call else 0x2B:02x}", lambda n: n.far(selector, offset, size, call)
    if kind == "int":
        vector = choose.randrange(GATES)
        return f"cd{vector:02x}", lambda n: naive_returns.deliver(n, vector, None, True, False)
    if kind == "ud2":
        return "0f0b", _undefined
    if bits64 and not narrow and choose.random() < 0.7:
        prefix, size = "48", 8
    if kind in ("retf", "iret") and choose.random() < 0.8:
        for i, word in enumerate(_frame(choose, cpl)):
            memory.write(
                p.q[RSP] + size * i & 0xF_FFF0 | p.q[RSP] & 12, (word & (1 << 8 * size) - 1).to_bytes(size, "little")
            )
    if kind == "retf":
        released = choose.choice((0, 0, 4, 8))
        text = f"{prefix}ca{released:02x}00" if released else f"{prefix}cb"
        return text, lambda n: naive_returns.return_far(n, size, released)
    return f"{prefix}cf", lambda n: naive_returns.interrupt_return(n, size)


def _undefined(n: Naive) -> None:
    raise NaiveFault(6, None)
