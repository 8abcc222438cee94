"""What all techniques have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.vmm.control_block import ControlBlock

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu
    from trapgate.vmm.vm import VirtualMachine


class Technique(ABC):
    """A way to give a guest its memory. `tagged`: the TLB's entries keep the guest's ASID over world switches; else
    everything is flushed at each VMRUN."""

    name: str
    tagged: bool

    def __init__(self, vm: VirtualMachine) -> None:
        self.vm = vm
        #: TLB_CONTROL of the next VMRUN.
        self.flush = vmcb.FLUSH_ALL

    @property
    def vcpu(self) -> VirtualCpu:
        """The processor that it serves."""
        return self.vm.vcpu

    @abstractmethod
    def prepare(self, block: ControlBlock) -> None:
        """Set the intercepts and the paging fields of a new VMCB."""

    def before_entry(self) -> None:
        """Right before each VMRUN: say what it flushes."""
        flush = self.flush if self.tagged else vmcb.FLUSH_ALL
        self.vcpu.block.set_byte(vmcb.TLB_CONTROL, flush)
        self.flush = vmcb.FLUSH_NOTHING

    def flush_guest(self) -> None:
        """All of the guest's translations are to go at the next entry."""
        by_asid = "FLUSH_BY_ASID" in self.vm.backend.profile.svm_features
        self.flush = vmcb.FLUSH_GUEST if by_asid else vmcb.FLUSH_ALL

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
    def set_efer(self, value: int) -> None:
        """The guest has written EFER; the value has been checked."""

    # -- memory

    @abstractmethod
    def translate(self, linear: int, access: int) -> int:
        """Guest-physical address of an access (PF_W, PF_U, PF_I) by the guest's own tables. Raises GuestFault."""

    @abstractmethod
    def set_a20(self, enabled: bool) -> None:
        """A20M# of the guest's board."""


TechniqueClass = type[Technique]
