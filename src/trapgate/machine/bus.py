"""The bus: which device answers which port and which guest-physical address.

The two port functions are on the path of every IN and OUT of a guest, so they hold no more than a list lookup, a
counter and the call of a bound method.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.machine.device import MemoryDevice, PortDevice, Snapshot, StreamDevice
from trapgate.machine.errors import InvalidMapping, MappingConflict

PORTS = 0x10000
PAGE_SHIFT = 12
PAGE = 1 << PAGE_SHIFT
UNMAPPED = "unmapped"

_ONES = tuple((1 << (8 * width)) - 1 for width in range(9))
#: The largest power of two that is at most the index: the widest piece of a split access.
_PIECE = (0, 1, 2, 2, 4)


class _PortSlot:
    """One port: its device's bound methods and how often it was accessed."""

    __slots__ = ("count", "name", "offset", "read", "stream", "width", "write")

    def __init__(
        self,
        name: str,
        width: int,
        offset: int,
        read: Callable[[int, int], int],
        write: Callable[[int, int, int], None],
        stream: StreamDevice | None = None,
    ) -> None:
        self.name = name
        self.width = width
        self.offset = offset
        self.read = read
        self.write = write
        self.stream = stream
        self.count = 0


class _MemorySlot:
    """One mapping of guest-physical memory."""

    __slots__ = ("base", "count", "name", "read", "size", "write")

    def __init__(self, base: int, size: int, device: MemoryDevice) -> None:
        self.name = device.name
        self.base = base
        self.size = size
        self.read = device.read_memory
        self.write = device.write_memory
        self.count = 0


def _read_nothing(offset: int, width: int) -> int:
    return _ONES[width]


def _write_nothing(offset: int, width: int, value: int) -> None:
    return None


class Bus:
    """Ports and memory-mapped registers. What no device claims reads as all ones and ignores writes."""

    __slots__ = (
        "_former_memory", "_former_ports", "_memory_slots", "_pages", "_ports", "_unmapped", "_unmapped_memory",
    )  # fmt: skip

    def __init__(self) -> None:
        self._unmapped = _PortSlot(UNMAPPED, 4, 0, _read_nothing, _write_nothing)
        self._ports: list[_PortSlot] = [self._unmapped] * PORTS
        #: Accesses to devices at places that were taken back.
        self._former_ports: dict[str, int] = {}
        self._former_memory: dict[str, int] = {}
        self._pages: dict[int, _MemorySlot] = {}
        self._memory_slots: list[_MemorySlot] = []
        self._unmapped_memory = 0

    def map_ports(self, first: int, count: int, device: PortDevice, offset: int = 0) -> None:
        """Give ports `first` to `first + count - 1` to `device`, which sees them from `offset` on.

        Raises InvalidMapping when the ports leave 0..FFFFh, MappingConflict when a device has one of them already.
        """
        if count < 1 or first < 0 or first + count > PORTS:
            raise InvalidMapping(device.name, "ports within 0..0xffff", f"{count} ports from {first:#x}")
        for port in range(first, first + count):
            if self._ports[port] is not self._unmapped:
                raise MappingConflict(device.name, self._ports[port].name, f"port {port:#x}")
        stream = device if isinstance(device, StreamDevice) else None
        for index in range(count):
            self._ports[first + index] = _PortSlot(
                device.name, device.port_width, offset + index, device.read_port, device.write_port, stream
            )

    def unmap_ports(self, first: int, count: int) -> None:
        """Take back ports `first` to `first + count - 1`; their access counts are kept.

        Raises InvalidMapping when a port among them has no device.
        """
        for port in range(first, first + count):
            if not 0 <= port < PORTS or self._ports[port] is self._unmapped:
                raise InvalidMapping("bus", "a mapping to take back", f"none at port {port:#x}")
        for port in range(first, first + count):
            slot = self._ports[port]
            self._former_ports[slot.name] = self._former_ports.get(slot.name, 0) + slot.count
            self._ports[port] = self._unmapped

    def map_memory(self, base: int, size: int, device: MemoryDevice) -> None:
        """Give `size` bytes at guest-physical `base` to `device`; both are multiples of 4096 bytes.

        Raises InvalidMapping for other sizes, MappingConflict when a device has one of the pages already.
        """
        if base < 0 or size < PAGE or base % PAGE or size % PAGE:
            raise InvalidMapping(
                device.name, "a base and a size in whole 4096-byte pages", f"{size} bytes at {base:#x}"
            )
        pages = range(base >> PAGE_SHIFT, (base + size) >> PAGE_SHIFT)
        for page in pages:
            if page in self._pages:
                raise MappingConflict(device.name, self._pages[page].name, f"address {page << PAGE_SHIFT:#x}")
        slot = _MemorySlot(base, size, device)
        self._memory_slots.append(slot)
        for page in pages:
            self._pages[page] = slot

    def is_mapped(self, base: int, size: int) -> bool:
        """Whether a device has a page of the `size` bytes at guest-physical `base`."""
        return any(page in self._pages for page in range(base >> PAGE_SHIFT, (base + size - 1 >> PAGE_SHIFT) + 1))

    def unmap_memory(self, base: int) -> None:
        """Take back the mapping that starts at guest-physical `base`; its access count is kept.

        Raises InvalidMapping when none starts there.
        """
        slot = self._pages.get(base >> PAGE_SHIFT)
        if slot is None or slot.base != base:
            raise InvalidMapping("bus", "a mapping to take back", f"none at {base:#x}")
        for page in range(base >> PAGE_SHIFT, (base + slot.size) >> PAGE_SHIFT):
            del self._pages[page]
        self._memory_slots.remove(slot)
        self._former_memory[slot.name] = self._former_memory.get(slot.name, 0) + slot.count

    def read_port(self, port: int, width: int) -> int:
        """IN: `width` (1, 2 or 4) bytes from `port`."""
        slot = self._ports[port]
        slot.count += 1
        if width <= slot.width:
            return slot.read(slot.offset, width)
        return self._read_pieces(port, width)

    def write_port(self, port: int, width: int, value: int) -> None:
        """OUT: the low `width` (1, 2 or 4) bytes of `value` to `port`."""
        slot = self._ports[port]
        slot.count += 1
        if width <= slot.width:
            slot.write(slot.offset, width, value)
        else:
            self._write_pieces(port, width, value)

    def has_runs(self, port: int) -> bool:
        """Whether the device at `port` may take several accesses at once."""
        return self._ports[port].stream is not None

    def read_run(self, port: int, width: int, count: int) -> bytes:
        """At most `count` INs of `width` bytes from `port` together, as far as its device does so; perhaps none."""
        slot = self._ports[port]
        if slot.stream is None or width > slot.width:
            return b""
        data = slot.stream.read_run(slot.offset, width, count)
        slot.count += len(data) // width
        return data

    def write_run(self, port: int, width: int, data: bytes) -> int:
        """OUTs of `width` bytes to `port` together, as far as its device does so; how many."""
        slot = self._ports[port]
        if slot.stream is None or width > slot.width:
            return 0
        taken = slot.stream.write_run(slot.offset, width, data)
        slot.count += taken
        return taken

    def _read_pieces(self, port: int, width: int) -> int:
        value = done = 0
        while done < width:
            slot = self._ports[(port + done) & 0xFFFF]
            piece = min(slot.width, _PIECE[width - done])
            value |= slot.read(slot.offset, piece) << (8 * done)
            done += piece
        return value

    def _write_pieces(self, port: int, width: int, value: int) -> None:
        done = 0
        while done < width:
            slot = self._ports[(port + done) & 0xFFFF]
            piece = min(slot.width, _PIECE[width - done])
            slot.write(slot.offset, piece, value >> (8 * done) & _ONES[piece])
            done += piece

    def read_memory(self, pa: int, width: int) -> int:
        """Load `width` (1 to 8) bytes from the device at guest-physical `pa`."""
        slot = self._pages.get(pa >> PAGE_SHIFT)
        if slot is None:
            self._unmapped_memory += 1
            return _ONES[width]
        slot.count += 1
        return slot.read(pa - slot.base, width)

    def write_memory(self, pa: int, width: int, value: int) -> None:
        """Store the low `width` (1 to 8) bytes of `value` to the device at guest-physical `pa`."""
        slot = self._pages.get(pa >> PAGE_SHIFT)
        if slot is None:
            self._unmapped_memory += 1
            return
        slot.count += 1
        slot.write(pa - slot.base, width, value)

    @property
    def port_accesses(self) -> dict[str, int]:
        """How often the guest accessed each device by port, by the device's name; `unmapped` for the rest."""
        counts = {UNMAPPED: self._unmapped.count, **self._former_ports}
        for slot in self._ports:
            if slot is not self._unmapped:
                counts[slot.name] = counts.get(slot.name, 0) + slot.count
        return counts

    @property
    def memory_accesses(self) -> dict[str, int]:
        """How often the guest accessed each device's memory, by the device's name; `unmapped` for the rest."""
        counts = {UNMAPPED: self._unmapped_memory, **self._former_memory}
        for slot in self._memory_slots:
            counts[slot.name] = counts.get(slot.name, 0) + slot.count
        return counts

    # Snapshot

    def snapshot(self) -> Snapshot:
        """How often each place was accessed. What is mapped where belongs to the board and its devices."""
        return {
            "ports": {
                port: slot.count for port, slot in enumerate(self._ports) if slot is not self._unmapped and slot.count
            },
            "former_ports": dict(self._former_ports),
            "unmapped": self._unmapped.count,
            "memory": {slot.base: slot.count for slot in self._memory_slots},
            "former_memory": dict(self._former_memory),
            "unmapped_memory": self._unmapped_memory,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Put back the counts; everything is mapped again as it was."""
        for port, slot in enumerate(self._ports):
            if slot is not self._unmapped:
                slot.count = snapshot["ports"].get(port, 0)
        for mapping in self._memory_slots:
            mapping.count = snapshot["memory"].get(mapping.base, 0)
        self._unmapped.count = snapshot["unmapped"]
        self._former_ports = dict(snapshot["former_ports"])
        self._former_memory = dict(snapshot["former_memory"])
        self._unmapped_memory = snapshot["unmapped_memory"]
