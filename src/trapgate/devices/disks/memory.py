"""A medium in memory."""

from __future__ import annotations


class MemoryMedium:
    """`data` is the content. `read_only` media refuse nothing by themselves: what uses them looks."""

    def __init__(self, data: bytes | bytearray, name: str = "memory", read_only: bool = False) -> None:
        self.name = name
        self.data = bytearray(data)
        self.size = len(data)
        self.read_only = read_only

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on."""
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset`."""
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        """There is nothing behind memory."""

    def close(self) -> None:
        """The memory stays readable."""
