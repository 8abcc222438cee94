"""The VGA's ports: which register an access means.

Source: PS/2 HITR, "Video Subsystem", register descriptions; FreeVGA, "Accessing the VGA Registers".
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.devices.vga import dispi as bochs
from trapgate.devices.vga import registers as vga
from trapgate.devices.vga.dispi import Dispi
from trapgate.devices.vga.registers import VgaRegisters
from trapgate.machine.clock import Clock

#: Mapped for the device: first port, count.
PORTS = ((0x3B4, 2), (0x3BA, 1), (0x3C0, 16), (0x3D4, 2), (0x3DA, 1))
_MONO = (vga.CRTC_INDEX_MONO, vga.CRTC_DATA_MONO, vga.STATUS_MONO)
_COLOUR = (vga.CRTC_INDEX, vga.CRTC_DATA, vga.STATUS)
#: Blanking and retrace take part of a line that the horizontal registers would tell; assumed: a fifth.
_RETRACE_SHARE = 5
_MONO_TO_COLOUR = vga.CRTC_INDEX - vga.CRTC_INDEX_MONO


class VgaPorts:
    """The ports; offsets count from 3B0h. `changed` is called when memory may answer otherwise than before."""

    def __init__(self, registers: VgaRegisters, clock: Clock, changed: Callable[[], None]) -> None:
        self.name = "vga"
        self.port_width = 1
        self._r = registers
        self._clock = clock
        self._changed = changed

    def reset(self) -> None:
        """The registers are the adapter's to reset."""

    # Reading

    def read_port(self, offset: int, width: int) -> int:
        """A register. Those of the other kind of display, and those that do not exist, read as all ones."""
        r = self._r
        colour = r.misc & vga.MISC_COLOUR
        if offset in (_MONO if colour else _COLOUR):
            return 0xFF
        if offset in _MONO:
            offset += _MONO_TO_COLOUR
        if offset == vga.STATUS:
            r.attribute_is_data = False
            return self._status()
        if offset == vga.CRTC_INDEX:
            return r.crtc_index
        if offset == vga.CRTC_DATA:
            return r.crtc[r.crtc_index] if r.crtc_index < len(r.crtc) else 0
        if offset == vga.ATTRIBUTE:
            return 0 if r.attribute_is_data else r.attribute_index
        if offset == vga.ATTRIBUTE_DATA:
            place = r.attribute_index & 0x1F
            return r.attribute[place] if place < len(r.attribute) else 0
        if offset == vga.MISC_WRITE:
            return vga.SWITCH_SENSE
        if offset == vga.ENABLE:
            return r.wakes
        if offset == vga.SEQUENCER_INDEX:
            return r.sequencer_index
        if offset == vga.SEQUENCER_DATA:
            return r.sequencer[r.sequencer_index] if r.sequencer_index < len(r.sequencer) else 0
        if offset == vga.GRAPHICS_INDEX:
            return r.graphics_index
        if offset == vga.GRAPHICS_DATA:
            return r.graphics[r.graphics_index] if r.graphics_index < len(r.graphics) else 0
        if offset == vga.MISC_READ:
            return r.misc
        if offset == vga.FEATURE_READ:
            return 0
        return self._read_dac(offset)

    def _read_dac(self, offset: int) -> int:
        r = self._r
        if offset == vga.PEL_MASK:
            return r.pel_mask
        if offset == vga.PEL_READ:
            return 3 if r.dac_reads else 0
        if offset == vga.PEL_WRITE:
            return r.dac_place
        if offset == vga.PEL_DATA:
            value = r.dac[3 * r.dac_place + r.dac_part]
            self._next_dac_part()
            return value
        return 0xFF

    def _status(self) -> int:
        """Where the beam is, by the clock and the CRT controller's totals (PS/2 HITR, input status register 1)."""
        r = self._r
        clocks = (r.crtc[vga.HORIZONTAL_TOTAL] + 5) * r.dots * (2 if r.sequencer[vga.CLOCKING] & 8 else 1)
        lines = r.vertical(vga.VERTICAL_TOTAL, 0, 5) + 2
        dots = self._clock.now * vga.DOT_CLOCKS[r.misc >> vga.MISC_CLOCK_SHIFT & 3] // self._clock.hz
        line, dot = divmod(dots % (clocks * lines), clocks)
        if line >= r.lines:
            retrace = r.vertical(vga.RETRACE_START, 2, 7)
            in_retrace = retrace <= line < retrace + ((r.crtc[vga.RETRACE_END] - retrace - 1) & 0xF) + 1
            return vga.DISPLAY_DISABLED | (vga.VERTICAL_RETRACE if in_retrace else 0)
        return vga.DISPLAY_DISABLED if dot >= clocks - clocks // _RETRACE_SHARE else 0

    # Writing

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Write a register."""
        r = self._r
        colour = r.misc & vga.MISC_COLOUR
        if offset in (_MONO if colour else _COLOUR):
            return
        if offset in _MONO:
            offset += _MONO_TO_COLOUR
        if offset == vga.CRTC_INDEX:
            r.crtc_index = value & 0x3F
        elif offset == vga.CRTC_DATA:
            self._write_crtc(value)
        elif offset == vga.ATTRIBUTE:
            self._write_attribute(value)
        elif offset == vga.MISC_WRITE:
            r.misc = value & 0xEF
            self._changed()
        elif offset == vga.ENABLE:
            r.wakes = value & 1
        elif offset == vga.SEQUENCER_INDEX:
            r.sequencer_index = value & 7
        elif offset == vga.SEQUENCER_DATA:
            if r.sequencer_index < len(r.sequencer):
                r.sequencer[r.sequencer_index] = value & vga.SEQUENCER_BITS[r.sequencer_index]
                self._changed()
        elif offset == vga.GRAPHICS_INDEX:
            r.graphics_index = value & 0xF
        elif offset == vga.GRAPHICS_DATA:
            if r.graphics_index < len(r.graphics):
                r.graphics[r.graphics_index] = value & vga.GRAPHICS_BITS[r.graphics_index]
                self._changed()
        else:
            self._write_dac(offset, value)

    def _write_crtc(self, value: int) -> None:
        r = self._r
        place = r.crtc_index
        if place >= len(r.crtc):
            return
        if place <= vga.OVERFLOW and r.crtc[vga.RETRACE_END] & vga.RETRACE_PROTECT:
            if place == vga.OVERFLOW:  # bit 8 of the line compare is not protected
                r.crtc[place] = r.crtc[place] & ~0x10 | value & 0x10
            return
        r.crtc[place] = value

    def _write_attribute(self, value: int) -> None:
        r = self._r
        r.attribute_is_data = not r.attribute_is_data
        if r.attribute_is_data:
            r.attribute_index = value & 0x3F
            return
        place = r.attribute_index & 0x1F
        # While the palette is the display's, the processor cannot write it.
        if place < len(r.attribute) and not (place < 0x10 and r.attribute_index & vga.PALETTE_ON):
            r.attribute[place] = value & vga.ATTRIBUTE_BITS[place]

    def _write_dac(self, offset: int, value: int) -> None:
        r = self._r
        if offset == vga.PEL_MASK:
            r.pel_mask = value
        elif offset in (vga.PEL_READ, vga.PEL_WRITE):
            r.dac_place, r.dac_part, r.dac_reads = value, 0, offset == vga.PEL_READ
        elif offset == vga.PEL_DATA:
            r.dac[3 * r.dac_place + r.dac_part] = value if r.dac_is_wide else value & 0x3F
            self._next_dac_part()

    def _next_dac_part(self) -> None:
        r = self._r
        r.dac_part += 1
        if r.dac_part == 3:
            r.dac_part = 0
            r.dac_place = (r.dac_place + 1) & 0xFF


class DispiPorts:
    """Ports 1CEh (offset 0) and 1CFh (offset 1), 16 bits each. `written` is called after a write of the data, with
    whether the frame buffer is to be cleared."""

    def __init__(self, dispi: Dispi, written: Callable[[bool], None]) -> None:
        self.name = "vga"
        self.port_width = 2
        self._dispi = dispi
        self._written = written

    def reset(self) -> None:
        """The registers are the adapter's to reset."""

    def read_port(self, offset: int, width: int) -> int:
        """The index, or the register that it chooses."""
        value = self._dispi.read(self._dispi.index) if offset else self._dispi.index
        return value & (1 << 8 * width) - 1

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Write the index, or the register that it chooses."""
        if offset == 0:
            self._dispi.index = value
        else:
            self._written(self._dispi.write(self._dispi.index, value))


class VgaMmio:
    """The same registers in memory: base address 2 of the PCI function (QEMU, docs/specs/standard-vga.rst)."""

    LEGACY, DISPI, EXTENDED = 0x400, 0x500, 0x600
    SIZE = 0x1000
    #: The extended registers: their size in bytes, and the frame buffer's byte order, which is little-endian for ever.
    _EXTENDED = (8).to_bytes(4, "little") + (0x1E1E1E1E).to_bytes(4, "little")
    #: Offset of port 3C0h among those of VgaPorts.
    _FIRST_PORT = 0x10

    def __init__(self, ports: VgaPorts, dispi: Dispi, written: Callable[[bool], None]) -> None:
        self.name = "vga"
        self._ports, self._dispi, self._written = ports, dispi, written

    def reset(self) -> None:
        """The registers are the adapter's to reset."""

    def read_memory(self, offset: int, width: int) -> int:
        """Ports by bytes, display interface registers by words; 0 where nothing is."""
        value = 0
        for n in range(width):
            value |= self._read_byte(offset + n) << 8 * n
        return value

    def _read_byte(self, offset: int) -> int:
        if self.LEGACY <= offset < self.LEGACY + 0x20:
            return self._ports.read_port(offset - self.LEGACY + self._FIRST_PORT, 1)
        if self.DISPI <= offset < self.DISPI + 2 * bochs.REGISTERS:
            place = offset - self.DISPI
            return self._dispi.read(place >> 1) >> 8 * (place & 1) & 0xFF
        if self.EXTENDED <= offset < self.EXTENDED + len(self._EXTENDED):
            return self._EXTENDED[offset - self.EXTENDED]
        return 0

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """Ports by bytes, display interface registers by whole words."""
        if self.DISPI <= offset < self.DISPI + 2 * bochs.REGISTERS:
            if width >= 2 and not offset & 1:
                self._written(self._dispi.write(offset - self.DISPI >> 1, value & 0xFFFF))
        else:
            for n in range(width):
                if self.LEGACY <= offset + n < self.LEGACY + 0x20:
                    self._ports.write_port(offset + n - self.LEGACY + self._FIRST_PORT, 1, value >> 8 * n & 0xFF)
