"""What hooks are called with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PortEvent:
    """An IN or OUT. `value` is what was read or is being written; `width` is in bytes."""

    port: int
    width: int
    value: int
    is_write: bool
    rip: int
    cycle: int


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """An access to guest-physical memory that is no RAM. `value` is what was read or is being written; `width` is in
    bytes."""

    address: int
    width: int
    value: int
    is_write: bool
    rip: int
    cycle: int


@dataclass(frozen=True, slots=True)
class ExceptionEvent:
    """An exception that is about to be delivered. `address` is the linear address of a page fault."""

    vector: int
    error: int | None
    rip: int
    address: int | None
    cycle: int


@dataclass(frozen=True, slots=True)
class InterruptEvent:
    """An interrupt that is about to be delivered. `rip` is where the processor will go on after it."""

    vector: int
    is_software: bool
    rip: int
    cycle: int


@dataclass(frozen=True, slots=True)
class InstructionEvent:
    """An instruction that is about to be carried out. `text` is its disassembly."""

    name: str
    text: str
    rip: int
    cycle: int
