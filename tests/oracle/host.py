"""The host's CPU as the reference: natively where it has the instruction, else by a model from the manual."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from iced_x86 import Decoder, OpKind, RegisterExt

from . import areas
from .areas import Case, Outcome, State
from .native import NativeProcessor

_MASK64 = (1 << 64) - 1
#: Linux's names of features that decide what an encoding means, by mnemonic.
_NEEDED_FLAGS = {"POPCNT": "popcnt", "LZCNT": "abm", "CMPXCHG16B": "cx16", "LAHF": "lahf_lm", "SAHF": "lahf_lm"}
_SSE3 = frozenset(
    [
        "ADDSUBPD",
        "ADDSUBPS",
        "HADDPD",
        "HADDPS",
        "HSUBPD",
        "HSUBPS",
        "LDDQU",
        "MOVDDUP",
        "MOVSHDUP",
        "MOVSLDUP",
        "FISTTP",
    ]
)


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The host's features as Linux names them."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def can_run(mnemonic: str) -> bool:
    """Whether this host can tell what the instruction does."""
    needed = "pni" if mnemonic in _SSE3 else _NEEDED_FLAGS.get(mnemonic)
    return needed is None or needed in cpu_flags()


class Reference:
    """Expected outcomes of 64-bit cases."""

    def __init__(self) -> None:
        self._native = NativeProcessor()

    def close(self) -> None:
        self._native.close()

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """Outcomes in the order of the cases."""
        has_sse4a = "sse4a" in cpu_flags()
        outcomes = self._native.run(list(cases) if has_sse4a else [_without_sse4a(case) for case in cases])
        if not has_sse4a:
            for i, case in enumerate(cases):
                if case.form.startswith(("EXTRQ", "INSERTQ")):
                    outcomes[i] = _bit_field(case)
        return outcomes


def _without_sse4a(case: Case) -> Case:
    """MOVNTSS and MOVNTSD store as MOVSS and MOVSD do (APM vol. 4), whose opcode differs in one byte."""
    if case.form.startswith(("MOVNTSS", "MOVNTSD")):
        return dataclasses.replace(case, code=case.code.replace(b"\x0f\x2b", b"\x0f\x11", 1))
    return case


def _bit_field(case: Case) -> Outcome:
    """EXTRQ and INSERTQ (APM vol. 4). `undefined_fields` refuses fields that reach beyond bit 63."""
    instruction = Decoder(64, case.code).decode()
    xmm = [_xmm(case.state, i) for i in range(16)]
    destination = RegisterExt.number(instruction.op0_register)
    source = destination
    if instruction.op_count > 1 and instruction.op1_kind == OpKind.REGISTER:
        source = RegisterExt.number(instruction.op1_register)
    length, index = bit_field(case)
    mask = (1 << (length or 64)) - 1
    if case.form.startswith("EXTRQ"):
        result = (xmm[destination] & _MASK64) >> index & mask
    else:
        result = xmm[destination] & _MASK64 & ~(mask << index) | (xmm[source] & mask) << index
    fx = bytearray(case.state.fx)
    at = areas.FX_XMM + 16 * destination
    fx[at : at + 8] = (result & _MASK64).to_bytes(8, "little")
    state = dataclasses.replace(case.state, fx=bytes(fx), rip=case.state.rip + len(case.code))
    return Outcome(state)


def _xmm(state: State, number: int) -> int:
    at = areas.FX_XMM + 16 * number
    return int.from_bytes(state.fx[at : at + 16], "little")


def bit_field(case: Case) -> tuple[int, int]:
    """(length, index) of EXTRQ and INSERTQ, six bits each."""
    instruction = Decoder(64, case.code).decode()
    if instruction.op_kind(instruction.op_count - 1) != OpKind.REGISTER:
        return instruction.immediate8 & 63, instruction.immediate8_2nd & 63
    control = _xmm(case.state, RegisterExt.number(instruction.op1_register))
    if case.form.startswith("INSERTQ"):
        control >>= 64
    return control & 63, control >> 8 & 63


def undefined_fields(case: Case) -> bool:
    """APM vol. 4, EXTRQ: undefined where index + length exceeds 64, or the length is 0 and the index is not."""
    if not case.form.startswith(("EXTRQ", "INSERTQ")):
        return False
    length, index = bit_field(case)
    return index + (length or 64) > 64
