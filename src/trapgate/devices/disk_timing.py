"""What accesses to a disk take, in modelled time, whatever the interface in front of it.

The figures are assumed, of the order of a disk with a cache in 2005: the same that the BIOS's services take. Interfaces
differ so in what the processor does, and not in the disk behind them.
"""

from __future__ import annotations

#: Of each command, until its data moves.
COMMAND_MICROSECONDS = 100
#: Of 512 bytes.
SECTOR_MICROSECONDS = 20


def cycles(hz: int, microseconds: int) -> int:
    """Cycles of a clock of `hz` in so much time."""
    return hz * microseconds // 1_000_000
