"""16- and 32-bit cases on Unicorn (QEMU's translator as a library).

Real mode with all segment bases 0, and flat 32-bit protected mode at CPL 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import unicorn
from unicorn import x86_const as x86

from . import areas
from .areas import Case, Outcome, State
from .forms import Form

PAGE_FAULT = 14
_GPRS = tuple(getattr(x86, f"UC_X86_REG_{name}") for name in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"))
#: Its default processor lacks them.
_BEYOND_UNICORN = frozenset({"LZCNT"})
_HLT = b"\xf4"


@dataclass(frozen=True)
class KnownBug:
    """Where Unicorn 2.1 departs from the manuals, and what the manual says."""

    forms: frozenset[str]
    says: str
    #: Which cases of these forms it spoils.
    spoils: Callable[[Case], bool] = lambda case: True


def _immediate_is_negative(case: Case) -> bool:
    return case.code[-1] >= 0x80


KNOWN_BUGS = (
    KnownBug(
        frozenset(
            f"{push}_{segment}" for push in ("PUSHW", "PUSHD") for segment in ("CS", "SS", "DS", "ES", "FS", "GS")
        )
        | {"MOV_RM16_SREG", "MOV_R32M16_SREG"},
        "(Unicorn starts 32-bit mode without a descriptor table: its selectors mean nothing)",
        lambda case: case.mode == "protected32",
    ),
    KnownBug(
        frozenset({"TEST_RM8_IMM8_F6R1", "TEST_RM16_IMM16_F7R1", "TEST_RM32_IMM32_F7R1"}),
        "SDM vol. 2, table A-6: F6 /1 and F7 /1 are TEST; Unicorn raises #UD",
    ),
    KnownBug(
        frozenset({"RETNW_IMM16", "RETND_IMM16"}),
        "APM vol. 3, RET (near): the immediate is an unsigned 16-bit number; Unicorn extends its sign",
        _immediate_is_negative,
    ),
    KnownBug(
        frozenset({"ARPL_RM16_R16", "ARPL_R32M16_R32"}),
        "SDM vol. 2, ARPL: the destination is written only when its RPL is raised; Unicorn always writes, and faults",
        lambda case: case.operand_offset < 0,
    ),
    KnownBug(
        frozenset({"CLFLUSH_M8"}),
        "APM vol. 3, CLFLUSH: it is checked as a read of a byte; Unicorn checks nothing",
    ),
    KnownBug(
        frozenset({"NEG_RM8", "NEG_RM16", "NEG_RM32"}),
        "APM vol. 3, NEG: flags by the result; with LOCK Unicorn sets SF, PF and ZF by another value",
        lambda case: "lock" in case.text,
    ),
    KnownBug(
        frozenset({"POPCNT_R16_RM16", "POPCNT_R32_RM32"}),
        "APM vol. 3, POPCNT: the operand size is 16 or 32 bits as for other instructions; in 16-bit code Unicorn takes "
        "32 bits without and 16 bits with the prefix 66h",
        lambda case: case.bits == 16,
    ),
)


def is_compared(form: Form) -> bool:
    """Whether Unicorn can judge this form at all."""
    return form.family in ("integer", "stack", "branch", "string") and form.mnemonic not in _BEYOND_UNICORN


def can_judge(case: Case) -> bool:
    """Whether Unicorn carries out this case as the manuals say."""
    return not any(case.form in bug.forms and bug.spoils(case) for bug in KNOWN_BUGS)


class UnicornProcessor:
    """Unicorn in real16 or protected32 mode."""

    def __init__(self, mode: str) -> None:
        self._places = places = areas.PLACES[mode]
        self._unicorn = uc = unicorn.Uc(
            unicorn.UC_ARCH_X86, {16: unicorn.UC_MODE_16, 32: unicorn.UC_MODE_32}[areas.BITS[mode]]
        )
        uc.mem_map(places.slots, places.slot_count * areas.SLOT_SIZE, unicorn.UC_PROT_ALL)
        uc.mem_map(places.read_only, areas.PAGE, unicorn.UC_PROT_READ)
        uc.mem_map(places.read_only + areas.PAGE, areas.PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        uc.mem_write(places.read_only, areas.read_only_bytes())
        uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        self._vector = -1
        self._fresh = uc.context_save()

    def _on_interrupt(self, uc: unicorn.Uc, number: int, _: object) -> None:
        self._vector = number
        uc.emu_stop()

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """Run every case; exceptions are told by their vector alone (error code and CR2 are 0)."""
        return [self._run(case) for case in cases]

    def _run(self, case: Case) -> Outcome:
        uc, state = self._unicorn, case.state
        uc.context_restore(self._fresh)
        slot = state.rip - areas.SLOT_START
        uc.mem_write(slot, (_HLT * areas.SLOT_START + case.code).ljust(areas.SLOT_SIZE, _HLT))
        uc.ctl_remove_cache(slot, slot + areas.SLOT_SIZE)
        uc.mem_write(self._places.window, state.window)
        for register, value in zip(_GPRS, state.gpr, strict=False):
            uc.reg_write(register, value)
        uc.reg_write(x86.UC_X86_REG_EFLAGS, state.rflags)
        self._vector = -1
        vector = -1
        try:
            uc.emu_start(state.rip, state.rip + len(case.code), count=0 if case.repeats else 1)
        except unicorn.UcError as error:
            vector = 6 if error.errno == unicorn.UC_ERR_INSN_INVALID else PAGE_FAULT
        if self._vector >= 0:
            vector = self._vector
        after = State(
            [uc.reg_read(register) & 0xFFFF_FFFF for register in _GPRS] + [0] * 8,
            uc.reg_read(x86.UC_X86_REG_EFLAGS),
            state.fx,
            bytes(uc.mem_read(self._places.window, areas.WINDOW_SIZE)),
            uc.reg_read(x86.UC_X86_REG_EIP),
        )
        return Outcome(after, vector, vector_only=vector >= 0)
