"""What all techniques have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.cpuid import CpuProfile
from trapgate.arch.vectors import GP
from trapgate.vmm.asids import Loses
from trapgate.vmm.control_block import ControlBlock
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.errors import UnexpectedExit

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu
    from trapgate.vmm.vm import VirtualMachine


class Technique(ABC):
    """A way to give a guest its memory. `tagged`: the TLB's entries keep the guest's ASID over world switches; else
    everything is flushed at each VMRUN."""

    name: str
    tagged: bool
    needs_amd_v = True
    #: Whether the guest has AMD-V itself, where its processor has (vmm/nested_svm).
    offers_svm = False

    def __init__(self, vm: VirtualMachine) -> None:
        self.vm = vm
        #: What the TLB has to lose of the guest before it runs again.
        self.loses = Loses.EVERYTHING
        #: That of the ASIDs (vmm/asids.py) in which the guest's was taken.
        self._generation = 0

    @classmethod
    def missing(cls, profile: CpuProfile) -> str:
        """What a host's processor lacks for it, in words; "" for nothing."""
        return "" if "SVM" in profile.flags or not cls.needs_amd_v else "AMD-V"

    @property
    def vcpu(self) -> VirtualCpu:
        """The processor that it serves."""
        return self.vm.vcpu

    @abstractmethod
    def prepare(self, block: ControlBlock) -> None:
        """Set the intercepts and the paging fields of a new VMCB."""

    def before_entry(self) -> None:
        """Right before each VMRUN: say what it flushes."""
        block = self.vcpu.block
        if not self.tagged:
            block.set_byte(vmcb.TLB_CONTROL, vmcb.FLUSH_ALL)
            return
        loses = self.loses if self._generation == self.vm.asids.generation else Loses.EVERYTHING
        if loses is Loses.NOTHING:
            block.set_byte(vmcb.TLB_CONTROL, vmcb.FLUSH_NOTHING)
            return
        vm = self.vm
        vm.asid, control = vm.asids.prepare(vm.asid, loses)
        block.set_word(vmcb.ASID, vm.asid)
        block.set_byte(vmcb.TLB_CONTROL, control)
        self._generation = vm.asids.generation
        self.loses = Loses.NOTHING

    def enter(self, address: int) -> str:
        """Run the guest of the VMCB at host-physical `address` until its next exit."""
        return self.vm.backend.run(address)

    #: Exits that only this technique has, or has in its own way.
    exits: Mapping[int, Callable[[VirtualCpu], None]] = {}

    def general_protection(self, error: int) -> None:
        """#GP of the guest's has left it."""
        self.vcpu.inject(GuestFault(GP, error))

    # -- control registers as the guest sees them

    @property
    @abstractmethod
    def cr0(self) -> int: ...
    @property
    @abstractmethod
    def cr3(self) -> int: ...
    @property
    @abstractmethod
    def cr4(self) -> int: ...
    @property
    @abstractmethod
    def efer(self) -> int: ...
    @abstractmethod
    def set_control_registers(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        """All of them at once, as a boot protocol leaves them."""

    @abstractmethod
    def memory_changed(self, address: int, length: int) -> None:
        """The guest-physical pages from `address` on have become memory, or have ceased to be."""

    @abstractmethod
    def set_efer(self, value: int) -> None:
        """The guest has written EFER; the value has been checked."""

    # Where these exit; the values have been checked. They may raise GuestFault all the same, with nothing changed.

    def write_cr0(self, value: int, efer: int) -> None:
        """CR0, and EFER with its LMA."""
        raise UnexpectedExit("cr0_write", self.vcpu.rip)

    def write_cr3(self, value: int) -> None:
        """CR3."""
        raise UnexpectedExit("cr3_write", self.vcpu.rip)

    def write_cr4(self, value: int) -> None:
        """CR4."""
        raise UnexpectedExit("cr4_write", self.vcpu.rip)

    def invlpg(self, linear: int) -> None:
        """INVLPG of a linear address."""
        raise UnexpectedExit("invlpg", self.vcpu.rip)

    # -- memory

    @abstractmethod
    def translate(self, linear: int, access: int) -> int:
        """Guest-physical address of an access (PF_W, PF_U, PF_I) by the guest's own tables. Raises GuestFault."""

    def host_page(self, address: int) -> int | None:
        """Host-physical address of the page at guest-physical `address`; None where there is no RAM."""
        return self.vm.memory.host_address(address)

    @abstractmethod
    def set_a20(self, enabled: bool) -> None:
        """A20M# of the guest's board."""


TechniqueClass = type[Technique]
