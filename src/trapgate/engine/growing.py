"""Memory that native code looks at while Python, or native code itself, adds to it."""

from __future__ import annotations

import ctypes
import mmap

from trapgate.engine import page_code


class Growing:
    """Bytes that grow at a host address that stays."""

    __slots__ = ("_memory", "address", "size", "view")

    def __init__(self, room: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._memory = mmap.mmap(-1, room, flags=flags)
        self.view = memoryview(self._memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.size = 0

    def has_room(self, blocks: int) -> bool:
        """Whether there is room for so many blocks' parts."""
        return self.size + page_code.POOL_SIZE * 64 * blocks <= len(self.view)

    def append(self, data: bytes) -> None:
        """Put `data` behind what is there."""
        end = self.size + len(data)
        self.view[self.size : end] = data
        self.size = end

    def content(self) -> bytes:
        """All of it."""
        return bytes(self.view[: self.size])
