"""A guest's linear memory as the instruction emulator sees it: through the guest's own tables, to RAM or devices."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.arch.paging import PF_I, PF_U, PF_W
from trapgate.machine.bus import Bus
from trapgate.vmm.emulate.machine import CHECK
from trapgate.vmm.memory.guest import GuestMemory

_PAGE = 4096
_ACCESS = PF_W | PF_U


class LinearMemory:
    """`translate(linear, access)` gives the guest-physical address or raises GuestFault; `wide` says whether linear
    addresses have 64 bits."""

    def __init__(
        self, memory: GuestMemory, bus: Bus, translate: Callable[[int, int], int], wide: Callable[[], bool]
    ) -> None:
        self._memory, self._bus = memory, bus
        self._translate = translate
        self._wide = wide
        #: Devices that were accessed since this was last set to 0.
        self.device_accesses = 0

    def _parts(self, linear: int, size: int, access: int) -> list[tuple[int, int]]:
        """(guest-physical address, bytes) of the one or two pages."""
        room = _PAGE - (linear & (_PAGE - 1))
        if size <= room:
            return [(self._translate(linear, access), size)]
        second = linear + room & ((1 << 64) - 1 if self._wide() else 0xFFFF_FFFF)
        return [(self._translate(linear, access), room), (self._translate(second, access), size - room)]

    def is_ram(self, linear: int, access: int) -> bool:
        """Whether the guest has RAM at a linear address."""
        return self._memory.host_address(self._translate(linear, access & _ACCESS)) is not None

    def read(self, linear: int, size: int, access: int) -> bytes:
        """See emulate/machine.py."""
        parts = self._parts(linear, size, access & _ACCESS)
        if access & CHECK:
            return bytes(size)
        return b"".join(self._read_physical(address, length) for address, length in parts)

    def write(self, linear: int, data: bytes, access: int) -> None:
        """See emulate/machine.py."""
        parts = self._parts(linear, len(data), access & _ACCESS | PF_W)
        if access & CHECK:
            return
        done = 0
        for address, length in parts:
            self._write_physical(address, data[done : done + length])
            done += length

    def fetch(self, linear: int, size: int) -> bytes:
        """The bytes of code up to the end of the page."""
        size = min(size, _PAGE - (linear & (_PAGE - 1)))
        return self._read_physical(self._translate(linear, PF_I | self.fetch_access), size)

    #: PF_U while the guest is at CPL 3.
    fetch_access = 0

    def _read_physical(self, address: int, size: int) -> bytes:
        host = self._memory.host_address(address)
        if host is not None:
            return bytes(self._memory.host.view[host : host + size])
        self.device_accesses += 1 if size in (1, 2, 4, 8) else size
        if size in (1, 2, 4, 8):
            return self._bus.read_memory(address, size).to_bytes(size, "little")
        return b"".join(self._bus.read_memory(address + i, 1).to_bytes(1, "little") for i in range(size))

    def _write_physical(self, address: int, data: bytes) -> None:
        if self._memory.host_address(address) is not None:
            self._memory.write(address, data)
            return
        size = len(data)
        self.device_accesses += 1 if size in (1, 2, 4, 8) else size
        if size in (1, 2, 4, 8):
            self._bus.write_memory(address, size, int.from_bytes(data, "little"))
        else:
            for i, byte in enumerate(data):
                self._bus.write_memory(address + i, 1, byte)
