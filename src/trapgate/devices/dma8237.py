"""The DMA controllers of a PC: two Intel 8237A and their page registers.

The registers behave as the chips' do; no device of this machine asks for a transfer.

Sources: Intel 8237A data sheet (order 231466-005), "Register Description" and "Software Commands"; IBM PC AT Technical
Reference, "DMA Page Registers".
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.device import PlainState

# Registers 8 to 15 (data sheet, figure 6), as written.
COMMAND = 8  # read: status
REQUEST = 9
MASK_BIT = 10
MODE = 11
CLEAR_POINTER = 12
MASTER_CLEAR = 13  # read: temporary register
CLEAR_MASK = 14
MASK_ALL = 15  # read: the masks, on later chips

ALL_CHANNELS = 0x0F


class Dma8237(PlainState):
    """One controller: 16 registers, one byte or (second controller) two bytes apart."""

    __slots__ = (
        "base",
        "command",
        "current",
        "high_byte",
        "mask",
        "mode",
        "name",
        "port_width",
        "request",
        "shift",
        "terminal_count",
    )

    STATE: ClassVar[tuple[str, ...]] = (
        "base",
        "command",
        "current",
        "high_byte",
        "mask",
        "mode",
        "request",
        "terminal_count",
    )

    def __init__(self, name: str, shift: int) -> None:
        """`shift`: 0 when the registers are at consecutive ports, 1 when at every second one."""
        self.name = name
        self.port_width = 1
        self.shift = shift
        self.base: list[int] = [0] * 8
        self.current: list[int] = [0] * 8
        self.mode: list[int] = [0] * 4
        self.reset()

    def reset(self) -> None:
        """RESET does what master clear does; addresses, counts and modes are kept."""
        self.command = 0
        self.request = 0
        self.terminal_count = 0
        self.mask = ALL_CHANNELS
        #: The byte pointer: True when the next access to an address or count is to its high byte.
        self.high_byte = False

    def read_port(self, offset: int, width: int) -> int:
        """A byte of a current address or count, or a register."""
        register = offset >> self.shift
        if register < COMMAND:
            value = self.current[register]
            value = value >> 8 if self.high_byte else value & 0xFF
            self.high_byte = not self.high_byte
            return value
        if register == COMMAND:
            status = self.request << 4 | self.terminal_count
            self.terminal_count = 0
            return status
        if register == MASK_ALL:
            return 0xF0 | self.mask
        # The temporary register is 0 until a memory-to-memory transfer; the others cannot be read.
        return 0 if register == MASTER_CLEAR else 0xFF

    def write_port(self, offset: int, width: int, value: int) -> None:
        """A byte of a base address or count, a register, or a software command."""
        register = offset >> self.shift
        if register < COMMAND:
            old = self.base[register]
            new = old & 0xFF | value << 8 if self.high_byte else old & 0xFF00 | value
            self.base[register] = self.current[register] = new
            self.high_byte = not self.high_byte
        elif register == COMMAND:
            self.command = value
        elif register == REQUEST:
            self.request = self._with_bit(self.request, value)
        elif register == MASK_BIT:
            self.mask = self._with_bit(self.mask, value)
        elif register == MODE:
            self.mode[value & 3] = value & 0xFC
        elif register == CLEAR_POINTER:
            self.high_byte = False
        elif register == MASTER_CLEAR:
            self.reset()
        elif register == CLEAR_MASK:
            self.mask = 0
        else:
            self.mask = value & ALL_CHANNELS

    @staticmethod
    def _with_bit(bits: int, value: int) -> int:
        """Registers 9 and 10 set (bit 2) or clear the bit of one channel (bits 1:0)."""
        bit = 1 << (value & 3)
        return bits | bit if value & 4 else bits & ~bit


class DmaPages(PlainState):
    """The page registers, ports 81h to 8Fh: plain storage of 16 bytes, offset 0 being port 80h."""

    __slots__ = ("name", "pages", "port_width")

    STATE: ClassVar[tuple[str, ...]] = ("pages",)

    def __init__(self) -> None:
        self.name = "dma"
        self.port_width = 1
        self.pages = bytearray(16)

    def reset(self) -> None:
        """All pages 0."""
        self.pages = bytearray(16)

    def read_port(self, offset: int, width: int) -> int:
        """Page register `offset`."""
        return self.pages[offset]

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Set page register `offset`."""
        self.pages[offset] = value
