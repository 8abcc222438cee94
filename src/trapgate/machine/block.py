"""What disks and CDs of a machine stand on: a medium of bytes, and what can go wrong with it.

A back end raises BlockError alone. Devices turn it into the status that their guest understands, and count it.
"""

from __future__ import annotations

from typing import Protocol

from trapgate.machine.errors import MachineError


class BlockError(MachineError):
    """A transfer that a medium has not made. `reason` is a few words for the statistics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class MediumTooShort(BlockError):
    """The image has fewer bytes than it had, or than it says."""

    def __init__(self, name: str, offset: int, length: int, got: int) -> None:
        super().__init__(
            "image too short",
            f"wanted {length} bytes at byte {offset} of {name}, got {got}: the image is damaged or truncated",
        )


class MediumFull(BlockError):
    """The host has no room for what the guest writes."""

    def __init__(self, name: str, got: str) -> None:
        super().__init__("host disk full", f"wanted room for what the guest writes to {name}, got {got}: free some")


class MediumReadOnly(BlockError):
    """The guest writes to what is for reading."""

    def __init__(self, name: str) -> None:
        super().__init__("read-only", f"wanted a medium that can be written, got {name}: leave readonly=on out")


class MediumUnreadable(BlockError):
    """The host cannot carry out an access to the image."""

    def __init__(self, name: str, got: str) -> None:
        super().__init__("host error", f"wanted to access {name}, got {got}: check the file")


class BlockBackend(Protocol):
    """A medium of `size` bytes. `name` is for messages; a `read_only` one refuses writes."""

    name: str
    size: int
    read_only: bool

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, which lie within `size`. Raises BlockError."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset`; it fits in `size`. Raises BlockError."""

    def flush(self) -> None:
        """Bring what was written to stable storage. Raises BlockError."""

    def close(self) -> None:
        """Give the host's file back. The medium is not used any more."""
