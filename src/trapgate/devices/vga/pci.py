"""The adapter as a PCI function: QEMU's "standard VGA", which guests have drivers for.

Source: QEMU, docs/specs/standard-vga.rst.
"""

from __future__ import annotations

from trapgate.devices.pci.function import PciFunction
from trapgate.devices.pci.host_bridge import QEMU_SUBSYSTEM
from trapgate.devices.vga.adapter import Vga
from trapgate.devices.vga.ports import VgaMmio

VENDOR, DEVICE = 0x1234, 0x1111
VGA_CONTROLLER = 0x030000
#: From revision 2 on the registers in memory have the extended ones.
REVISION = 2
FRAME_BUFFER_BAR, REGISTERS_BAR = 0, 2


def vga_function(vga: Vga) -> PciFunction:
    """The function. The window at A0000h and the ports stay where the board has them, whatever the command register
    says."""
    function = PciFunction("vga", VENDOR, DEVICE, VGA_CONTROLLER, REVISION, QEMU_SUBSYSTEM)
    function.add_memory_bar(FRAME_BUFFER_BAR, vga.pages.size, vga.frame_buffer, vga.pages)
    function.add_memory_bar(REGISTERS_BAR, VgaMmio.SIZE, vga.mmio)
    return function
