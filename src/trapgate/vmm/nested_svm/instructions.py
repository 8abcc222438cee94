"""AMD-V's instructions of L1, which all leave it (APM vol. 3, chapter 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import iced_x86 as iced
from iced_x86 import Code, Mnemonic

from trapgate.arch import vmcb
from trapgate.arch.registers import RCX
from trapgate.arch.vectors import GP, UD
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.exits.operands import decode

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

_BITS = {
    Code.VMRUNW: 16, Code.VMRUND: 32, Code.VMLOADW: 16, Code.VMLOADD: 32, Code.VMSAVEW: 16, Code.VMSAVED: 32,
    Code.INVLPGAW: 16, Code.INVLPGAD: 32,
}  # fmt: skip
_LENGTH = 3


def _rax(vcpu: VirtualCpu) -> int:
    """rAX, as wide as the instruction's address size."""
    rax = vcpu.block[vmcb.RAX]
    if vcpu.bits == 64 and vcpu.next_rip - vcpu.rip == _LENGTH:
        return rax
    instruction: iced.Instruction = decode(vcpu)
    return rax & (1 << _BITS.get(instruction.code, 64)) - 1


def _page(vcpu: VirtualCpu) -> int:
    """Guest-physical address in rAX of a page of RAM. Raises GuestFault (#GP)."""
    address = _rax(vcpu)
    if address & 0xFFF or not vcpu.vm.memory.is_page(address >> 12):
        raise GuestFault(GP, 0)
    return address


def vmrun(vcpu: VirtualCpu) -> None:
    """VMRUN: the processor is L2's from here on."""
    address = _page(vcpu)
    vcpu.skip()
    vcpu.nested.enter(address)


def vmload(vcpu: VirtualCpu) -> None:
    """VMLOAD: the processor loads it from L1's page."""
    address = vcpu.technique.host_page(_page(vcpu))
    assert address is not None
    vcpu.backend.vmload(address)
    vcpu.extra_state_changed()
    vcpu.skip()


def vmsave(vcpu: VirtualCpu) -> None:
    """VMSAVE: the processor stores it in L1's page."""
    address = vcpu.technique.host_page(_page(vcpu))
    assert address is not None
    vcpu.backend.vmsave(address)
    vcpu.skip()


def stgi(vcpu: VirtualCpu) -> None:
    """STGI: what waits is delivered with the next entry."""
    vcpu.nested.gif = True
    vcpu.skip()


def clgi(vcpu: VirtualCpu) -> None:
    """CLGI."""
    vcpu.nested.gif = False
    vcpu.skip()


def invlpga(vcpu: VirtualCpu) -> None:
    """INVLPGA; ASID 0 is L1's own."""
    linear, asid = _rax(vcpu), vcpu.gpr[RCX] & 0xFFFF_FFFF
    if asid:
        vcpu.nested.invalidate(linear, asid)
    elif vcpu.technique.tagged:
        vcpu.backend.invlpga(linear, vcpu.vm.asid)
    vcpu.skip()


def _with_svme(function: Callable[[VirtualCpu], None]) -> Callable[[VirtualCpu], None]:
    """#UD unless the guest has AMD-V and EFER.SVME set."""

    def carry_out(vcpu: VirtualCpu) -> None:
        if not vcpu.nested.svme:
            vcpu.inject(GuestFault(UD))
            return
        try:
            function(vcpu)
        except GuestFault as fault:
            vcpu.inject(fault)

    return carry_out


#: They raise #UD where EFER.SVME is clear, before the CPL is looked at (APM vol. 3).
_UNDEFINED = frozenset((
    Mnemonic.VMRUN, Mnemonic.VMLOAD, Mnemonic.VMSAVE, Mnemonic.STGI, Mnemonic.CLGI, Mnemonic.INVLPGA, Mnemonic.SKINIT,
))  # fmt: skip


def _is_undefined(vcpu: VirtualCpu) -> bool:
    """Whether a #GP is that of one of AMD-V's instructions in user code of a guest whose EFER.SVME is clear.

    The processor's is always set, so that it looks at the CPL and never comes to the intercept.
    """
    if vcpu.nested.svme or vcpu.cpl == 0 or vcpu.event & vmcb.EVENT_VALID:
        return False
    try:
        return decode(vcpu).mnemonic in _UNDEFINED
    except GuestFault:
        return False


def general_protection(vcpu: VirtualCpu) -> None:
    """#GP, intercepted while the guest's EFER.SVME is clear: the guest's, but for what should be #UD."""
    if _is_undefined(vcpu):
        vcpu.inject(GuestFault(UD))
    else:
        vcpu.technique.general_protection(vcpu.block[vmcb.EXITINFO1])


EXITS = {
    vmcb.EXIT[name]: _with_svme(function)
    for name, function in (
        ("vmrun", vmrun), ("vmload", vmload), ("vmsave", vmsave), ("stgi", stgi), ("clgi", clgi),
        ("invlpga", invlpga),
    )
} | {vmcb.EXIT_EXCEPTION + GP: general_protection}  # fmt: skip
