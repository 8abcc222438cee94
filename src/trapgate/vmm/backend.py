"""What the hypervisor needs of the machine under it: AMD-V, host memory, time. Nothing of the processor's insides."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Protocol

from trapgate.arch.costs import Costs
from trapgate.arch.cpuid import CpuProfile
from trapgate.machine.clock import Clock
from trapgate.machine.memory import PhysicalMemory


class Backend(Protocol):
    """One processor with AMD-V and its memory. Addresses of VMCBs are host-physical."""

    #: The host's processor.
    profile: CpuProfile
    costs: Costs
    #: The host's RAM.
    memory: PhysicalMemory
    clock: Clock
    #: The guest's rax ... r15 while it does not run; rax and rsp count in the VMCB.
    gprs: MutableSequence[int]

    @property
    def instructions(self) -> int:
        """Guests' instructions so far, whoever carried them out."""
        ...

    def run(self, vmcb: int) -> str:
        """VMRUN until #VMEXIT: "vmexit", or why the run has stopped without one."""
        ...

    def run_translated(self, vmcb: int, deprivileged: bool) -> str:
        """Run the VMCB's guest without AMD-V: its code is translated, its exceptions come here as exits.

        `deprivileged`: its kernel runs, at CPL 3, and works on its virtual flags in place.
        """
        ...

    def run_real_mode(self, vmcb: int) -> str:
        """The same for a guest in real mode, all of whose code is translated."""
        ...

    def interpret(self, vmcb: int, instructions: int) -> str:
        """Deliver the injected event, and carry out 0 or 1 instructions, in the guest's stead."""
        ...

    def retire(self, instructions: int) -> None:
        """The hypervisor has carried out so many instructions of its guest: they count as the guest's."""
        ...

    def vmload(self, vmcb: int) -> None:
        """Load FS, GS, TR, LDTR, KernelGSBase, STAR to SFMASK and SYSENTER from the VMCB."""
        ...

    def vmsave(self, vmcb: int) -> None:
        """Store them there."""
        ...

    def invlpga(self, linear: int, asid: int) -> None:
        """Drop one page's translation of an ASID."""
        ...

    def interrupt(self, level: bool) -> None:
        """A device of the host wants attention: a guest that runs is left with VMEXIT_INTR."""
        ...

    def charge(self, cycles: int) -> None:
        """The hypervisor has worked for so many modelled cycles."""
        ...

    def charge_device(self, cycles: int) -> None:
        """An access to a device has taken so many modelled cycles."""
        ...

    def xmm(self, number: int) -> bytes:
        """The 16 bytes of an XMM register."""
        ...

    def set_xmm(self, number: int, value: bytes) -> None:
        """Replace an XMM register's 16 bytes."""
        ...

    def breakpoint_address(self, number: int) -> int:
        """DR0 to DR3, which VMRUN leaves alone: the guest's."""
        ...

    def set_tsc_aux(self, value: int) -> None:
        """TSC_AUX, which VMRUN leaves alone and RDTSCP reads."""
        ...

    def ignore_x87_error(self) -> None:
        """IGNNE#: the guest's pending x87 exception stops nothing any more."""
        ...

    @property
    def refusal(self) -> str:
        """Why the last VMRUN was refused, for reports."""
        ...
