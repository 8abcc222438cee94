"""16- and 32-bit cases on Unicorn (QEMU's translator as a library).

Real mode with all segment bases 0, and flat 32-bit protected mode at CPL 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import unicorn
from unicorn import x86_const as x86

from . import areas
from .areas import Case, Outcome, State
from .forms import Form

PAGE_FAULT = 14
_GPRS = tuple(
    getattr(x86, f"UC_X86_REG_{name}") for name in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")
)
_HLT = b"\xf4"

#: Where Unicorn 2.1 departs from the manuals: (mnemonics, what the manual says).
KNOWN_BUGS = (
    (
        "PUSH of a segment register: selectors",
        frozenset({"PUSHD_CS", "PUSHD_SS", "PUSHD_DS", "PUSHD_ES", "PUSHD_FS", "PUSHD_GS"}),
        "Unicorn starts without a descriptor table, so its selectors mean nothing",
    ),
    (
        "TEST by the second encodings F6 /1 and F7 /1",
        frozenset({f"TEST_RM{n}_IMM{n}_F{7 if n > 8 else 6}R1" for n in (8, 16, 32)}),
        "Intel SDM vol. 2, table A-6: F6 /1 and F7 /1 are TEST; Unicorn raises #UD",
    ),
)


def is_compared(form: Form) -> bool:
    """Whether Unicorn can judge this form."""
    if form.family not in ("integer", "stack", "branch", "string"):
        return False
    return not any(form.name in forms for _, forms, _ in KNOWN_BUGS)


class UnicornProcessor:
    """Unicorn in one mode, 16 or 32 bits."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._places = places = areas.PLACES[bits]
        self._unicorn = uc = unicorn.Uc(unicorn.UC_ARCH_X86, {16: unicorn.UC_MODE_16, 32: unicorn.UC_MODE_32}[bits])
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
        return Outcome(after, vector)
