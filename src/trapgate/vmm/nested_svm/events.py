"""What is delivered to L2, and what leaves it for L1 (APM vol. 2, 15.13, 15.17, 15.20, 15.21)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vectors, vmcb
from trapgate.arch.vectors import WITH_ERROR_CODE
from trapgate.vmm.emulate import GuestFault

if TYPE_CHECKING:
    from trapgate.vmm.nested_svm.state import NestedSvm
    from trapgate.vmm.vcpu import VirtualCpu

_INTR, _NMI, _SHUTDOWN = vmcb.EXIT["intr"], vmcb.EXIT["nmi"], vmcb.EXIT["shutdown"]


def prepare_event(nested: NestedSvm) -> None:
    """Choose what EVENTINJ of VMCB 02 delivers, and see to it that L2 is left for what has to wait.

    | waiting                     | L1 intercepts it | it can be taken now        | done                              |
    |-----------------------------|------------------|----------------------------|-----------------------------------|
    | a an event                  | -                | -                          | EVENTINJ                          |
    | b NMI                       | yes              | GIF                        | INTR of the host, then #VMEXIT    |
    | c NMI                       | no               | GIF, no handler runs       | EVENTINJ                          |
    | d INTR                      | yes              | GIF, IF of L1 or L2        | INTR of the host, then #VMEXIT    |
    | e INTR                      | no               | the same, no shadow, not a | acknowledged, EVENTINJ            |
    | f INTR, behind (a) or (e)   | no               | the same                   | INTR of the host, then (e)        |
    | g INTR                      | any              | no: L2's IF is clear       | V_IRQ of VMCB 02: VINTR exits     |
    """
    vcpu, block, block12 = nested.vcpu, nested.vmcb02, nested.vmcb12
    event = vcpu.take_event()  # a
    if event >> vmcb.EVENT_TYPE_SHIFT & 7 == vmcb.EVENT_SOFTWARE:
        block[vmcb.NEXT_RIP] = block12.word64(vmcb.NEXT_RIP)
    leave = window = False
    if vcpu.nmi and nested.gif and not vcpu.nmi_masked:
        if block12.intercepts(_NMI):  # b
            leave = True
        elif not event:  # c
            vcpu.nmi = False
            vcpu.nmi_masked = True
            block.intercept("iret")
            event = vmcb.EVENT_VALID | vmcb.EVENT_NMI << vmcb.EVENT_TYPE_SHIFT | vectors.NMI
    if vcpu.intr and nested.gif:
        if not nested.takes_interrupts:  # g
            window = not block12.masks_interrupts
        elif block12.intercepts(_INTR) or event or block.byte(vmcb.INTERRUPT_SHADOW) & 1:  # d, f
            leave = True
        else:  # e
            event = vmcb.EVENT_VALID | nested.vm.board.acknowledge()
            leave = vcpu.intr
    if window != nested.window:
        nested.set_window(window)
    if leave:
        nested.vm.backend.interrupt(True)
    block[vmcb.EVENTINJ] = vcpu.injected = event


def interrupted(vcpu: VirtualCpu) -> None:
    """INTR of the host: the board wants something. It is L1's, or waits (prepare_event)."""
    nested = vcpu.nested
    vcpu.backend.interrupt(False)
    block12 = nested.vmcb12
    if vcpu.nmi and nested.gif and not vcpu.nmi_masked and block12.intercepts(_NMI):
        nested.leave(_NMI)
    elif vcpu.intr and nested.takes_interrupts and block12.intercepts(_INTR):
        nested.leave(_INTR)


def window_opened(vcpu: VirtualCpu) -> None:
    """L2 can take an interrupt now."""
    vcpu.nested.set_window(False)


def intercept_exception(nested: NestedSvm, vector: int, error: int | None, address: int | None) -> bool:
    """An exception that L0 has found for L2: whether it has left L2 instead, because L1 intercepts it (15.12)."""
    if not nested.in_l2 or not nested.vmcb12.intercepts(vmcb.EXIT_EXCEPTION + vector):
        return False
    nested.leave(vmcb.EXIT_EXCEPTION + vector, (error or 0) if vector in WITH_ERROR_CODE else 0, address or 0)
    return True


def intercept_shutdown(nested: NestedSvm) -> bool:
    """A triple fault of L2's: whether L1 has got it."""
    if not nested.in_l2 or not nested.vmcb12.intercepts(_SHUTDOWN):
        return False
    nested.leave(_SHUTDOWN)
    return True


def undefined(vcpu: VirtualCpu) -> None:
    """VMMCALL of an L2 whose hypervisor does not want it: there are no hypercalls past L1."""
    vcpu.inject(GuestFault(vectors.UD))
