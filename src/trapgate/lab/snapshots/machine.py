"""Takes a machine's state, and puts one back."""

from __future__ import annotations

from typing import Any

from trapgate.boards.machine import BareMachine
from trapgate.engine import snapshot as processors
from trapgate.lab.snapshots import content
from trapgate.lab.snapshots.configuration import check_configuration, describe_bare
from trapgate.lab.snapshots.media import MediumState, check_image, check_medium, put_medium, take_medium
from trapgate.lab.snapshots.state import MachineState

Machine = BareMachine


def describe(machine: Machine) -> dict[str, Any]:
    """What a machine is made of."""
    return describe_bare(machine)


def take(machine: Machine, like: MachineState | None = None) -> MachineState:
    """The state of a machine that does not run just now. What has not changed since `like` is shared with it.

    Changes nothing. Raises CannotTake, BlockError.
    """
    parts = {
        "clock": machine.clock.snapshot(),
        "outside": machine.outside.snapshot(),
        "board": machine.board.snapshot(),
        "bus": machine.board.bus.snapshot(),
        "firmware": None if machine.firmware is None else machine.firmware.snapshot(),
        "fw_cfg": machine.fw_cfg.snapshot(),
        "boot files": dict(machine.fw_cfg.items),
        "processor": processors.save(machine.processor),
    }
    block = processors.block(machine.processor)
    if like is not None and like.block == block:
        block = like.block
    known: tuple[MediumState | None, ...] = like.media if like is not None else ()
    disks = machine.board.config.disks
    media = tuple(
        take_medium(disk.medium, known[n] if n < len(known) else None) for n, disk in enumerate(disks)
    )  # fmt: skip
    memory = content.take(machine.memory, like.memory if like is not None else None)
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
    machine.clock.now = parts["clock"]["now"]
    content.put(machine.memory, state.memory)
    board.restore(parts["board"])
    if machine.firmware is not None:
        machine.firmware.restore(parts["firmware"])
    machine.fw_cfg.items = dict(parts["boot files"])
    machine.fw_cfg.restore(parts["fw_cfg"])
    # Devices have driven the processor's pins, and made their events in another order.
    processors.restore(machine.processor, parts["processor"], state.block)
    board.bus.restore(parts["bus"])
    machine.outside.restore(parts["outside"])
    machine.clock.restore(parts["clock"])
    machine.control.request = None
