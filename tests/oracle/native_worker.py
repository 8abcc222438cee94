"""The process that runs test cases on the host's CPU: a wild instruction can only kill this process.

Started by `native.py` with the file descriptor of the shared memory; for each count read from standard input
(8 bytes), runs so many cases and writes the count back.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import sys

_MAP_FIXED_NOREPLACE = 0x100000
_SA_SIGINFO, _SA_ONSTACK, _SA_NODEFER = 4, 0x08000000, 0x40000000
_ARCH_SET_GS, _SYS_ARCH_PRCTL = 0x1001, 158

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


class _SigAction(ctypes.Structure):
    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint8 * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


class _SignalStack(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def _check(failed: bool, what: str) -> None:
    if failed:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def map_at(address: int, size: int, protection: int, fd: int = -1, offset: int = 0) -> None:
    """Map memory at a fixed address: private zeros, or shared from `fd`."""
    flags = _MAP_FIXED_NOREPLACE | (mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if fd < 0 else mmap.MAP_SHARED)
    got = _libc.mmap(address, size, protection, flags, fd, offset)
    _check(got != address, f"mapping {size} bytes at {address:#x}")


def main() -> None:
    from oracle import areas, native_code

    fd, inputs_at, outputs_at, slots_at = map(int, sys.argv[1:5])
    rw, rwx = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    map_at(native_code.CODE, native_code.PRIVATE_END - native_code.CODE, rwx)
    map_at(areas.SLOTS, areas.SLOT_COUNT * areas.SLOT_SIZE, rwx, fd, slots_at)
    map_at(areas.READ_ONLY, areas.UNMAPPED - areas.READ_ONLY, rw)
    size = areas.SLOT_COUNT * native_code.RECORD_SIZE
    map_at(native_code.INPUTS, size, rw, fd, inputs_at)
    map_at(native_code.OUTPUTS, size, rw, fd, outputs_at)
    ctypes.memmove(areas.READ_ONLY, areas.read_only_bytes(), areas.PAGE)
    _check(_libc.mprotect(ctypes.c_void_p(areas.READ_ONLY), areas.PAGE, mmap.PROT_READ) != 0, "mprotect")

    code, labels = native_code.assemble()
    ctypes.memmove(native_code.CODE, code, len(code))
    leave = struct.pack("<Q", native_code.CODE + labels["exit"])
    ctypes.memmove(native_code.LEAVE_POINTER, leave, len(leave))
    leave = struct.pack("<IH", native_code.CODE + labels["exit"], areas.USER_CODE)
    ctypes.memmove(native_code.LEAVE_FAR_POINTER, leave, len(leave))
    stack = _SignalStack(native_code.SIGNAL_STACK, 0, native_code.SIGNAL_STACK_SIZE)
    _check(_libc.sigaltstack(ctypes.byref(stack), None) != 0, "sigaltstack")
    action = _SigAction(native_code.CODE + labels["handler"], flags=_SA_SIGINFO | _SA_ONSTACK | _SA_NODEFER)
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP):
        _check(_libc.sigaction(int(number), ctypes.byref(action), None) != 0, "sigaction")
    _check(_libc.syscall(_SYS_ARCH_PRCTL, _ARCH_SET_GS, ctypes.c_ulong(areas.GS_BASE)) != 0, "arch_prctl")

    run = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(native_code.CODE + labels["run"])
    while len(request := sys.stdin.buffer.read(8)) == 8:
        run(struct.unpack("<Q", request)[0])
        sys.stdout.buffer.write(request)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
