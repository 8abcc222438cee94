"""What a machine is made of, in plain values: a state fits no other one."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trapgate.arch.costs import FULL, NONE
from trapgate.boards.machine import BareMachine
from trapgate.boards.pc import PcConfig
from trapgate.lab.snapshots.errors import SnapshotOfAnother
from trapgate.lab.snapshots.hypervisor import host_of
from trapgate.machine.block import BlockBackend
from trapgate.vmm.vm import VirtualMachine

BARE = "bare"


def describe_bare(machine: BareMachine) -> dict[str, Any]:
    """A bare machine."""
    config = machine.config
    return {
        "technique": BARE,
        "processor": config.profile.name,
        "memory": config.memory_size,
        "costs": config.costs,
        "model": config.model,
        "BIOS": machine.firmware is not None,
        **describe_board(machine.board.config),
    }


def describe_virtual(machine: VirtualMachine) -> dict[str, Any]:
    """A virtual machine, and its host."""
    host = host_of(machine)
    return {
        "technique": machine.technique.name,
        "processor": machine.profile.name,
        "memory": machine.memory.size,
        "costs": host.costs.name,
        "model": FULL if host.costs.models_translation else NONE,
        "BIOS": machine.firmware is not None,
        "the host's processor": host.profile.name,
        "the host's memory": host.memory.size,
        **describe_board(machine.board.config),
    }


def describe_board(config: PcConfig) -> dict[str, Any]:
    """What is on a board: every field of its configuration, by name."""
    return {field.name.replace("_", " "): _describe(getattr(config, field.name)) for field in fields(config)}


def _describe(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    if isinstance(value, tuple | list):
        return [_describe(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _describe(getattr(value, field.name)) for field in fields(value)}
    if all(hasattr(value, name) for name in BlockBackend.__annotations__):
        return {"size": value.size, "read-only": value.read_only}
    return type(value).__name__


def check_configuration(mine: dict[str, Any], state: dict[str, Any]) -> None:
    """Raises SnapshotOfAnother for the first thing in which the two differ."""
    for name in {**mine, **state}:
        wanted, got = mine.get(name), state.get(name)
        if wanted != got:
            raise SnapshotOfAnother(name, _words(wanted), _words(got))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "[" + "; ".join(_words(item) for item in value) + "]" if value else "nothing"
    return "nothing" if value is None else str(value)
