"""What a KVM can judge: small cases whose end the manuals state plainly. A family whose probe fails is not compared.

A KVM that runs guests on AMD-V or VT-x passes all of them. One that runs them deprivileged, or by its emulator, shows
the host's selectors to the guest, knows no gates but the usual ones, or has no virtual-8086 mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .cases import HALTED, SystemCase, SystemOutcome
from .families import FAMILIES
from .judge import vector_of
from .machine import KvmMachine
from .world import CODE, CODE32, CODE64, IDT, OTHER_CODE, STACK, STACK0, Mode, gate, initial_state

_ALL = frozenset(FAMILIES)
_SELECTORS = frozenset(("segments", "checks", "tables", "far", "returns", "syscall", "msr"))


@dataclass(frozen=True)
class Probe:
    """`code` in every mode for which `applies` says so; `holds` of the outcome what the manual says."""

    says: str
    families: frozenset[str]
    applies: Callable[[Mode], bool]
    code: bytes
    holds: Callable[[Mode, SystemOutcome], bool]
    prepare: Callable[[SystemCase], None] = lambda case: None


def _runs(mode: Mode, outcome: SystemOutcome) -> bool:
    """The HLT behind a NOP: reached at CPL 0, #GP at CPL 3."""
    if outcome.ended != HALTED:
        return False
    return vector_of(outcome.state) == 13 if mode.cpl else outcome.state.rip == CODE + 2


def _frame_of_v86(mode: Mode, outcome: SystemOutcome) -> bool:
    return outcome.state.gpr[4] == STACK0 - 40  # nine doublewords and the error code


def _stack_selector(mode: Mode, outcome: SystemOutcome) -> bool:
    return outcome.state.gpr[0] & 0xFFFF == initial_state(mode).segments[2].selector


def _flags_as_pushed(mode: Mode, outcome: SystemOutcome) -> bool:
    return outcome.pages.get(0x7000, b"")[0x7F8:0x7FA] == b"\x02\x32"


def _with_iopl(case: SystemCase) -> None:
    case.state.rflags = 0x3202


def _narrow_gate(case: SystemCase) -> None:
    case.patches.append((IDT + 8 * 6, gate(0x86, CODE32, OTHER_CODE).to_bytes(8, "little")))


def _narrow_frame(mode: Mode, outcome: SystemOutcome) -> bool:
    return outcome.state.rip == OTHER_CODE + 1 and outcome.state.gpr[4] == STACK - 6


def _task_gate(case: SystemCase) -> None:
    case.patches.append((IDT + 16 * 6, gate(0x85, CODE64, OTHER_CODE).to_bytes(8, "little")))


def _general_protection(mode: Mode, outcome: SystemOutcome) -> bool:
    return vector_of(outcome.state) == 13


PROBES = (
    Probe("a NOP is followed by the next instruction", _ALL, lambda mode: True, b"\x90", _runs),
    Probe(
        "APM vol. 2, 12.3.3: an exception in virtual-8086 mode pushes GS, FS, DS, ES, SS, ESP, EFLAGS, CS, EIP",
        _ALL, lambda mode: mode.kind == "v86", b"\x90", _frame_of_v86,
    ),
    Probe(
        "APM vol. 3, MOV: a segment register's selector is what was loaded there",
        _SELECTORS, lambda mode: mode.kind != "real", b"\x8c\xd0", _stack_selector,
    ),
    Probe(
        "APM vol. 3, PUSHFQ: IOPL as it is",
        frozenset(("flags", "syscall", "returns")), lambda mode: mode.bits == 64, b"\x9c", _flags_as_pushed, _with_iopl,
    ),
    Probe(
        "APM vol. 2, 8.7.3: a 16-bit interrupt gate pushes three words",
        frozenset(("interrupts",)), lambda mode: mode.kind == "protected" and mode.cpl == 0, b"\x0f\x0b", _narrow_frame,
        _narrow_gate,
    ),
    Probe(
        "APM vol. 2, 8.9.1: a gate of another type than interrupt or trap gate is #GP",
        frozenset(("interrupts",)), lambda mode: mode.kind == "long", b"\x0f\x0b", _general_protection, _task_gate,
    ),
    Probe(
        "APM vol. 3, INT n: a gate whose DPL is less than CPL is #GP",
        frozenset(("interrupts",)), lambda mode: mode.cpl == 3 and mode.kind != "v86", b"\xcd\x21", _general_protection,
    ),
)  # fmt: skip


def unjudged(machine: KvmMachine, mode: Mode) -> dict[str, str]:
    """The families that this KVM cannot judge in a mode, each with what it does not hold to."""
    found: dict[str, str] = {}
    for probe in PROBES:
        if not probe.applies(mode):
            continue
        case = SystemCase(mode, probe.code, initial_state(mode))
        probe.prepare(case)
        if not probe.holds(mode, machine.run_one(case)):
            for family in probe.families:
                found.setdefault(family, probe.says)
    return found
