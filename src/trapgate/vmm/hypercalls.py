"""The hypercall interface on VMMCALL, and how a guest finds it.

CPUID leaf 4000_0000h: EAX the last leaf, EBX, ECX, EDX the signature "TrapgateTrap". Leaf 4000_0001h: EAX a bit for
each hypercall (bit n: number n). A hypercall has its number in EAX and arguments in EBX, ECX, EDX; the result is in
EAX: 0 or more for success, FFFF_FFFFh for a number that is not there. It is allowed at every privilege level.

| number | what it does                                                         |
|--------|----------------------------------------------------------------------|
| 0      | nothing: returns 0 (for measuring an exit)                           |
| 1      | writes the low byte of EBX to the console                            |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.profiles.profile import text_words
from trapgate.arch.registers import RAX, RBX

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

SIGNATURE = "TrapgateTrap"
FIRST_LEAF, LAST_LEAF = 0x4000_0000, 0x4000_0001
UNKNOWN = 0xFFFF_FFFF


def _nothing(vcpu: VirtualCpu) -> int:
    return 0


def _console(vcpu: VirtualCpu) -> int:
    vcpu.vm.board.debug_console.write_port(0, 1, vcpu.gpr[RBX] & 0xFF)
    return 0


HYPERCALLS: dict[int, Callable[[VirtualCpu], int]] = {0: _nothing, 1: _console}


def hypervisor_leaf(leaf: int) -> tuple[int, int, int, int] | None:
    """The hypervisor's CPUID leaves; None for all others."""
    if leaf == FIRST_LEAF:
        ebx, ecx, edx = text_words(SIGNATURE, 12)
        return LAST_LEAF, ebx, ecx, edx
    if leaf == FIRST_LEAF + 1:
        return sum(1 << number for number in HYPERCALLS), 0, 0, 0
    return None


def hypercall(vcpu: VirtualCpu) -> None:
    """Carry out VMMCALL; rip is already behind it."""
    function = HYPERCALLS.get(vcpu.block[vmcb.RAX] & 0xFFFF_FFFF)
    result = UNKNOWN if function is None else function(vcpu)
    vcpu.block[vmcb.RAX] = vcpu.gpr[RAX] = result
