"""Takes a machine's state, and puts one back."""

from __future__ import annotations

from typing import Any

from trapgate.boards.machine import BareMachine
from trapgate.engine import snapshot as processors
from trapgate.engine.processor import Processor
from trapgate.lab.snapshots import content, hypervisor
from trapgate.lab.snapshots.configuration import check_configuration, describe_bare, describe_virtual
from trapgate.lab.snapshots.hypervisor import check_stopped, host_of
from trapgate.lab.snapshots.media import MediumState, check_image, check_medium, put_medium, take_medium
from trapgate.lab.snapshots.state import MachineState
from trapgate.machine.memory import PhysicalMemory
from trapgate.vmm.vm import VirtualMachine

Machine = BareMachine | VirtualMachine


def describe(machine: Machine) -> dict[str, Any]:
    """What a machine is made of."""
    return describe_bare(machine) if isinstance(machine, BareMachine) else describe_virtual(machine)


def processor_of(machine: Machine) -> tuple[Processor, PhysicalMemory]:
    """The processor that is modelled, and its RAM: a virtual machine's are its host's."""
    if isinstance(machine, BareMachine):
        return machine.processor, machine.memory
    host = host_of(machine)
    return host.processor, host.memory


def take(machine: Machine, like: MachineState | None = None) -> MachineState:
    """The state of a machine that does not run just now. What has not changed since `like` is shared with it.

    Changes nothing. Raises CannotTake, BlockError.
    """
    processor, ram = processor_of(machine)
    if isinstance(machine, VirtualMachine):
        check_stopped(machine)
    parts: dict[str, Any] = {
        "clock": machine.clock.snapshot(),
        "outside": machine.outside.snapshot(),
        "board": machine.board.snapshot(),
        "bus": machine.board.bus.snapshot(),
        "firmware": None if machine.firmware is None else machine.firmware.snapshot(),
        "fw_cfg": machine.fw_cfg.snapshot(),
        "boot files": dict(machine.fw_cfg.items),
        "processor": processors.save(processor),
    }
    if isinstance(machine, VirtualMachine):
        parts |= hypervisor.take(machine)
    block = processors.block(processor)
    if like is not None and like.block == block:
        block = like.block
    known: tuple[MediumState | None, ...] = like.media if like is not None else ()
    disks = machine.board.config.disks
    media = tuple(
        take_medium(disk.medium, known[n] if n < len(known) else None) for n, disk in enumerate(disks)
    )  # fmt: skip
    memory = content.take(ram, like.memory if like is not None else None)
    return MachineState(describe(machine), parts, block, memory, media)


def check(machine: Machine, state: MachineState) -> None:
    """Raises SnapshotOfAnother, CannotTake when `state` cannot be put into a machine. Changes nothing."""
    check_configuration(describe(machine), state.configuration)
    for disk, medium in zip(machine.board.config.disks, state.media, strict=True):
        check_medium(disk.medium)
        if medium is not None:
            check_image(disk.medium, medium)


def put(machine: Machine, state: MachineState) -> None:
    """Make a machine that does not run just now what it was, or what another one of the same configuration was.

    The machine goes on as that one would have: what it was doing is forgotten, why it has stopped included. Raises
    what `check` raises, and BlockError where the host has no room for the disks; then nothing has changed.
    """
    check(machine, state)
    for disk, medium in zip(machine.board.config.disks, state.media, strict=True):
        if medium is not None:
            put_medium(disk.medium, medium)
    parts, board = state.parts, machine.board
    processor, ram = processor_of(machine)
    machine.clock.now = parts["clock"]["now"]
    board.restore(parts["board"])
    if machine.firmware is not None:
        machine.firmware.restore(parts["firmware"])
    machine.fw_cfg.items = dict(parts["boot files"])
    machine.fw_cfg.restore(parts["fw_cfg"])
    # Devices have driven pins and made their events: the processor, the hypervisor and the clock come after them.
    if isinstance(machine, VirtualMachine):
        hypervisor.put(machine, parts)
        host_of(machine).control.request = None
    content.put(ram, state.memory)
    processors.restore(processor, parts["processor"], state.block)
    board.bus.restore(parts["bus"])
    machine.outside.restore(parts["outside"])
    machine.clock.restore(parts["clock"])
    machine.control.request = None
