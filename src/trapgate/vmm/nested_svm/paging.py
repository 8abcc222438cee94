"""Two stages of translation: L2's addresses by L1's nested tables, and by L2's own on top of them (15.25)."""

from __future__ import annotations

from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.paging import PDPTE_RESERVED, PF_I, PF_P, PF_RSV, PF_U, PF_W, PTE_P
from trapgate.arch.vectors import PF
from trapgate.arch.vmcb import NPF_FINAL, NPF_TABLE
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.shadow.walk import FOUND, LONG, PAE, GuestMode, GuestWalker


class NestedPageFault(Exception):
    """A nested page fault that is L1's to mend: EXITINFO1 and EXITINFO2 of its #VMEXIT (15.25.6)."""

    def __init__(self, info1: int, info2: int) -> None:
        super().__init__(info1, info2)
        self.info1, self.info2 = info1, info2


class NestedWalker(GuestWalker):
    """L1's nested tables, in the format that L1's own paging has (15.25.5)."""

    def use(self, mode: GuestMode, n_cr3: int) -> None:
        """From now on these tables."""
        self.mode, self.cr3 = mode, n_cr3

    def find(self, address: int, access: int) -> None:
        """Translate L2's guest-physical `address`: `physical`, `rights`, `leaf`, `level` are set, and A and D in L1's.

        `access` has PF_W, PF_I, and NPF_FINAL or NPF_TABLE. Raises NestedPageFault.
        """
        error = self._find(address, access & (PF_W | PF_I) | PF_U)
        if error != FOUND:
            raise NestedPageFault(error | access & (NPF_FINAL | NPF_TABLE), address)

    def _find(self, address: int, access: int) -> int:
        mode = self.mode
        seen = access if mode.nx else access & ~PF_I
        if address >> (48 if mode.format == LONG else 32):
            return seen
        if mode.format == PAE:
            # Read by each walk (15.25.10).
            index = address >> 30 & 3
            entry = self.read64((self.cr3 & 0xFFFF_FFE0) + 8 * index)
            if entry & PTE_P and entry & (self._beyond | PDPTE_RESERVED):
                return seen | PF_P | PF_RSV
            entries = [0, 0, 0, 0]
            entries[index] = entry
            self.pdptes = entries[0], entries[1], entries[2], entries[3]
        return self.walk(address, access)


class InnerWalker(GuestWalker):
    """L2's own tables, whose entries lie at addresses that L1's nested tables translate."""

    def __init__(self, guest: GuestMemory, profile: CpuProfile, outer: NestedWalker) -> None:
        super().__init__(guest, profile)
        self._outer = outer

    def _reach(self, place: int) -> int:
        # A walk's accesses are writes by a user (15.25.5).
        self._outer.find(place, PF_W | NPF_TABLE)
        return self._outer.physical

    def read64(self, place: int) -> int:
        return super().read64(self._reach(place))

    def read32(self, place: int) -> int:
        return super().read32(self._reach(place))

    def _store(self, place: int, entry: int) -> None:
        super()._store(self._reach(place), entry)

    def translate(self, mode: GuestMode, cr3: int, linear: int, access: int) -> int:
        """L1's guest-physical address of L2's linear one. Raises GuestFault (L2's), NestedPageFault (L1's)."""
        self.mode, self.cr3 = mode, cr3
        if mode.format == PAE:
            self.pdptes = self.read_pdptes(cr3) or (0, 0, 0, 0)
        error = self.walk(linear, access)
        if error != FOUND:
            raise GuestFault(PF, error, linear)
        self._outer.find(self.physical, access & (PF_W | PF_I) | NPF_FINAL)
        return self._outer.physical
