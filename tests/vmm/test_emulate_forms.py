"""Every form that the emulator knows, faults included.

Against the host's CPU in 64-bit code and compatibility mode, against trapgate's processor in 32-bit code at CPL 0 and
in real mode.
"""

from __future__ import annotations

from functools import cache

import pytest

from oracle import areas
from oracle.budget import sweeps
from oracle.check import Processor, cases_of, failures, report
from oracle.compare import differences
from oracle.forms import Form, all_forms
from oracle.host import Reference
from oracle.prefixes import make_all_prefixed
from oracle.trapgate_side import UNIMPLEMENTED, TrapgateProcessor
from vmm.emulator_side import EmulatorProcessor

pytestmark = pytest.mark.xdist_group("oracle")
_PREFIXED = 500
_CONDITIONS = ("O", "NO", "B", "AE", "E", "NE", "BE", "A", "S", "NS", "P", "NP", "L", "GE", "LE", "G")
#: All that real kernels and firmware are known to use on devices and page tables, and more.
MNEMONICS = {
    "ADC", "ADD", "AND", "BT", "BTC", "BTR", "BTS", "CALL", "CLFLUSH", "CMP", "CMPXCHG", "CMPXCHG16B", "CMPXCHG8B",
    "DEC", "INC", "JMP", "LDDQU", "LEA", "LEAVE", "MOV", "MOVAPD", "MOVAPS", "MOVD", "MOVDQA", "MOVDQU", "MOVHPD",
    "MOVHPS", "MOVLPD", "MOVLPS", "MOVNTDQ", "MOVNTI", "MOVNTPD", "MOVNTPS", "MOVQ", "MOVSS", "MOVSX", "MOVSXD",
    "MOVUPD", "MOVUPS", "MOVZX", "NEG", "NOP", "NOT", "OR", "POP", "PREFETCH", "PREFETCHNTA", "PREFETCHT0",
    "PREFETCHT1", "PREFETCHT2", "PREFETCHW", "PUSH", "PUSHA", "PUSHAD", "RET", "ROL", "ROR", "SAL", "SAR", "SBB",
    "SHL", "SHR", "SUB", "TEST", "XADD", "XCHG", "XOR",
    *(f"{name}{size}" for name in ("MOVS", "STOS", "LODS", "CMPS", "SCAS") for size in "BWDQ"),
    *(f"{name}{condition}" for name in ("SET", "CMOV") for condition in _CONDITIONS),
}  # fmt: skip
#: Forms of these that it does not know, and why.
_UNKNOWN = {
    "CMPSD_XMM_XMMM64_IMM8": "SSE2 arithmetic",
    "MOVD_MM_RM32": "MMX", "MOVQ_MM_RM64": "MMX", "MOVD_RM32_MM": "MMX", "MOVQ_RM64_MM": "MMX",
    "MOVQ_MM_MMM64": "MMX", "MOVQ_MMM64_MM": "MMX",
}  # fmt: skip


@cache
def forms(mode: str) -> list[Form]:
    return [form for form in all_forms(mode) if form.mnemonic in MNEMONICS and form.name not in _UNKNOWN]


def test_these_instructions_are_known_and_no_others() -> None:
    found = set()
    modes = ("long64", "protected32")
    for mode in modes:
        emulator = EmulatorProcessor(mode)
        for form in all_forms(mode):
            if form.family in ("x87", "privileged"):
                continue
            outcomes = emulator.run(cases_of([(form, 0)]))
            if outcomes and outcomes[0].vector != UNIMPLEMENTED:
                found.add((form.mnemonic, form.name))
    assert {mnemonic for mnemonic, _ in found} == MNEMONICS
    assert {name for _, name in found} & set(_UNKNOWN) == set()
    assert {form.name for mode in modes for form in forms(mode)} == {name for _, name in found}


def _compare(config: pytest.Config, reference: Processor, mode: str) -> None:
    emulator = EmulatorProcessor(mode)
    found = []
    for pairs in sweeps(config, forms(mode), default=2):
        found += failures(reference, emulator, cases_of(pairs))
    assert not found, report(found)


@pytest.mark.parametrize("mode", ["long64", "compat32"])
def test_like_the_host(pytestconfig: pytest.Config, reference: Reference, mode: str) -> None:
    _compare(pytestconfig, reference, mode)


def test_32_bit_code_like_trapgate(pytestconfig: pytest.Config, trapgate32: TrapgateProcessor) -> None:
    _compare(pytestconfig, trapgate32, "protected32")


def test_real_mode_like_trapgate(pytestconfig: pytest.Config, trapgate16: TrapgateProcessor) -> None:
    _compare(pytestconfig, trapgate16, "real16")


def test_odd_prefixes(pytestconfig: pytest.Config, reference: Reference) -> None:
    """Repeated, out of order, without effect. What the host refuses as undefined the emulator does not know."""
    emulator = EmulatorProcessor("long64")
    wanted = pytestconfig.getoption("--oracle-cases", default=0)
    first = pytestconfig.getoption("--oracle-seed", default=0) if wanted else 0
    end, known, found = first + (wanted or _PREFIXED), 0, []
    for start in range(first, end, areas.SLOT_COUNT):
        cases = make_all_prefixed(start, min(areas.SLOT_COUNT, end - start))
        for case, expected, got in zip(cases, reference.run(cases), emulator.run(cases), strict=True):
            if got.vector != UNIMPLEMENTED:
                known += 1
                lines = differences(case, expected, got)
                found += [(case, lines)] if lines else []
    assert not found, report(found)
    assert known > (end - first) // 4
