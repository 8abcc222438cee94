"""/dev/kvm from Python: one virtual machine with one processor and a piece of memory.

Source: Linux, Documentation/virt/kvm/api.rst, and the structures of include/uapi/asm/kvm.h, whose sizes are in the
numbers.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

PATH = "/dev/kvm"
API_VERSION = 12

_GET_API_VERSION, _CREATE_VM, _GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
_CREATE_VCPU, _RUN = 0xAE41, 0xAE80


def _write(number: int, size: int) -> int:
    return 0x4000_AE00 | size << 16 | number


def _read(number: int, size: int) -> int:
    return 0x8000_AE00 | size << 16 | number


_SET_USER_MEMORY_REGION, _SET_CPUID2 = _write(0x46, 32), _write(0x90, 8)
_GET_REGS, _SET_REGS, REGS_SIZE = _read(0x81, 144), _write(0x82, 144), 144
_GET_SREGS, _SET_SREGS, SREGS_SIZE = _read(0x83, 312), _write(0x84, 312), 312
_GET_MSRS, _SET_MSRS = 0xC008_AE88, _write(0x89, 8)
_GET_FPU, _SET_FPU, FPU_SIZE = _read(0x8C, 416), _write(0x8D, 416), 416
_GET_DEBUGREGS, _SET_DEBUGREGS, DEBUGREGS_SIZE = _read(0xA1, 128), _write(0xA2, 128), 128
_GET_VCPU_EVENTS, _SET_VCPU_EVENTS, EVENTS_SIZE = _read(0x9F, 64), _write(0xA0, 64), 64

#: Reasons for which KVM_RUN returns.
EXIT_IO, EXIT_HLT, EXIT_MMIO, EXIT_SHUTDOWN, EXIT_FAIL_ENTRY, EXIT_INTERNAL_ERROR = 2, 5, 6, 8, 9, 17
#: KVM_RUN was interrupted by a signal; here by the alarm that ends a guest that does not end.
EXIT_INTR = 10

_IO_IN = 0
#: Most exits for one instruction: 8 bytes each.
_MOST_PARTS = 64


class KvmUnavailable(Exception):
    """/dev/kvm cannot be used here; the message says why."""


class Kvm:
    """A virtual machine. Guest-physical memory is `memory`, from address 0."""

    def __init__(self, memory_size: int) -> None:
        try:
            self._device = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise KvmUnavailable(f"{PATH} cannot be opened: {error.strerror}") from error
        version = fcntl.ioctl(self._device, _GET_API_VERSION, 0)
        if version != API_VERSION:
            raise KvmUnavailable(f"wanted version {API_VERSION} of {PATH}'s interface, got {version}")
        self._vm = fcntl.ioctl(self._device, _CREATE_VM, 0)
        self.memory = mmap.mmap(-1, memory_size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        fcntl.ioctl(self._vm, _SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, memory_size, address))
        self._vcpu = fcntl.ioctl(self._vm, _CREATE_VCPU, 0)
        self._run = mmap.mmap(self._vcpu, fcntl.ioctl(self._device, _GET_VCPU_MMAP_SIZE, 0))

    def close(self) -> None:
        """Give the machine back. Its memory's mapping goes with the object."""
        self._run.close()
        for fd in (self._vcpu, self._vm, self._device):
            os.close(fd)

    def set_cpuid(self, entries: list[tuple[int, ...]]) -> None:
        """What CPUID returns, and with it what the guest's processor has."""
        body = b"".join(struct.pack("<7I12x", *entry) for entry in entries)
        fcntl.ioctl(self._vcpu, _SET_CPUID2, struct.pack("<II", len(entries), 0) + body)

    def _get(self, request: int, size: int) -> bytes:
        buffer = bytearray(size)
        fcntl.ioctl(self._vcpu, request, buffer)
        return bytes(buffer)

    def registers(self) -> bytes:
        return self._get(_GET_REGS, REGS_SIZE)

    def set_registers(self, data: bytes) -> None:
        fcntl.ioctl(self._vcpu, _SET_REGS, data)

    def system_registers(self) -> bytes:
        return self._get(_GET_SREGS, SREGS_SIZE)

    def set_system_registers(self, data: bytes) -> None:
        fcntl.ioctl(self._vcpu, _SET_SREGS, data)

    def fpu(self) -> bytes:
        return self._get(_GET_FPU, FPU_SIZE)

    def set_fpu(self, data: bytes) -> None:
        fcntl.ioctl(self._vcpu, _SET_FPU, data)

    def debug_registers(self) -> bytes:
        return self._get(_GET_DEBUGREGS, DEBUGREGS_SIZE)

    def set_debug_registers(self, data: bytes) -> None:
        fcntl.ioctl(self._vcpu, _SET_DEBUGREGS, data)

    def events(self) -> bytes:
        return self._get(_GET_VCPU_EVENTS, EVENTS_SIZE)

    def set_events(self, data: bytes) -> None:
        fcntl.ioctl(self._vcpu, _SET_VCPU_EVENTS, data)

    def msrs(self, numbers: list[int]) -> list[int]:
        """Model-specific registers, in the order asked for."""
        body = b"".join(struct.pack("<IIQ", number, 0, 0) for number in numbers)
        buffer = bytearray(struct.pack("<II", len(numbers), 0) + body)
        fcntl.ioctl(self._vcpu, _GET_MSRS, buffer)
        return [struct.unpack_from("<Q", buffer, 16 + 16 * i)[0] for i in range(len(numbers))]

    def set_msrs(self, values: dict[int, int]) -> None:
        body = b"".join(struct.pack("<IIQ", number, 0, value) for number, value in values.items())
        done = fcntl.ioctl(self._vcpu, _SET_MSRS, bytearray(struct.pack("<II", len(values), 0) + body))
        if done != len(values):
            raise KvmUnavailable(f"{PATH} does not take MSR {list(values)[done]:#x}")

    def run(self) -> int:
        """Run until the processor halts, shuts down, or does something outside its memory: the reason."""
        try:
            fcntl.ioctl(self._vcpu, _RUN, 0)
        except InterruptedError:
            self._run[1] = 0
            return EXIT_INTR
        return int(struct.unpack_from("<I", self._run, 8)[0])

    def stop(self) -> None:
        """End the `run` under way, or the next one, at once; for a signal's handler."""
        self._run[1] = 1  # immediate_exit

    def finish(self) -> None:
        """Complete what a `run` that returned for memory or a port has left half done.

        Else the next one begins with it.
        """
        for _ in range(_MOST_PARTS):
            self.stop()
            if self.run() == EXIT_INTR:
                break

    def exit_details(self) -> bytes:
        """The part of the run structure that depends on the reason."""
        return self._run[32:96]

    def finish_input(self) -> None:
        """Let an IN that `run` returned for read ones, as from a port where nothing is; an OUT needs nothing."""
        direction, size, _, count, offset = struct.unpack_from("<BBHIQ", self._run, 32)
        if direction == _IO_IN:
            self._run[offset : offset + size * count] = b"\xff" * (size * count)
