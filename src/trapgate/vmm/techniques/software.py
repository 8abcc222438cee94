"""Software virtualization, without AMD-V: the guest's kernel runs deprivileged, at CPL 3.

What its ring 0 may not do raises an exception, which is the hypervisor's. Sensitive instructions that would not fault
at CPL 3 are replaced when the code is translated: CLI, STI, PUSHF, POPF and SWAPGS work in place on the virtual flags,
the others call the hypervisor. Kernel and user have shadow tables of their own: in the kernel's, kernel pages are the
user's. (The processor here keeps the virtual CPL 0 state in its registers while it checks accesses as CPL 3, which is
what the translated code of a real one sees.)

| the guest is in         | it runs                                                   | what comes here                |
|-------------------------|-----------------------------------------------------------|--------------------------------|
| a kernel mode, paging   | translated, at CPL 3, on the kernel's shadow tables       | exceptions, callouts           |
| b user mode             | as it is, at CPL 3, on the user's shadow tables           | exceptions, system calls, INT  |
| c real mode, no paging  | translated, on tables that map memory as it is            | privileged instructions        |
| d an event for it waits | interpreted: its delivery alone, then (a) again           | page faults                    |
| e after an exception    | interpreted: that one instruction at its own level        | whatever it needs              |

The processor is left as soon as one interpreted instruction is done. A guest's own exceptions need nothing special:
interpreted, the instruction raises them at the guest's own level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vectors, vmcb
from trapgate.arch.paging import PF_U
from trapgate.arch.registers import CR0_AM, CR0_PE, CR4_TSD
from trapgate.vmm.control_block import ControlBlock
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.techniques.shadow import Shadow

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

_ALL_EXCEPTIONS, _ONLY_PAGE_FAULTS = 0xFFFF_FFFF & ~(1 << vectors.NMI), 1 << vectors.PF
#: These have an exit of their own under every technique.
_OF_ALL = (vectors.PF, vectors.GP)


class Software(Shadow):
    """Deprivileged execution on shadow tables; the TLB is flushed at each world switch."""

    name = "software"
    tagged = False
    needs_amd_v = False

    def prepare(self, block: ControlBlock) -> None:
        super().prepare(block)
        self._interpret = False
        #: Whether the guest's kernel ran deprivileged when the last exit came.
        self.deprivileged = False
        self.exits = {
            vmcb.EXIT_CALLOUT: interpret_next,
            vmcb.EXIT_INTERPRETED: nothing,
            **{vmcb.EXIT_EXCEPTION + vector: interpret_next for vector in range(32) if vector not in _OF_ALL},
            vmcb.EXIT_EXCEPTION + vectors.DB: debug_trap,
        }

    def interpret_next(self) -> None:
        """The guest's next instruction is carried out in its stead."""
        self._interpret = True

    def general_protection(self, error: int) -> None:
        """Interpreted, the instruction raises it again where it is the guest's own."""
        self.interpret_next()

    def enter(self, address: int) -> str:
        block, backend = self.vcpu.block, self.vm.backend
        interpret, self._interpret = self._interpret, False
        self.deprivileged = False
        if block[vmcb.EVENTINJ] & vmcb.EVENT_VALID or interpret:  # d, e
            self._use(block, deprivileged=False, exceptions=_ONLY_PAGE_FAULTS)
            return backend.interpret(address, int(interpret and not block[vmcb.EVENTINJ] & vmcb.EVENT_VALID))
        if not self._cr0 & CR0_PE:  # c
            self._use(block, deprivileged=False, exceptions=_ONLY_PAGE_FAULTS)
            return backend.run_real_mode(address)
        cpl = block.byte(vmcb.CPL)
        if cpl == 3:  # b
            self._use(block, deprivileged=False, exceptions=_ALL_EXCEPTIONS)
            return backend.run_translated(address, deprivileged=False)
        self.deprivileged = True  # a
        self._use(block, deprivileged=True, exceptions=_ALL_EXCEPTIONS)
        block.set_byte(vmcb.CPL, 3)
        cr0, cr4 = block[vmcb.CR0], block[vmcb.CR4]
        # What would hold a user back and a kernel not.
        block[vmcb.CR0], block[vmcb.CR4] = cr0 & ~CR0_AM, cr4 & ~CR4_TSD
        reason = backend.run_translated(address, deprivileged=True)
        block.set_byte(vmcb.CPL, cpl)
        block[vmcb.CR0], block[vmcb.CR4] = cr0, cr4
        return reason

    def _use(self, block: ControlBlock, deprivileged: bool, exceptions: int) -> None:
        """Choose the shadow tables and the exceptions that exit."""
        self.mmu.set_deprivileged(deprivileged)
        block[vmcb.CR3] = self.mmu.hardware.cr3
        block.set_word(vmcb.INTERCEPT_EXCEPTIONS, exceptions)

    def page_fault_error(self, error: int) -> int:
        """The processor's error code, as the guest's own level would have it."""
        return error & ~PF_U if self.deprivileged else error


def interpret_next(vcpu: VirtualCpu) -> None:
    """What the guest must not do, or its own exception: the hypervisor carries the instruction out."""
    technique = vcpu.technique
    assert isinstance(technique, Software)
    technique.interpret_next()


def debug_trap(vcpu: VirtualCpu) -> None:
    """#DB comes after an instruction, or its cause is in DR6 already: it is the guest's."""
    vcpu.inject(GuestFault(vectors.DB))


def nothing(vcpu: VirtualCpu) -> None:
    """One instruction or event has been carried out in the guest's stead."""
