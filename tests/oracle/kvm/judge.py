"""Two outcomes of one system case, field by field."""

from __future__ import annotations

from dataclasses import replace

import iced_x86

from .. import areas
from .cases import SHUTDOWN, SystemCase, SystemOutcome
from .known import Difference
from .world import PAGE, STUB_SIZE, STUBS, MachineState, Segment

_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_PREFIXES = frozenset(("rep", "repe", "repne", "lock"))
_DR = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")


def _shown(value: object) -> str:
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, Segment):
        return f"{value.selector:04x} base {value.base:x} limit {value.limit:x} attributes {value.attributes:03x}"
    if isinstance(value, tuple):
        return ":".join(map(_shown, value))
    return str(value)


def _normal(segment: Segment, null: bool) -> Segment:
    """What can be seen of a segment register: of one that holds nothing, the selector alone."""
    if null or not segment.attributes & 0x80:
        return Segment(segment.selector, 0, 0, 0)
    return segment


def differences(case: SystemCase, expected: SystemOutcome, got: SystemOutcome) -> list[str]:
    """One line for every field that differs: `field: wanted X, got Y`."""
    lines: list[str] = []

    def check(name: str, wanted: object, found: object) -> None:
        if wanted != found:
            lines.append(f"{name}: wanted {_shown(wanted)}, got {_shown(found)}")

    check("end", expected.ended, got.ended)
    if expected.ended == got.ended == SHUTDOWN:
        return lines  # nothing is left to be seen
    a, b = expected.state, got.state
    check("rip", a.rip, b.rip)
    plain = case.plain
    undefined = plain.undefined_registers if plain else {}
    for number, name in enumerate(_NAMES):
        check(name, a.gpr[number] & ~undefined.get(number, 0), b.gpr[number] & ~undefined.get(number, 0))
    flags = ~plain.undefined_flags if plain else -1
    check("rflags", a.rflags & flags, b.rflags & flags)
    protected = bool(b.cr0 & 1) and not b.rflags >> 17 & 1
    for name, s, t in zip(
        (*_SEGMENTS, "tr", "ldtr"), (*a.segments, a.tr, a.ldtr), (*b.segments, b.tr, b.ldtr), strict=True
    ):
        null = protected and not (s.selector | t.selector) & ~3
        if name == "cs" and not b.cr0 & 1:
            # Without protection code is read, written and run alike: type 3 or 11, processors differ (4.5.1).
            s, t = replace(s, attributes=s.attributes & ~8), replace(t, attributes=t.attributes & ~8)
        check(name, _normal(s, null), _normal(t, null))
    for name in ("gdtr", "idtr", "cr0", "cr2", "cr3", "cr4", "efer"):
        check(name, getattr(a, name), getattr(b, name))
    if case.uses_dr:
        for name, x, y in zip(_DR, a.dr, b.dr, strict=True):
            check(name, x, y)
    for number in case.state.msrs:
        check(f"msr {number:x}", a.msrs[number], b.msrs[number])
    for at in sorted({*expected.pages, *got.pages}):
        x, y = expected.pages.get(at), got.pages.get(at)
        if x == y:
            continue
        if x is None or y is None:
            lines.append(f"page {at:x}: {'trapgate' if x is None else 'KVM'} alone has changed it")
            continue
        ignored = _ignored(case)
        places = [i for i in range(PAGE) if x[i] != y[i] and at + i not in ignored]
        if not places:
            continue
        first, last = places[0], places[-1] + 1
        lines.append(f"memory at {at + first:x}: wanted {x[first:last][:48].hex()}, got {y[first:last][:48].hex()}")
    return lines


def where(state: MachineState) -> str:
    """Where a case has halted: the stub of an exception, or an address."""
    vector = vector_of(state)
    return hex(state.rip) if vector < 0 else f"vector {vector}"


def _ignored(case: SystemCase) -> set[int]:
    """Addresses whose contents a plain case leaves undefined."""
    if case.plain is None:
        return set()
    window = areas.PLACES[case.plain.mode].window
    return {window + i for start, length in case.plain.ignored_memory for i in range(start, start + length)}


def compare(case: SystemCase, expected: SystemOutcome, got: SystemOutcome) -> tuple[list[str], Difference | None]:
    """The lines that say what differs, and the difference for `known.explained`; none where nothing does."""
    lines = differences(case, expected, got)
    if not lines:
        return [], None
    instruction = iced_x86.Decoder(case.mode.bits, case.code, ip=case.state.rip).decode()
    words = [word for word in str(instruction).split() if word not in _PREFIXES]
    fields = frozenset(_field(line) for line in lines)
    vectors = (vector_of(expected.state), vector_of(got.state))
    places = frozenset(int(line.split()[2].rstrip(":"), 16) for line in lines if line.startswith("memory at "))
    return lines, Difference(case, instruction, words[0], fields, places, expected, got, *vectors)


def _field(line: str) -> str:
    name = line.partition(":")[0]
    return name if name.startswith("msr") else name.split()[0]


def vector_of(state: MachineState) -> int:
    """The vector in whose stub a case has halted, or -1."""
    rip = (state.rip - 1) & 0xFFFF_FFFF
    in_stub = STUBS <= rip < STUBS + 256 * STUB_SIZE and rip % STUB_SIZE == 0
    return (rip - STUBS) // STUB_SIZE if in_stub else -1


def describe(case: SystemCase, expected: SystemOutcome, got: SystemOutcome, lines: list[str]) -> str:
    """The whole case in words."""
    state = case.state
    text = "; ".join(str(i) for i in iced_x86.Decoder(case.mode.bits, case.code, ip=state.rip))
    registers = " ".join(f"{name}={value:x}" for name, value in zip(_NAMES, state.gpr, strict=True) if value)
    segments = ", ".join(f"{name} {_shown(s)}" for name, s in zip(_SEGMENTS, state.segments, strict=True))
    ends = (f"{o.ended} {o.details} at {where(o.state)}" for o in (expected, got))
    return "\n".join(
        (
            f"{text}   [{case.code.hex()}] {case.mode.name}, family {case.family}, seed {case.seed}",
            f"  KVM: {next(ends)}; trapgate: {next(ends)}",
            *(f"  {line}" for line in lines),
            f"  before: {registers} rip={state.rip:x} rflags={state.rflags:x} cr0={state.cr0:x} cr4={state.cr4:x}",
            f"  {segments}",
            f"  in memory: {'; '.join(f'{at:x}: {data[:64].hex()}' for at, data in case.patches)}",
        )
    )
