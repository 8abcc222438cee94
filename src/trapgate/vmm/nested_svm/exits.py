"""Whose exit is it? Those that L1 has asked for are its own, all others are carried out here for L2."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.paging import ADDRESS_MASK, PF_I, PF_W, PTE_D, PTE_RW
from trapgate.arch.registers import RCX
from trapgate.vmm.exits.memory import emulate_device
from trapgate.vmm.nested_svm.events import interrupted, undefined, window_opened
from trapgate.vmm.shadow.walk import NO_EXECUTE

if TYPE_CHECKING:
    from trapgate.vmm.nested_svm.state import NestedSvm
    from trapgate.vmm.vcpu import VirtualCpu

_INTR, _NMI, _SMI, _INIT = (vmcb.EXIT[name] for name in ("intr", "nmi", "smi", "init"))
_VINTR, _IOIO, _MSR, _VMMCALL = (vmcb.EXIT[name] for name in ("vintr", "ioio", "msr", "vmmcall"))
_LARGE = 2 << 20


def handler(nested: NestedSvm, code: int) -> Callable[[VirtualCpu], None] | None:
    """What an exit of L2 needs; None: what it would need of L1."""
    if code == _INTR:
        return interrupted
    if code in (_NMI, _SMI, _INIT):
        return None
    if code == _VINTR and nested.window:
        return window_opened
    if code == vmcb.EXIT_INVALID:
        return nested.refused
    if code == vmcb.EXIT_NPF:
        return nested_page_fault if nested.vmcb12.nested else None
    if _is_l1s(nested, code):
        return reflect
    return undefined if code == _VMMCALL else None


def _is_l1s(nested: NestedSvm, code: int) -> bool:
    block12 = nested.vmcb12
    if not block12.intercepts(code):
        return False
    info = nested.vmcb02[vmcb.EXITINFO1]
    if code == _IOIO:
        return block12.wants_port(info >> vmcb.IOIO_PORT_SHIFT & 0xFFFF, info >> vmcb.IOIO_SIZE_SHIFT & 7)
    if code == _MSR:
        return block12.wants_msr(nested.vcpu.gpr[RCX] & 0xFFFF_FFFF, bool(info & 1))
    return True


def reflect(vcpu: VirtualCpu) -> None:
    """The exit is L1's as it is."""
    block = vcpu.block
    vcpu.nested.leave(block[vmcb.EXITCODE], block[vmcb.EXITINFO1], block[vmcb.EXITINFO2], block[vmcb.NEXT_RIP])


def nested_page_fault(vcpu: VirtualCpu) -> None:
    """A nested page fault of an L2 whose nested tables are L1's: fill in what they say, or it is L1's fault.

    Raises NestedPageFault for those.
    """
    nested, block = vcpu.nested, vcpu.block
    info, address = block[vmcb.EXITINFO1], block[vmcb.EXITINFO2]
    outer, tables = nested.outer, nested.tables
    outer.find(address, info & (PF_W | PF_I | vmcb.NPF_FINAL | vmcb.NPF_TABLE))
    physical = outer.physical
    found = vcpu.technique.host_page(physical & ~0xFFF)
    if found is None:
        emulate_device(vcpu, physical)
        return
    if not tables.has_room():
        nested.forget()
    writable = bool(outer.rights & PTE_RW and outer.leaf & PTE_D)
    execute = not outer.rights & NO_EXECUTE
    # The first run of 2 MB has the A20 gate in it.
    large = outer.level > 1 and physical >= _LARGE and nested.vm.memory.is_run(physical)
    frame = found & ~(_LARGE - 1) if large else found
    tables.fill(address, frame & ADDRESS_MASK, large, writable, execute)
