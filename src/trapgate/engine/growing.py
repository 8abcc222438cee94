"""Memory that native code looks at while Python, or native code itself, adds to it."""

from __future__ import annotations

import ctypes
import mmap


class Growing:
    """Bytes that grow at a host address that stays: at most `for_one` for each block, and usually far less."""

    __slots__ = ("_for_one", "_memory", "address", "size", "view")

    def __init__(self, room: int, for_one: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._memory = mmap.mmap(-1, room, flags=flags)
        self.view = memoryview(self._memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.size = 0
        self._for_one = for_one

    @property
    def room(self) -> int:
        """For how many more blocks there is room for certain."""
        return (len(self.view) - self.size) // self._for_one

    def append(self, data: bytes) -> None:
        """Put `data` behind what is there."""
        end = self.size + len(data)
        self.view[self.size : end] = data
        self.size = end

    def content(self) -> bytes:
        """All of it."""
        return bytes(self.view[: self.size])
