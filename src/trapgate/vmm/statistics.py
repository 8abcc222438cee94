"""Exits counted: how many of each reason, and the modelled cycles between exit and the next entry."""

from __future__ import annotations

from dataclasses import dataclass, field

from trapgate.arch.vmcb import exit_name


@dataclass
class ExitCount:
    """One reason: samples, and cycles (sum, least, most)."""

    samples: int = 0
    cycles: int = 0
    least: int = 0
    most: int = 0


@dataclass
class ExitStatistics:
    """By exit code."""

    by_code: dict[int, ExitCount] = field(default_factory=dict)

    def add(self, code: int, cycles: int) -> None:
        """One more exit, handled in `cycles`."""
        count = self.by_code.get(code)
        if count is None:
            count = self.by_code[code] = ExitCount(least=cycles)
        count.samples += 1
        count.cycles += cycles
        if cycles < count.least:
            count.least = cycles
        if cycles > count.most:
            count.most = cycles

    @property
    def total(self) -> int:
        """All exits."""
        return sum(count.samples for count in self.by_code.values())

    def by_name(self) -> dict[str, ExitCount]:
        """By the exit's name, the most frequent first."""
        ordered = sorted(self.by_code.items(), key=lambda item: (-item[1].samples, item[0]))
        return {exit_name(code): count for code, count in ordered}
