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
        #: Accesses to fields by the hypervisor; who charges them sets both to 0.
        self.reads = self.writes = 0

    def __getitem__(self, offset: int) -> int:
        """A 64-bit field."""
        self.reads += 1
        return self._q[offset >> 3]

    def __setitem__(self, offset: int, value: int) -> None:
        self.writes += 1
        self._q[offset >> 3] = value

    def word(self, offset: int) -> int:
        """A 32-bit field."""
        self.reads += 1
        return self._d[offset >> 2]

    def set_word(self, offset: int, value: int) -> None:
        """Write a 32-bit field."""
        self.writes += 1
        self._d[offset >> 2] = value

    def peek(self, offset: int) -> int:
        """A 64-bit field that the hypervisor has at hand: not counted again."""
        return self._q[offset >> 3]

    def byte(self, offset: int) -> int:
        """An 8-bit field."""
        self.reads += 1
        return self._bytes[offset]

    def set_byte(self, offset: int, value: int) -> None:
        """Write an 8-bit field."""
        self.writes += 1
        self._bytes[offset] = value

    def read_bytes(self, first: int, end: int) -> bytes:
        """The bytes from offset `first` to before `end`."""
        return bytes(self._bytes[first:end])

    def write_bytes(self, offset: int, data: bytes) -> None:
        """Write bytes from an offset on."""
        self._bytes[offset : offset + len(data)] = data

    # -- intercepts

    def intercept(self, name: str, wanted: bool = True) -> None:
        """Intercept, or no longer, an instruction or event by its name in arch/vmcb.py."""
        first = name in vmcb.MISC1
        bit = vmcb.misc1(name) if first else vmcb.misc2(name)
        self.reads += 1
        self.writes += 1
        place = (vmcb.INTERCEPT_MISC1 if first else vmcb.INTERCEPT_MISC2) >> 2
        self._d[place] = self._d[place] | bit if wanted else self._d[place] & ~bit

    # -- segments and tables

    def segment(self, offset: int) -> tuple[int, int, int, int]:
        """(selector, base, limit in bytes, attributes) of the segment register at `offset`."""
        self.reads += 4  # four fields
        word = self._q[offset >> 3]
        return word & 0xFFFF, self._q[(offset >> 3) + 1], word >> 32, word >> 16 & 0xFFF

    def set_segment(self, offset: int, value: SegmentValue) -> None:
        """Write a segment register."""
        self.writes += 4
        self._q[offset >> 3] = value.selector | (value.attributes & 0xFFF) << 16 | value.limit << 32
        self._q[(offset >> 3) + 1] = value.base

    def set_table(self, offset: int, value: TableRegister) -> None:
        """Write GDTR or IDTR."""
        self.writes += 2
        self._q[offset >> 3] = value.limit << 32
        self._q[(offset >> 3) + 1] = value.base

    @property
    def interruptible(self) -> bool:
        """RFLAGS.IF is set and there is no interrupt shadow."""
        self.reads += 2
        return bool(self._q[vmcb.RFLAGS >> 3] & IF) and not self._bytes[vmcb.INTERRUPT_SHADOW] & 1
