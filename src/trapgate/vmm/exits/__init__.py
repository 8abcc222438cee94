"""What the hypervisor does at each exit: one function per exit code, in one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trapgate.vmm import smm, task_switch
from trapgate.vmm.exits import events, instructions, io, memory, msr, registers
from trapgate.vmm.nested_svm import instructions as virtualization

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

#: Exit code -> what is done.
EXITS: dict[int, Callable[[VirtualCpu], None]] = {
    **events.EXITS,
    **instructions.EXITS,
    **io.EXITS,
    **memory.EXITS,
    **msr.EXITS,
    **registers.EXITS,
    **smm.EXITS,
    **task_switch.EXITS,
    **virtualization.EXITS,
}
