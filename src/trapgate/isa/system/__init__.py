"""System instructions, as plain Python on the processor (APM vol. 3, chapter 4), and rare general ones."""

from trapgate.isa.system import (
    checks,
    control_registers,
    input_output,
    interrupts,
    segments,
    special,
    svm,
    system_calls,
    transfers,
)

__all__ = [
    "checks",
    "control_registers",
    "input_output",
    "interrupts",
    "segments",
    "special",
    "svm",
    "system_calls",
    "transfers",
]
