"""Names of the exception vectors for reports (AMD64 manual volume 2, table 8-1)."""

from __future__ import annotations

NAMES = {
    0: "#DE divide error",
    1: "#DB debug",
    2: "NMI",
    3: "#BP breakpoint",
    4: "#OF overflow",
    5: "#BR bound range",
    6: "#UD invalid opcode",
    7: "#NM device not available",
    8: "#DF double fault",
    10: "#TS invalid TSS",
    11: "#NP segment not present",
    12: "#SS stack",
    13: "#GP general protection",
    14: "#PF page fault",
    16: "#MF x87 floating point",
    17: "#AC alignment check",
    18: "#MC machine check",
    19: "#XF SIMD floating point",
}


def vector_name(vector: int) -> str:
    """`14 #PF page fault`, or the number and `software interrupt` for a vector that is no exception's."""
    return f"{vector} {NAMES.get(vector, f'({vector:#04x}) software interrupt')}"
