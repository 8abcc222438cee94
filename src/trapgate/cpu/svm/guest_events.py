"""Events of a guest: injection, what of exceptions and interrupts leaves it, virtual interrupts (APM vol. 2, 15.12 to
15.14, 15.20 and 15.21)."""

from __future__ import annotations

import struct
from abc import abstractmethod

from trapgate.arch import layout, vectors, vmcb
from trapgate.arch.registers import IF, RF
from trapgate.arch.vectors import WITH_ERROR_CODE
from trapgate.cpu.faults import VMEXIT, Fault, TripleFault, VmExit
from trapgate.cpu.smm import SystemManagement
from trapgate.cpu.svm.controls import Controls
from trapgate.cpu.svm.guest_state import Host
from trapgate.cpu.svm.world_switch import HOST_SYSTEM_FLAGS
from trapgate.cpu.tasks import SwitchKind

_QWORD = struct.Struct("<Q")


class GuestEvents(SystemManagement):
    """A processor whose guests' events can leave them."""

    #: Whether a guest runs now.
    in_guest = False
    #: Global interrupt flag (15.17).
    gif = True
    controls: Controls
    #: Host-physical address of the current guest's VMCB.
    vmcb = 0
    #: EXITINTINFO of the event that is being delivered, 0 when none is.
    delivering = 0
    #: A virtual interrupt waits (V_IRQ).
    v_irq = False
    host: Host | None = None

    @property
    @abstractmethod
    def python_host(self) -> bool:
        """Whether the hypervisor is a program outside."""

    @abstractmethod
    def leave_guest(self, exit_: VmExit) -> None:
        """#VMEXIT."""

    def pending_changed(self) -> None:
        """What may interrupt has changed; the engine tells native code."""

    def inject(self, event: int) -> None:
        """EVENTINJ (15.20): not subject to intercepts itself; a fault on the way is."""
        vector, kind = event & 0xFF, event >> vmcb.EVENT_TYPE_SHIFT & 7
        self.instruction_rip = self.rip
        error: int | None = None
        if event & vmcb.EVENT_ERROR_VALID and not self.real_mode:
            error = event >> vmcb.EVENT_ERROR_SHIFT & 0xFFFF_FFFF
        if kind == vmcb.EVENT_NMI:
            vector = vectors.NMI  # the field's own does not count
        # #BP and #OF are injected as INT3 and INTO would raise them: the gate's DPL counts.
        software = kind == vmcb.EVENT_SOFTWARE or (kind == vmcb.EVENT_EXCEPTION and vector in (vectors.BP, vectors.OF))
        instruction = None
        if software and "NRIP_SAVE" in self.profile.svm_features:
            following = _QWORD.unpack_from(self.ram, self.vmcb + vmcb.NEXT_RIP)[0]
            if following:  # 0: none was given (assumed)
                instruction, self.rip = self.rip, following
        counts = self.exception_counts if kind == vmcb.EVENT_EXCEPTION else self.interrupt_counts
        counts[vector] = counts.get(vector, 0) + 1
        first = Fault(vector, error) if kind == vmcb.EVENT_EXCEPTION else None
        self.charge_event(self.costs.exception if first is not None else self.costs.interrupt)
        resume = kind == vmcb.EVENT_EXCEPTION and vector not in (vectors.DB, vectors.BP, vectors.OF)
        self.delivering = event & ~0x7FFF_F0FF | vector
        self.deliver_event(vector, error, software, resume, first, instruction)
        self.redirected = True

    def charge_event(self, cycles: int) -> None:
        """An exception or interrupt is about to be delivered: let the time pass that this takes."""
        self.charged += cycles
        self._event_cycles += cycles

    @property
    def event_cycles(self) -> int:
        """Modelled cycles that went into delivering exceptions and interrupts."""
        return self._event_cycles + self.q[layout.FAULTS_DELIVERED >> 3] * self.costs.exception

    def note_event(self, kind: int, vector: int, error: int | None = None) -> None:
        """An event is about to be delivered: what EXITINTINFO shows if that is interrupted (15.7.2)."""
        event = vector | kind << vmcb.EVENT_TYPE_SHIFT | vmcb.EVENT_VALID
        if error is not None:
            event |= vmcb.EVENT_ERROR_VALID | error << vmcb.EVENT_ERROR_SHIFT
        self.delivering = event

    def intercept_exception(self, fault: Fault) -> None:
        """Leave the guest when it may not take this exception itself (15.12). Before CR2 and DR6 ... are written."""
        vector = fault.vector
        if vector == VMEXIT:
            raise fault
        if not self.controls.exceptions >> vector & 1 or not fault.interceptable:
            return
        info1 = fault.error if fault.error is not None and vector in WITH_ERROR_CODE else 0
        info2 = fault.address or 0
        raise VmExit(vmcb.EXIT_EXCEPTION + vector, info1, info2, rip=self.rip, next_rip=fault.next_rip)

    def intercept_task_switch(self, selector: int, kind: SwitchKind, error: int | None, flags: int) -> None:
        """Leave the guest where its hypervisor takes task switches (15.14.1); `flags` would be saved in the old TSS."""
        if not self.controls.misc1 & vmcb.misc1("task_switch"):
            return
        info2 = {SwitchKind.RETURN: vmcb.TASK_SWITCH_IRET, SwitchKind.JUMP: vmcb.TASK_SWITCH_JUMP}.get(kind, 0)
        if error is not None:
            info2 |= vmcb.TASK_SWITCH_ERROR | error
        if flags & RF:
            info2 |= vmcb.TASK_SWITCH_RF
        raise VmExit(vmcb.EXIT["task_switch"], selector, info2)

    def intercept_shutdown(self) -> None:
        """A triple fault in a guest leaves it when that is intercepted (15.14.3)."""
        if self.in_guest and self.controls.misc1 & vmcb.misc1("shutdown"):
            self.leave_guest(VmExit(vmcb.EXIT["shutdown"]))
            return
        raise TripleFault

    def takes_physical_interrupts(self) -> bool:
        """Whether INTR would be taken now: RFLAGS.IF, or with V_INTR_MASKING the host's (15.21.1)."""
        if not self.gif:
            return False
        if self.in_guest and self.controls.v_intr_masking:
            return self.python_host or bool(self.q[HOST_SYSTEM_FLAGS >> 3] & IF)
        return bool(self.q[layout.SYSTEM_FLAGS >> 3] & IF)

    def takes_virtual_interrupt(self) -> bool:
        """Whether V_IRQ would be taken now (15.21.4); the shadow has been looked at."""
        return (
            self.v_irq
            and self.in_guest
            and bool(self.q[layout.SYSTEM_FLAGS >> 3] & IF)
            and self.gif
            and self.controls.v_irq_passes()
        )

    def take_virtual_interrupt(self) -> None:
        """Deliver the virtual interrupt, or leave the guest when VINTR is intercepted."""
        if self.controls.misc1 & vmcb.misc1("vintr"):
            self.leave_guest(VmExit(vmcb.EXIT["vintr"], rip=self.rip))
            return
        # Cleared after the intercept and before the IDT is looked at (15.21.4).
        self.v_irq = False
        self.pending_changed()
        self.charge_event(self.costs.interrupt)
        self.deliver_interrupt(self.controls.v_vector)

    def event_intercepted(self, name: str) -> bool:
        """Leave the guest for a physical event ("intr", "nmi", "smi", "init") that is intercepted; it stays pending."""
        if not self.in_guest or not self.controls.misc1 & vmcb.misc1(name):
            return False
        info1 = vmcb.SMI_EXTERNAL if name == "smi" else 0
        self.leave_guest(VmExit(vmcb.EXIT[name], info1, rip=self.rip))
        return True
