"""A guest of engine/harness.py put under AMD-V: its state goes into a VMCB, and the test is the hypervisor.

Host-physical memory is the harness's; the VMCB lies at 2F_0000h, the I/O permission map at 2F_1000h (three pages), the
MSR permission map at 2F_4000h (two pages). All permission bits are clear.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from engine.assembly import assemble
from engine.harness import Guest
from trapgate.arch import vmcb
from trapgate.arch.registers import EFER_SVME

VMCB, IOPM, MSRPM = 0x2F_0000, 0x2F_1000, 0x2F_4000
GUEST_ASID = 1


class Exit(NamedTuple):
    """What a #VMEXIT says."""

    code: int
    info1: int
    info2: int
    int_info: int


class World:
    """One guest and its VMCB. Make the guest's mode with `guest.enter_...`, then call `wrap`."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.memory = guest.memory
        self.processor = guest.processor

    def wrap(self) -> World:
        """Put the processor's present state into the VMCB; from now on it runs under AMD-V."""
        p = self.processor
        for register, place in zip(p.segments[:4], (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS), strict=True):
            word = register.selector | register.attributes << 16 | register.limit << 32
            self.memory.write(VMCB + place, struct.pack("<2Q", word, register.base))
        for place, base, limit in (
            (vmcb.GDTR, p.gdtr_base, p.gdtr_limit),
            (vmcb.IDTR, p.idtr_base, p.idtr_limit),
        ):
            self.memory.write(VMCB + place + 4, struct.pack("<IQ", limit, base))
        for place, value in (
            (vmcb.EFER, p.efer | EFER_SVME), (vmcb.CR0, p.cr0), (vmcb.CR3, p.cr3), (vmcb.CR4, p.cr4),
            (vmcb.DR6, p.dr[6]), (vmcb.DR7, p.dr[7]), (vmcb.RFLAGS, p.rflags), (vmcb.RIP, p.rip),
            (vmcb.RSP, self.guest["rsp"]), (vmcb.RAX, self.guest["rax"]), (vmcb.IOPM_BASE_PA, IOPM),
            (vmcb.MSRPM_BASE_PA, MSRPM), (vmcb.G_PAT, 0x0007_0406_0007_0406),
        ):  # fmt: skip
            self[place] = value
        self.memory.write_u8(VMCB + vmcb.CPL, p.cpl)
        self.memory.write_u32(VMCB + vmcb.ASID, GUEST_ASID)
        self.intercept("vmrun", "vmmcall", "hlt", "shutdown")
        p.python_host = True
        return self

    def code(self, bits: int, text: str, org: int = 0x8000) -> World:
        """Put code into memory (engine/assembly.py)."""
        self.memory.write(org, assemble(bits, text, org).data)
        return self

    def __getitem__(self, place: int) -> int:
        """A 64-bit field of the VMCB."""
        return self.memory.read_u64(VMCB + place)

    def __setitem__(self, place: int, value: int) -> None:
        self.memory.write_u64(VMCB + place, value)

    def intercept(self, *names: str) -> World:
        """Intercept these, by their names in arch/vmcb.py."""
        for name in names:
            place = vmcb.INTERCEPT_MISC1 if name in vmcb.MISC1 else vmcb.INTERCEPT_MISC2
            bit = vmcb.misc1(name) if name in vmcb.MISC1 else vmcb.misc2(name)
            self.memory.write_u32(VMCB + place, self.memory.read_u32(VMCB + place) | bit)
        return self

    def intercept_exceptions(self, *exceptions: int) -> World:
        """Intercept exception vectors."""
        mask = sum(1 << vector for vector in exceptions)
        self.memory.write_u32(VMCB + vmcb.INTERCEPT_EXCEPTIONS, mask)
        return self

    def run(self) -> Exit:
        """VMRUN, until the next #VMEXIT."""
        reason = self.processor.run_guest(VMCB)
        assert reason == "vmexit", f"wanted a #VMEXIT, got {reason} at {self.processor.rip:#x}"
        return Exit(self[vmcb.EXITCODE], self[vmcb.EXITINFO1], self[vmcb.EXITINFO2], self[vmcb.EXITINTINFO])
