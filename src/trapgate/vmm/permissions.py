"""The I/O and MSR permission maps (APM vol. 2, 15.10.1 and 15.11)."""

from __future__ import annotations

from trapgate.arch import vmcb
from trapgate.vmm.memory.frames import FrameAllocator

#: MSRs that VMRUN, VMLOAD and VMSAVE keep apart, so that the guest may have them: FS, GS and KernelGS bases, STAR,
#: LSTAR, CSTAR, SFMASK, SYSENTER_CS, _ESP, _EIP.
PASSED = (
    0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0x174, 0x175, 0x176,
)  # fmt: skip


class PermissionMaps:
    """Every port and every MSR exits, but those in PASSED. `ports` and `msrs` are host-physical addresses."""

    def __init__(self, frames: FrameAllocator, owner: str) -> None:
        memory = frames.memory
        self.ports = frames.allocate_run(owner, vmcb.IOPM_SIZE // 4096, align=1)
        self.msrs = frames.allocate_run(owner, vmcb.MSRPM_SIZE // 4096, align=1)
        memory.write(self.ports, b"\xff" * vmcb.IOPM_SIZE)
        bits = bytearray(b"\xff" * vmcb.MSRPM_SIZE)
        for number in PASSED:
            place = vmcb.msr_permission_bit(number)
            assert place is not None
            bits[place // 8] &= ~(3 << place % 8)
        memory.write(self.msrs, bits)
