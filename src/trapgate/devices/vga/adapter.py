"""The display adapter: registers, planes, frame buffer, and who answers in the window from A0000h to BFFFFh.

Where the window behaves as plain memory (`direct.py`), guests get plain memory there, and the planes follow when
they are looked at. That begins with the window's sixteenth access in such a state and ends with the register write
that ends the state, so a guest that loads a font between two characters does not change the memory map each time.
"""

from __future__ import annotations

from collections import Counter

from trapgate.devices.vga.direct import Layout, from_planes, plain_layout, to_planes
from trapgate.devices.vga.dispi import Dispi
from trapgate.devices.vga.planes import Planes
from trapgate.devices.vga.ports import DispiPorts, VgaMmio, VgaPorts
from trapgate.devices.vga.registers import MISC_RAM, VgaRegisters
from trapgate.machine.clock import Clock
from trapgate.machine.device import Snapshot
from trapgate.machine.errors import SnapshotMismatch
from trapgate.machine.ram import Ram

WINDOW = 0xA0000
WINDOW_SIZE = 0x20000
FRAME_BUFFER_SIZE = 16 << 20
#: Accesses one by one before the window becomes plain memory.
PATIENCE = 16
#: Pieces in which a snapshot keeps the frame buffer; those of zeros are left out.
PIECE = 0x10000
ZEROS = bytes(PIECE)


class Vga:
    """A device in memory at A0000h (offset 0), with ports, and a frame buffer that the board maps."""

    def __init__(self, memory: Ram, clock: Clock) -> None:
        """Takes the frame buffer's 16 MB out of `memory`'s; raises OutOfHostMemory as that does."""
        self.name = "vga"
        self._memory = memory
        #: What a guest asked in vain (metric).
        self.faults: Counter[str] = Counter()
        #: How often the window became plain memory (metric).
        self.counts: Counter[str] = Counter()
        self.registers = VgaRegisters()
        self.planes = Planes(self.registers)
        self.dispi = Dispi(FRAME_BUFFER_SIZE, self.faults)
        #: Memory that is the guest's to write wherever it is mapped.
        self.pages = memory.device_pages(FRAME_BUFFER_SIZE)
        self.ports = VgaPorts(self.registers, clock, self._changed)
        self.dispi_ports = DispiPorts(self.dispi, self._dispi_written)
        self.mmio = VgaMmio(self.ports, self.dispi, self._dispi_written)
        self.frame_buffer = FrameBuffer(self)
        #: The part of the window that is plain memory now, in guest-physical addresses, and how it lies in the planes.
        self._plain: tuple[range, Layout] | None = None
        self._waited = 0
        memory.hide(WINDOW, WINDOW_SIZE, True)

    def reset(self) -> None:
        """The screen is off; memory is as it was, as DRAM is."""
        self._leave_plain()
        self.registers.reset()
        self.dispi.reset()
        self._waited = 0

    # Plain memory

    def _wanted(self) -> tuple[range, Layout] | None:
        if self.dispi.enabled:
            return None
        layout = plain_layout(self.registers, self.planes)
        if layout is None:
            return None
        window = self.planes.window
        return range(WINDOW + window.start, WINDOW + window.stop), layout

    def _changed(self) -> None:
        """A register that says who answers in the window was written."""
        self._waited = 0
        if self._plain is not None and self._plain != self._wanted():
            self._leave_plain()

    def _enter_plain(self, place: range, layout: Layout) -> None:
        self._memory.write(place.start, from_planes(self.planes, layout, len(place)))
        self._memory.hide(place.start, len(place), False)
        self._plain = place, layout

    def _leave_plain(self) -> None:
        if self._plain is not None:
            self.synchronize()
            place, _ = self._plain
            self._plain = None
            self._memory.hide(place.start, len(place), True)

    def synchronize(self) -> None:
        """Bring the planes up to date, for whoever looks at them."""
        if self._plain is not None:
            place, layout = self._plain
            to_planes(self.planes, layout, self._memory.read(place.start, len(place)))

    # Access to the window

    def read_memory(self, offset: int, width: int) -> int:
        """What the graphics controller answers, byte by byte; all ones outside the part that it decodes."""
        self._count_access()
        value = 0
        for n in range(width):
            value |= self._read_byte(offset + n) << 8 * n
        return value

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """What the graphics controller takes, byte by byte."""
        self._count_access()
        for n in range(width):
            self._write_byte(offset + n, value >> 8 * n & 0xFF)

    def _count_access(self) -> None:
        self._waited += 1
        if self._waited >= PATIENCE:
            self._waited = 0
            wanted = self._wanted()
            if wanted is not None and self._plain is None:
                self._enter_plain(*wanted)
                self.counts["window became memory"] += 1

    def _read_byte(self, offset: int) -> int:
        if self.dispi.enabled:
            place = self.dispi.bank + offset
            return self.pages.read(place, 1)[0] if offset < PIECE and place < self.pages.size else 0xFF
        window = self.planes.window
        if offset not in window or not self.registers.misc & MISC_RAM:
            return 0xFF
        if self._plain is not None:
            return self._memory.read(WINDOW + offset, 1)[0]
        return self.planes.read(offset - window.start)

    def _write_byte(self, offset: int, value: int) -> None:
        if self.dispi.enabled:
            place = self.dispi.bank + offset
            if offset < PIECE and place < self.pages.size:
                self.pages.write(place, bytes((value,)))
            return
        window = self.planes.window
        if offset not in window or not self.registers.misc & MISC_RAM:
            return
        if self._plain is not None:
            self._memory.write(WINDOW + offset, bytes((value,)))
        else:
            self.planes.write(offset - window.start, value)

    def _dispi_written(self, clear: bool) -> None:
        if clear:
            self.clear_frame_buffer()
        self.registers.dac_is_wide = self.dispi.is_wide
        self._changed()

    def clear_frame_buffer(self) -> None:
        """Zero what is not zero."""
        for start in range(0, self.pages.size, PIECE):
            if self.pages.read(start, PIECE) != ZEROS:
                self.pages.write(start, ZEROS)

    # For firmware, which has no cycles to spend

    def read_window(self, address: int, length: int) -> bytes:
        """`length` bytes at guest-physical `address` in the window, as a guest would read them one by one."""
        if self._plain is not None and address in self._plain[0] and address + length <= self._plain[0].stop:
            return self._memory.read(address, length)
        return bytes(self._read_byte(address - WINDOW + n) for n in range(length))

    def write_window(self, address: int, data: bytes) -> None:
        """Write `data` at guest-physical `address` in the window."""
        if self._plain is None and len(data) >= PATIENCE:
            wanted = self._wanted()
            if wanted is not None:
                self._enter_plain(*wanted)
        if self._plain is not None and address in self._plain[0] and address + len(data) <= self._plain[0].stop:
            self._memory.write(address, data)
            return
        for n, value in enumerate(data):
            self._write_byte(address - WINDOW + n, value)

    def clear_planes(self) -> None:
        """Zero the planes."""
        if self._plain is not None:
            place, _ = self._plain
            self._memory.write(place.start, bytes(len(place)))
        self.planes.reset()

    # Snapshot

    def snapshot(self) -> Snapshot:
        """Registers, planes, what of the frame buffer is not zero, and whether the window is plain memory."""
        self.synchronize()
        pieces = ((start, self.pages.read(start, PIECE)) for start in range(0, self.pages.size, PIECE))
        return {
            "registers": self.registers.snapshot(),
            "planes": self.planes.snapshot(),
            "dispi": self.dispi.snapshot(),
            "frame_buffer": [[start, piece] for start, piece in pieces if piece != ZEROS],
            "waited": self._waited,
            "is_plain": self._plain is not None,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave, in whatever order memory itself is put back. Raises SnapshotMismatch."""
        wanted = {"registers", "planes", "dispi", "frame_buffer", "waited", "is_plain"}
        if set(snapshot) != wanted:
            raise SnapshotMismatch("Vga", wanted, set(snapshot))
        self._leave_plain()
        self.registers.restore(snapshot["registers"])
        self.planes.restore(snapshot["planes"])
        self.dispi.restore(snapshot["dispi"])
        pieces = dict(snapshot["frame_buffer"])
        for start in range(0, self.pages.size, PIECE):
            piece = pieces.get(start, ZEROS)
            if self.pages.read(start, PIECE) != piece:
                self.pages.write(start, piece)
        self._waited = snapshot["waited"]
        place = self._wanted()
        if snapshot["is_plain"] and place is not None:
            self._enter_plain(*place)


class FrameBuffer:
    """The frame buffer as a device on the bus: asked where an access is not one of native code."""

    def __init__(self, vga: Vga) -> None:
        self.name = "vga"
        self._pages = vga.pages

    def reset(self) -> None:
        """Memory has no reset."""

    def read_memory(self, offset: int, width: int) -> int:
        """Bytes of the frame buffer."""
        return int.from_bytes(self._pages.read(offset, width), "little")

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """Write bytes of the frame buffer."""
        self._pages.write(offset, value.to_bytes(width, "little"))
