"""The Python API: a machine that a program makes, runs, looks into and changes. docs/api.md is its guide."""

from trapgate.api.accesses import MemoryAccess
from trapgate.api.backtrace import Frame, Symbols
from trapgate.api.console import Console
from trapgate.api.devices import MappedDevice, PortDevice
from trapgate.api.errors import ApiError
from trapgate.api.events import ExceptionEvent, InstructionEvent, InterruptEvent, MemoryEvent, PortEvent
from trapgate.api.hooks import Hook
from trapgate.api.machine import Machine
from trapgate.api.results import (
    AddressReached,
    BreakpointHit,
    ConsoleMatch,
    DeadlineReached,
    ExceptionTaken,
    GuestExited,
    Halted,
    PoweredOff,
    ResetRequested,
    Result,
    StepsDone,
    StopRequested,
    TripleFault,
    Unimplemented,
    WatchpointHit,
)
from trapgate.api.trace import TraceOptions
from trapgate.lab.statistics import Statistics

__all__ = [
    "AddressReached",
    "ApiError",
    "BreakpointHit",
    "Console",
    "ConsoleMatch",
    "DeadlineReached",
    "ExceptionEvent",
    "ExceptionTaken",
    "Frame",
    "GuestExited",
    "Halted",
    "Hook",
    "InstructionEvent",
    "InterruptEvent",
    "Machine",
    "MappedDevice",
    "MemoryAccess",
    "MemoryEvent",
    "PortDevice",
    "PortEvent",
    "PoweredOff",
    "ResetRequested",
    "Result",
    "Statistics",
    "StepsDone",
    "StopRequested",
    "Symbols",
    "TraceOptions",
    "TripleFault",
    "Unimplemented",
    "WatchpointHit",
]
