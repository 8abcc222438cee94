"""The host bridge of the 440FX: configuration mechanism 1, ports CF8h and CFCh.

Sources: PCI Local Bus Specification 3.0, 3.2.2.3.2; Intel 440FX data sheet (order 290549-001), 3.1 and 3.2.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.devices.pci.bus import PciBus
from trapgate.devices.pci.function import PciFunction
from trapgate.machine.device import PlainState

ADDRESS_PORT = 0xCF8
DATA_PORT = 0xCFC
#: Where the mapping of DATA_PORT begins in the device's offsets.
DATA_OFFSET = 4

ENABLED = 1 << 31
ADDRESS_MASK = 0x80FF_FFFC

VENDOR_INTEL = 0x8086
DEVICE_440FX = 0x1237
HOST_BRIDGE = 0x060000
#: What QEMU's functions say that they are; drivers know these machines.
QEMU_SUBSYSTEM = (0x1AF4, 0x1100)


def host_bridge() -> PciFunction:
    """The 440FX's PCI and memory controller, as a function without registers of its own."""
    return PciFunction("host-bridge", VENDOR_INTEL, DEVICE_440FX, HOST_BRIDGE, 2, QEMU_SUBSYSTEM)


class ConfigPorts(PlainState):
    """Offset 0 is the address register, taken as a double word alone; 4 to 7 are the data."""

    __slots__ = ("_pci", "address", "name", "port_width")

    STATE: ClassVar[tuple[str, ...]] = ("address",)

    def __init__(self, pci: PciBus) -> None:
        self.name = "pci-config"
        self.port_width = 4
        self._pci = pci
        self.address = 0

    def reset(self) -> None:
        """Configuration cycles are disabled."""
        self.address = 0

    def _target(self) -> PciFunction | None:
        address = self.address
        return self._pci.find(address >> 8 & 0xFF) if address & ENABLED and not address >> 16 & 0xFF else None

    def read_port(self, offset: int, width: int) -> int:
        """The address register, or a register of the function that it selects; all ones where there is none."""
        ones = (1 << 8 * width) - 1
        if offset < DATA_OFFSET:
            return self.address if width == 4 else ones
        function = self._target()
        if function is None:
            return ones
        at = offset - DATA_OFFSET
        inside = min(width, 4 - at)
        value = function.read_config((self.address & 0xFC) + at, inside)
        # Bytes behind the double word belong to no register.
        return value | ones >> 8 * inside << 8 * inside

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Write the address register, or a register of the function that it selects."""
        if offset < DATA_OFFSET:
            if width == 4:
                self.address = value & ADDRESS_MASK
            return
        function = self._target()
        if function is not None:
            at = offset - DATA_OFFSET
            inside = min(width, 4 - at)
            function.write_config((self.address & 0xFC) + at, inside, value & (1 << 8 * inside) - 1)
