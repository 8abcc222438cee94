"""Whether a guest said the same under two techniques. docs/compare.md lists the rules.

A command's output is compared byte for byte. A console without a command shows time: a kernel stamps its lines and
measures its clocks, the embedded guest prints cycles. What is left out is listed here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import unified_diff
from typing import NamedTuple


class Rule(NamedTuple):
    """What a pattern finds in a line is replaced; a line that becomes empty by it is left out."""

    why: str
    pattern: re.Pattern[str]
    replacement: str = ""


RULES = (
    Rule("a kernel's time stamp", re.compile(r"^\[ *\d+\.\d{6}\] ?")),
    Rule("a measured clock", re.compile(r"^.*(Calibrating delay|BogoMIPS|Detected [\d.]+ MHz|MHz processor|tsc:).*$")),
    Rule("a clock source with its scale", re.compile(r"^(clocksource|sched_clock): .*$")),
    Rule(
        "what CPUID says of the hypervisor and of the processor's features",
        re.compile(r"^.*(Hypervisor detected|Booting paravirtualized kernel|kvm|x86/fpu|x86/cpu|smpboot: CPU0).*$"),
    ),
    Rule("a time of day that was read from the RTC, and the time since the start", re.compile(r"^.*rtc_cmos.*$")),
    Rule("a line that appears when its thread gets to it", re.compile(r"^audit: type=2000 .*$")),
    Rule("numbers in the order in which devices answer", re.compile(r"(?<=/input/input)\d+$")),
    Rule("where the kernel lies, which it chooses by the time", re.compile(r"^Kernel Offset: .*$")),
    Rule("memory that was used until then, and how long a step took", re.compile(r"(?<= )\d+ ?(usecs|us|ms|K/\d+K)\b")),
    Rule("the embedded guest's cycles of an operation", re.compile(r"^(\S.*? {2,}\d+) +\d+\.\d$"), r"\1"),
)


def without_time(console: bytes) -> list[str]:
    """The lines of a console without what shows time."""
    lines: list[str] = []
    for line in console.decode(errors="replace").replace("\r", "").split("\n"):
        kept = line
        for rule in RULES:
            kept = rule.pattern.sub(rule.replacement, kept)
        if kept or not line:
            lines.append(kept)
    return lines


def difference(first: bytes, second: bytes, exact: bool) -> list[str]:
    """How two consoles differ, as lines of a unified diff; none if they are the same."""
    if exact:
        if first == second:
            return []
        return _diff(first.decode(errors="replace").split("\n"), second.decode(errors="replace").split("\n"))
    return _diff(without_time(first), without_time(second))


def _diff(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return [line for line in unified_diff(first, second, lineterm="", n=0) if not line.startswith(("---", "+++"))]
