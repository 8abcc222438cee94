"""Exceptions of the processor (APM vol. 2, chapter 8), and how plain Python raises them."""

from __future__ import annotations

from trapgate.arch.vectors import (  # noqa: F401  (with what they belong to)
    AC,
    BP,
    BR,
    CONTRIBUTORY,
    DB,
    DE,
    DF,
    GP,
    MC,
    MF,
    NM,
    NMI,
    NP,
    OF,
    PF,
    SS,
    TS,
    UD,
    WITH_ERROR_CODE,
    XF,
)

NAMES = {
    DE: "#DE", DB: "#DB", NMI: "NMI", BP: "#BP", OF: "#OF", BR: "#BR", UD: "#UD", NM: "#NM", DF: "#DF", TS: "#TS",
    NP: "#NP", SS: "#SS", GP: "#GP", PF: "#PF", MF: "#MF", AC: "#AC", MC: "#MC", XF: "#XF",
}  # fmt: skip


class Fault(Exception):
    """A guest's exception, raised by the plain Python form of an instruction and caught by the run loop.

    `address` is the linear address of a page fault.
    """

    #: Whether the exception intercepts of AMD-V look at it: at all but that of INT1 (APM vol. 2, 15.12.2).
    interceptable = True
    #: The next instruction where a #VMEXIT saves it: for INT3, INTO and BOUND (15.7.1).
    next_rip = 0

    def __init__(self, vector: int, error: int | None = None, address: int | None = None) -> None:
        super().__init__(vector, error, address)
        self.vector = vector
        self.error = error
        self.address = address


#: Stands where a fault's vector does, for the way out of a guest.
VMEXIT = 0x1000


class VmExit(Fault):
    """#VMEXIT (APM vol. 2, 15.6): raised where a guest's instruction or event is intercepted.

    It takes the way of a fault to the run loop, which undoes what the instruction has begun. `rip` is where the guest
    stands when that is not the instruction itself.
    """

    vector = VMEXIT
    error = address = None

    def __init__(self, code: int, info1: int = 0, info2: int = 0, rip: int | None = None, next_rip: int = 0) -> None:
        self.code, self.info1, self.info2 = code, info1, info2
        self.rip, self.next_rip = rip, next_rip


class TripleFault(Exception):
    """An exception while delivering a double fault: shutdown."""


class Unimplemented(Exception):
    """The guest used something that the modelled processor has and trapgate does not have yet."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(
            f"unimplemented: wanted what trapgate has, got {what} at {where}: "
            "docs/processor.md lists what is not there yet"
        )
        self.what = what
        self.where = where
