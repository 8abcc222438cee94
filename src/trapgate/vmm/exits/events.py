"""Exits for what comes from outside the guest's instructions: interrupts, INIT, shutdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu


def intr(vcpu: VirtualCpu) -> None:
    """A host interrupt: the guest's board wants to deliver something, which the next entry does."""
    vcpu.backend.interrupt(False)


def vintr(vcpu: VirtualCpu) -> None:
    """The guest can take an interrupt now."""
    vcpu.set_window(False)


def iret(vcpu: VirtualCpu) -> None:
    """The NMI handler ends: another NMI may come. The IRET itself runs when the guest goes on."""
    vcpu.nmi_masked = False
    vcpu.block.intercept("iret", False)


def shutdown(vcpu: VirtualCpu) -> None:
    """The guest cannot go on."""
    vcpu.triple_fault()


def ferr_freeze(vcpu: VirtualCpu) -> None:
    """A pending x87 exception with CR0.NE clear: FERR#, and a wait for the interrupt that the board makes of it."""
    vcpu.block.set_byte(vmcb.INTERRUPT_SHADOW, 0)
    vcpu.vm.board.numeric_error.set_ferr(True)
    vcpu.vm.idle(vcpu)


def ignored(vcpu: VirtualCpu) -> None:
    """Events of the host that its devices here do not raise."""


EXITS = {
    vmcb.EXIT["intr"]: intr,
    vmcb.EXIT["vintr"]: vintr,
    vmcb.EXIT["iret"]: iret,
    vmcb.EXIT["shutdown"]: shutdown,
    vmcb.EXIT["ferr_freeze"]: ferr_freeze,
    vmcb.EXIT["nmi"]: ignored,
    vmcb.EXIT["smi"]: ignored,
    vmcb.EXIT["init"]: ignored,
}
