"""The state of the hypervisor: what a virtual machine's Python objects are, besides the memory that they work on."""

from __future__ import annotations

import types
from typing import Any

from trapgate.arch.costs import Costs
from trapgate.arch.cpuid import CpuProfile
from trapgate.boards.bios_board import BiosBoard
from trapgate.boards.host import HostMachine
from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.places import InputPlaces
from trapgate.firmware.fw_cfg import FwCfg
from trapgate.firmware.image import EntryState
from trapgate.lab.snapshots import graph
from trapgate.lab.snapshots.errors import CannotTake
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory
from trapgate.machine.outside import Outside
from trapgate.vmm.asids import Asids, Loses
from trapgate.vmm.control_block import ControlBlock
from trapgate.vmm.linear import LinearMemory
from trapgate.vmm.memory.frames import FrameAllocator
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.memory.nested import NestedTables
from trapgate.vmm.msrs import VirtualMsrs
from trapgate.vmm.nested_svm import NestedSvm
from trapgate.vmm.nested_svm.block import Vmcb12
from trapgate.vmm.nested_svm.paging import InnerWalker, NestedWalker
from trapgate.vmm.nested_svm.tables import InnerTables
from trapgate.vmm.permissions import PermissionMaps
from trapgate.vmm.shadow.follow import TableFollower
from trapgate.vmm.shadow.mmu import ShadowMmu
from trapgate.vmm.shadow.outcomes import Counters, Flush, Hardware
from trapgate.vmm.shadow.tables import ShadowTable, ShadowTables
from trapgate.vmm.shadow.walk import GuestMode, GuestWalker
from trapgate.vmm.smm import SystemManagement
from trapgate.vmm.statistics import ExitCount, ExitStatistics
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vcpu import VirtualCpu
from trapgate.vmm.vm import VirtualMachine

_STATE = (
    VirtualMachine, VirtualCpu, ControlBlock, Asids, Loses, FrameAllocator, GuestMemory, NestedTables, VirtualMsrs,
    NestedSvm, Vmcb12, InnerWalker, NestedWalker, InnerTables, PermissionMaps, TableFollower, ShadowMmu, Counters,
    Flush, Hardware, ShadowTable, ShadowTables, GuestMode, GuestWalker, SystemManagement, ExitCount, ExitStatistics,
    LinearMemory, *TECHNIQUES.values(),
)  # fmt: skip
#: The machine around the hypervisor, which has a state of its own or none; a board's configuration.
_AROUND = (
    HostMachine, PhysicalMemory, Clock, RunControl, Outside, InputPlaces, Pc, PcConfig, Bus, FwCfg, BiosBoard,
    CpuProfile, Costs, EntryState, memoryview, range, types.MappingProxyType,
)  # fmt: skip
#: Work of the host's processor that the hypervisor has counted.
_HOST = ("charged", "device_cycles", "emulated", "entries")


def _kinds(machine: VirtualMachine) -> graph.Kinds:
    def block(fields: dict[str, Any]) -> ControlBlock:
        return ControlBlock(machine.backend.memory, fields["address"])

    # Its pins, and the console that the machine around it writes to.
    around = (*_AROUND, type(machine.board.pins), type(machine.console))
    return graph.Kinds(_STATE, around, {ControlBlock: block})


def host_of(machine: VirtualMachine) -> HostMachine:
    """The host of a virtual machine. Raises CannotTake where it is a processor of another kind."""
    host = machine.backend
    if not isinstance(host, HostMachine):
        raise CannotTake("a virtual machine on another kind of host", "run it on trapgate's own processor")
    return host


def check_stopped(machine: VirtualMachine) -> None:
    """Raises CannotTake while the guest has been entered: its state is then partly the processor's."""
    if host_of(machine).processor.in_guest:
        raise CannotTake("a virtual machine inside its guest", "let it run to its next exit")


def take(machine: VirtualMachine) -> dict[str, Any]:
    """The hypervisor's objects, and what the host has counted."""
    host = host_of(machine)
    nodes = graph.take(machine, _kinds(machine))
    return {"hypervisor": nodes, "host": {name: getattr(host, name) for name in _HOST}}


def put(machine: VirtualMachine, parts: dict[str, Any]) -> None:
    """Put them back."""
    nested = machine.vcpu.nested
    if _is_ready(parts["hypervisor"]) and not nested.ready:
        nested.prepare()
    graph.put(machine, parts["hypervisor"], _kinds(machine))
    host = host_of(machine)
    for name, value in parts["host"].items():
        setattr(host, name, value)


def _is_ready(nodes: list[Any]) -> bool:
    """Whether the guest had used AMD-V itself."""
    name = f"{NestedSvm.__module__}.{NestedSvm.__qualname__}"
    return any(node[0] == "object" and node[1] == name and node[2]["ready"] for node in nodes)
