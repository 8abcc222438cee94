"""What the emulator works on, registers and memory of a guest, and how it ends."""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Protocol

from trapgate.arch.paging import PF_U, PF_W

#: What an access is, in the bits of a page-fault error code (APM vol. 2, 8.4.2): a read has none of them. A read with
#: WRITE is the first half of a read-modify-write: it is checked as the write that follows.
WRITE, USER = PF_W, PF_U
#: Besides them: a read that only checks. RAM and devices are not touched, what it returns is of no interest.
CHECK = 1 << 16
#: Bytes of the longest instruction (APM vol. 3, 1.1).
MOST_BYTES = 15


class Registers(Protocol):
    """The registers of a guest's processor. All values are unsigned."""

    #: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 ... r15: 64 bits each.
    gpr: MutableSequence[int]
    #: 64 bits each.
    rip: int
    rflags: int

    @property
    def cpl(self) -> int: ...
    @property
    def cr0(self) -> int: ...
    @property
    def cr4(self) -> int: ...
    @property
    def efer(self) -> int: ...

    def segment(self, number: int) -> tuple[int, int, int, int]:
        """(selector, base, limit in bytes, attributes as in the VMCB) of es, cs, ss, ds, fs, gs = 0 ... 5."""
        ...

    def xmm(self, number: int) -> bytes:
        """The 16 bytes of an XMM register, lowest first."""
        ...

    def set_xmm(self, number: int, value: bytes) -> None:
        """Replace an XMM register's 16 bytes."""
        ...


class Memory(Protocol):
    """Guest-linear memory, through the guest's own page tables, to RAM or devices.

    An access may cross into the next page, from the top of the address space to its bottom too (at 4 GB outside
    64-bit mode). Everything it touches is checked before anything is touched. Segments and canonical form are the
    emulator's to check. All raise GuestFault where the guest's tables forbid the access.
    """

    def read(self, linear: int, size: int, access: int) -> bytes:
        """`size` bytes (1 to 16); `access` from WRITE, USER and CHECK."""
        ...

    def write(self, linear: int, data: bytes, access: int) -> None:
        """Write 1 to 16 bytes; `access` has WRITE."""
        ...

    def fetch(self, linear: int, size: int) -> bytes:
        """1 to `size` bytes of code: fewer where it has no more at hand, then it is asked again for what follows."""
        ...


@dataclass(frozen=True)
class Emulated:
    """What became of an instruction."""

    #: Bytes.
    length: int
    #: False: turns of a REP remain, rip is still on the instruction; interrupts may come in between.
    finished: bool


class NotEmulated(Exception):
    """An instruction that the emulator does not know; nothing has changed, the caller has to find another way."""

    def __init__(self, instruction: str, address: int) -> None:
        super().__init__(
            f"instruction emulation: wanted one that trapgate.vmm.emulate knows, got `{instruction}` at linear "
            f"{address:#x}: let the guest run it itself, or teach it to the emulator"
        )
        #: In Intel's syntax.
        self.instruction = instruction
        #: Linear.
        self.address = address
