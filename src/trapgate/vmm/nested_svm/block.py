"""VMCB 12: the page of L1's memory that describes L2, read once at VMRUN and written once at #VMEXIT.

L1 may do what it likes to the page in between, as on a processor, which reads it at VMRUN too.
"""

from __future__ import annotations

import struct

from trapgate.arch import vmcb
from trapgate.vmm.control_block import ControlBlock
from trapgate.vmm.memory.guest import GuestMemory

_WORDS = struct.Struct("<5I")
_EXIT = struct.Struct("<4Q")
_QWORD = struct.Struct("<Q")
#: What #VMEXIT saves (15.6): (first byte, byte behind the last). FS, GS, LDTR, TR and the MSRs are VMSAVE's.
_SAVED = (
    (vmcb.ES, vmcb.FS), (vmcb.GDTR, vmcb.LDTR), (vmcb.IDTR, vmcb.TR), (vmcb.CPL, vmcb.CPL + 1),
    (vmcb.EFER, vmcb.EFER + 8), (vmcb.CR4, vmcb.RIP + 8), (vmcb.RSP, vmcb.RSP + 8), (vmcb.RAX, vmcb.RAX + 8),
    (vmcb.CR2, vmcb.CR2 + 8),
)  # fmt: skip
_STATE = vmcb.ES, 0x698


class Vmcb12:
    """The page at guest-physical `address`, a multiple of 4096 in L1's RAM."""

    def __init__(self, memory: GuestMemory, address: int, features: frozenset[str]) -> None:
        self._memory, self.address = memory, address
        self._page = page = memory.read(address, vmcb.SIZE)
        self.cr, self.dr, self.exceptions, self.misc1, self.misc2 = _WORDS.unpack_from(page)
        self.iopm = self.word64(vmcb.IOPM_BASE_PA) & ~0xFFF
        self.msrpm = self.word64(vmcb.MSRPM_BASE_PA) & ~0xFFF
        self.tsc_offset = self.word64(vmcb.TSC_OFFSET)
        self.asid = self.word64(vmcb.ASID) & 0xFFFF_FFFF
        self.tlb_control = page[vmcb.TLB_CONTROL]
        self.virtual_interrupt = self.word64(vmcb.VIRTUAL_INTERRUPT)
        self.eventinj = self.word64(vmcb.EVENTINJ)
        #: L1 has nested paging on for L2.
        self.nested = bool(page[vmcb.NESTED_CONTROL] & 1)
        #: LBR virtualization: DebugCtl and the records of branches are L2's own; else L1's.
        self.own_records = "LBR_VIRT" in features and page[vmcb.LBR_CONTROL] & 1
        self.n_cr3 = self.word64(vmcb.N_CR3)

    def word64(self, offset: int) -> int:
        """A 64-bit field as it was at VMRUN."""
        value: int = _QWORD.unpack_from(self._page, offset)[0]
        return value

    @property
    def masks_interrupts(self) -> bool:
        """V_INTR_MASKING: L1's RFLAGS.IF decides about physical interrupts, and L2 has a CR8 of its own (15.21.1)."""
        return bool(self.virtual_interrupt & vmcb.V_INTR_MASKING)

    def intercepts(self, code: int) -> bool:
        """Whether L1 wants exits with this code, but for what its permission maps say."""
        if code < 0x20:
            return bool(self.cr >> code & 1)
        if code < 0x40:
            return bool(self.dr >> code - 0x20 & 1)
        if code < 0x60:
            return bool(self.exceptions >> code - 0x40 & 1)
        if code < 0x80:
            return bool(self.misc1 >> code - 0x60 & 1)
        return code < 0xA0 and bool(self.misc2 >> code - 0x80 & 1)

    def copy_state(self, block: ControlBlock) -> None:
        """The state save area into VMCB 02, and what belongs to it among the controls."""
        first, end = _STATE
        block.write_bytes(first, self._page[first:end])
        block.set_word(vmcb.PAUSE_FILTER_THRESHOLD, self.word64(vmcb.PAUSE_FILTER_THRESHOLD & ~7) >> 32)
        block[vmcb.INTERRUPT_SHADOW] = self._page[vmcb.INTERRUPT_SHADOW] & 1
        block[vmcb.NEXT_RIP] = self.word64(vmcb.NEXT_RIP)

    def _write(self, page: bytearray) -> None:
        self._memory.write(self.address, page)

    def write_refusal(self) -> None:
        """VMEXIT_INVALID: nothing of the state is saved."""
        self._memory.write(self.address + vmcb.EXITCODE, _EXIT.pack(vmcb.EXIT_INVALID, 0, 0, 0))

    def write_exit(self, block: ControlBlock, exit_: tuple[int, int, int, int], virtual: int, svme: int) -> None:
        """#VMEXIT: `exit_` is exit code, EXITINFO1, EXITINFO2, EXITINTINFO; the state is VMCB 02's."""
        page = bytearray(self._memory.read(self.address, vmcb.SIZE))
        _EXIT.pack_into(page, vmcb.EXITCODE, *exit_)
        _QWORD.pack_into(page, vmcb.VIRTUAL_INTERRUPT, virtual)
        page[vmcb.INTERRUPT_SHADOW] = block.byte(vmcb.INTERRUPT_SHADOW) & 1
        page[vmcb.EVENTINJ + 3] &= 0x7F
        for first, end in _SAVED:
            page[first:end] = block.read_bytes(first, end)
        if self.own_records:
            page[vmcb.DBGCTL : vmcb.LAST_EXCEPTION_TO + 8] = block.read_bytes(vmcb.DBGCTL, vmcb.LAST_EXCEPTION_TO + 8)
        _QWORD.pack_into(page, vmcb.EFER, block[vmcb.EFER] & ~_SVME | svme)
        if self.nested:
            _QWORD.pack_into(page, vmcb.G_PAT, block[vmcb.G_PAT])
        self._write(page)

    def write_next_rip(self, next_rip: int) -> None:
        """Next RIP, for processors that save it."""
        self._memory.write(self.address + vmcb.NEXT_RIP, _QWORD.pack(next_rip))

    def write_fetched(self, block: ControlBlock) -> None:
        """The instruction's bytes, for processors with decode assists."""
        place = vmcb.FETCHED_COUNT
        self._memory.write(self.address + place, block.read_bytes(place, place + 16))

    # -- permission maps

    def wants_port(self, port: int, size: int) -> bool:
        """Whether one of the `size` bits from `port` on is set; all are where L1 has no RAM (15.10.1)."""
        place = self.iopm + port // 8
        if not self._memory.is_ram(place, 2):
            return True
        bits = int.from_bytes(self._memory.read(place, 2), "little")
        return bool(bits >> (port & 7) & (1 << size) - 1)

    def wants_msr(self, number: int, is_write: bool) -> bool:
        """Whether L1 intercepts an access to an MSR (15.11)."""
        bit = vmcb.msr_permission_bit(number)
        if bit is None:
            return True
        bit += is_write
        place = self.msrpm + bit // 8
        return not self._memory.is_ram(place) or bool(self._memory.read(place, 1)[0] >> (bit & 7) & 1)


_SVME = 1 << 12
