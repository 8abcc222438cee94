"""Guest RAM between two areas that nobody may touch."""

from __future__ import annotations

import ctypes
import mmap

from trapgate.machine.memory import PhysicalMemory

#: Bytes on each side of RAM: a 32-bit guest-physical address that is not checked ends there, and so does a small
#: negative one. Only address space is taken.
GUARD = 4 << 30
_FAILED = ctypes.c_void_p(-1).value


class GuardedMemory(PhysicalMemory):
    """RAM whose neighbours are mapped without any right: an access outside it ends the process with SIGSEGV."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        # No rights (mmap.PROT_NONE is 0). It is never unmapped: native code may hold its address.
        start = libc.mmap(None, GUARD + size + GUARD, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        if start == _FAILED or libc.mprotect(start + GUARD, size, mmap.PROT_READ | mmap.PROT_WRITE):
            raise OSError(ctypes.get_errno(), "the guest's RAM and its guard areas cannot be mapped")
        self.view = memoryview((ctypes.c_ubyte * size).from_address(start + GUARD)).cast("B")
        self.base = start + GUARD
