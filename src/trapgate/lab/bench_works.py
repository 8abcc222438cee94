"""The fixed set of work that `trapgate bench` measures: loops of the embedded `bench` image (guests/README.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trapgate.lab.errors import UnknownWork


@dataclass(frozen=True, slots=True)
class Work:
    """One loop. `turns` take QEMU about a second, so that start-up counts little."""

    name: str
    group: str
    turns: int
    what: str


INTEGER, FLOATING, SYSTEM = "integer", "floating", "system"
#: The loop whose single turn stands for start-up.
START = Work("count", "start", 1, "start-up: the machine, the loader, one turn of an empty loop")

WORKS: tuple[Work, ...] = (
    Work("sieve", INTEGER, 200, "the primes below one million"),
    Work("md5", INTEGER, 4_000_000, "a block of 64 bytes through MD5"),
    Work("list", INTEGER, 3000, "a linked list of 32768 nodes, walked and reversed"),
    Work("matrix", INTEGER, 1500, "a product of two 64 x 64 matrices of integers"),
    Work("quicksort", INTEGER, 100, "100,000 numbers sorted"),
    Work("interpreter", INTEGER, 10_000_000, "a turn of a loop of eight bytecode instructions"),
    Work("sse", FLOATING, 50_000, "a step of five bodies, in SSE2"),
    Work("x87", FLOATING, 50_000, "a step of five bodies, in x87"),
    Work("memory", SYSTEM, 5000, "64 KB by REP STOSQ, and copied by REP MOVSQ"),
    Work("modify", SYSTEM, 100_000, "an instruction written to and run"),
    Work("out", SYSTEM, 1_000_000, "OUT to port 80h"),
    Work("syscall", SYSTEM, 20_000_000, "SYSCALL from ring 3, and SYSRET"),
    Work("pagefault", SYSTEM, 3_000_000, "a page fault and the return behind it"),
    Work("cr3", SYSTEM, 600_000, "MOV to CR3"),
    Work("stride", SYSTEM, 20_000_000, "a read of one word in the next page of 64 MB"),
    Work("vmrun", SYSTEM, 200_000, "VMRUN, and #VMEXIT by VMMCALL"),
)
GROUPS = (INTEGER, FLOATING, SYSTEM)


def choose(names: Sequence[str]) -> tuple[Work, ...]:
    """The works of these names or groups, in the table's order; all without a name. Raises UnknownWork."""
    known = (*GROUPS, *(work.name for work in WORKS))
    for name in names:
        if name not in known:
            raise UnknownWork(name, known)
    return tuple(work for work in WORKS if not names or work.name in names or work.group in names)
