"""A VMCB as the hypervisor writes and reads it (APM vol. 2, appendix B)."""

from __future__ import annotations

from trapgate.arch import vmcb
from trapgate.arch.registers import IF
from trapgate.firmware.image import SegmentValue, TableRegister
from trapgate.machine.memory import PhysicalMemory

#: ES, CS, SS, DS, FS, GS in the order of their numbers.
SEGMENTS = (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS, vmcb.FS, vmcb.GS)


class ControlBlock:
    """The VMCB in the host frame at `address`. Fields go by their offsets in arch/vmcb.py."""

    def __init__(self, memory: PhysicalMemory, address: int) -> None:
        self.address = address
        self._bytes = memory.view[address : address + vmcb.SIZE]
        self._q = self._bytes.cast("Q")
        self._d = self._bytes.cast("I")

    def __getitem__(self, offset: int) -> int:
        """A 64-bit field."""
        return self._q[offset >> 3]

    def __setitem__(self, offset: int, value: int) -> None:
        self._q[offset >> 3] = value

    def word(self, offset: int) -> int:
        """A 32-bit field."""
        return self._d[offset >> 2]

    def set_word(self, offset: int, value: int) -> None:
        """Write a 32-bit field."""
        self._d[offset >> 2] = value

    def byte(self, offset: int) -> int:
        """An 8-bit field."""
        return self._bytes[offset]

    def set_byte(self, offset: int, value: int) -> None:
        """Write an 8-bit field."""
        self._bytes[offset] = value

    # -- intercepts

    def intercept(self, name: str, wanted: bool = True) -> None:
        """Intercept, or no longer, an instruction or event by its name in arch/vmcb.py."""
        first = name in vmcb.MISC1
        bit = vmcb.misc1(name) if first else vmcb.misc2(name)
        place = (vmcb.INTERCEPT_MISC1 if first else vmcb.INTERCEPT_MISC2) >> 2
        self._d[place] = self._d[place] | bit if wanted else self._d[place] & ~bit

    # -- segments and tables

    def segment(self, offset: int) -> tuple[int, int, int, int]:
        """(selector, base, limit in bytes, attributes) of the segment register at `offset`."""
        word = self._q[offset >> 3]
        return word & 0xFFFF, self._q[(offset >> 3) + 1], word >> 32, word >> 16 & 0xFFF

    def set_segment(self, offset: int, value: SegmentValue) -> None:
        """Write a segment register."""
        self._q[offset >> 3] = value.selector | (value.attributes & 0xFFF) << 16 | value.limit << 32
        self._q[(offset >> 3) + 1] = value.base

    def set_table(self, offset: int, value: TableRegister) -> None:
        """Write GDTR or IDTR."""
        self._q[offset >> 3] = value.limit << 32
        self._q[(offset >> 3) + 1] = value.base

    @property
    def interruptible(self) -> bool:
        """RFLAGS.IF is set and there is no interrupt shadow."""
        return bool(self._q[vmcb.RFLAGS >> 3] & IF) and not self._bytes[vmcb.INTERRUPT_SHADOW] & 1
