"""What the user can get wrong about the debugger and the monitor. Each message: wanted, got, what to do."""

from __future__ import annotations

from trapgate.machine.errors import MachineError


class InvalidChannel(MachineError):
    """--gdb or --monitor names no place to listen at."""

    def __init__(self, option: str, wanted: str, text: str) -> None:
        super().__init__(f"wanted {wanted} for {option}, got {text!r}: write {option} tcp::1234 or {option} unix:PATH")


class CannotListen(MachineError):
    """The host does not let trapgate listen there."""

    def __init__(self, option: str, place: str, reason: str) -> None:
        super().__init__(f"wanted to listen at {place}, got {reason}: choose another place with {option}")


class CommandError(Exception):
    """A command of the monitor cannot be carried out; the text is the line that its user sees."""


class GuestUnreachable(Exception):
    """A register or memory that a debugger asked for cannot be had, or cannot be changed; the text says why."""
