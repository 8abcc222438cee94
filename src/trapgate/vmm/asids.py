"""Which ASID a virtual processor runs with, and what is flushed (APM vol. 2, 15.16).

A processor without FlushByAsid can flush all ASIDs or none. Then a guest whose translations are to go gets a new ASID
instead, and its old entries die out; only when none is left is everything flushed, and a new generation begins.

| what is to go              | FlushByAsid | an ASID is left | ASID | TLB_CONTROL                   |
|----------------------------|-------------|-----------------|------|-------------------------------|
| a nothing                  | any         | any             | same | 0                             |
| b the guest's              | yes         | any             | same | 3, this guest's               |
| c the guest's, not global  | yes         | any             | same | 7, this guest's not global    |
| d the guest's, or (c)      | no          | yes             | new  | 0                             |
| e the guest's, or (c)      | no          | no              | 1    | 1, everything: new generation |
"""

from __future__ import annotations

from enum import Enum

from trapgate.arch import vmcb
from trapgate.arch.cpuid import CpuProfile


class Loses(Enum):
    """What the TLB has to lose of a guest."""

    NOTHING = 0
    NOT_GLOBAL = 1
    EVERYTHING = 2


class Asids:
    """The ASIDs of one processor. 0 is the host's."""

    def __init__(self, profile: CpuProfile) -> None:
        self._count = profile.svm_asids
        self._by_asid = "FLUSH_BY_ASID" in profile.svm_features
        self._next = 1
        #: How often everything had to be flushed because no ASID was left.
        self.generation = 0

    def first(self) -> int:
        """An ASID for a new virtual processor."""
        return self._take()[0]

    def _take(self) -> tuple[int, int]:
        if self._next >= self._count:
            self.generation += 1
            self._next = 1
        asid = self._next
        self._next += 1
        return asid, vmcb.FLUSH_ALL if asid == 1 else vmcb.FLUSH_NOTHING

    def prepare(self, asid: int, loses: Loses) -> tuple[int, int]:
        """(ASID, TLB_CONTROL) of the next VMRUN of a virtual processor that ran with `asid`."""
        if loses is Loses.NOTHING:  # a
            return asid, vmcb.FLUSH_NOTHING
        if self._by_asid:  # b, c
            return asid, vmcb.FLUSH_GUEST if loses is Loses.EVERYTHING else vmcb.FLUSH_GUEST_NON_GLOBAL
        return self._take()  # d, e
