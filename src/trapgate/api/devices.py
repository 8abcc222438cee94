"""Devices written in Python by the user of the API, and what connects them to the bus."""

from __future__ import annotations

from typing import Protocol

from trapgate.api.errors import InvalidAnswer


class PortDevice(Protocol):
    """A device in the I/O space. `offset` is counted from its first port, `width` is 1, 2 or 4 bytes.

    Optional attributes: `name` (for the statistics; the class's name when missing) and `port_width` (the widest access
    that it takes in one piece, 4 when missing; wider ones come as several).
    """

    def read_port(self, offset: int, width: int) -> int:
        """What an IN reads."""

    def write_port(self, offset: int, width: int, value: int) -> None:
        """What an OUT writes."""


class MappedDevice(Protocol):
    """A device in guest-physical memory. `offset` is counted from its first byte, `width` is 1 to 8 bytes."""

    def read_memory(self, offset: int, width: int) -> int:
        """What a load reads."""

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """What a store writes."""


def cut(name: str, answer: object, width: int) -> int:
    """An answer as the guest gets it: its low `width` bytes. Raises InvalidAnswer for what is no number."""
    if not isinstance(answer, int):
        raise InvalidAnswer(name, answer)
    return answer & ((1 << 8 * width) - 1)


class PortAdapter:
    """A PortDevice as the bus wants it (machine/device.py)."""

    def __init__(self, device: PortDevice) -> None:
        self.name = str(getattr(device, "name", type(device).__name__))
        self.port_width = int(getattr(device, "port_width", 4))
        self._device = device

    def read_port(self, offset: int, width: int) -> int:
        """IN."""
        return cut(f"{self.name}.read_port", self._device.read_port(offset, width), width)

    def write_port(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        self._device.write_port(offset, width, value)

    def reset(self) -> None:
        """The device's own business."""


class MemoryAdapter:
    """A MappedDevice as the bus wants it."""

    def __init__(self, device: MappedDevice) -> None:
        self.name = str(getattr(device, "name", type(device).__name__))
        self._device = device

    def read_memory(self, offset: int, width: int) -> int:
        """Load."""
        return cut(f"{self.name}.read_memory", self._device.read_memory(offset, width), width)

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """Store."""
        self._device.write_memory(offset, width, value)

    def reset(self) -> None:
        """The device's own business."""
