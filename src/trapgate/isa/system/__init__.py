"""System instructions (APM vol. 3, chapter 4) and rare general ones: plain Python, but for native ones."""

from trapgate.isa.system import (
    checks,
    control_registers,
    input_output,
    interrupts,
    native_registers,
    privilege,
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
    "native_registers",
    "privilege",
    "segments",
    "special",
    "svm",
    "system_calls",
    "transfers",
]
