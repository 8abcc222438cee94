"""A board with the BIOS that boots a disk image: bare machines and virtual ones have the same.

The processor is whoever answers to firmware/bios/host.py's Protocol.
"""

from __future__ import annotations

from trapgate.boards.pc import Pc
from trapgate.boards.typist import Typist
from trapgate.devices.uart16550a import IER_RECEIVED
from trapgate.firmware.bios.bios import Bios
from trapgate.firmware.bios.disk_image import DiskImage
from trapgate.firmware.bios.host import Processor
from trapgate.firmware.bios.rom import SERVICE_PORT
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import RunControl
from trapgate.machine.device import Snapshot
from trapgate.machine.ram import Ram


class BiosBoard:
    """The BIOS on a board, and who types on its keyboard. Raises FirmwareError for what cannot be booted."""

    def __init__(
        self,
        processor: Processor,
        memory: Ram,
        board: Pc,
        clock: Clock,
        control: RunControl,
        console: ConsoleBackend,
        image: DiskImage,
    ) -> None:
        self._board = board
        self.bios = Bios(
            processor, memory, board.bus, clock, control, console, image.drives(), image.code, image.emulation,
            board.vga,
        )  # fmt: skip
        board.bus.map_ports(SERVICE_PORT, 1, self.bios)
        self.bios.install()
        self._typist = Typist(clock, board.keyboard, lambda: self.bios.keyboard.has_room)

    @property
    def _uses_serial(self) -> bool:
        """Whether input goes to COM1: as soon as the guest uses the port."""
        serial = self._board.serial
        return bool(serial.ier & IER_RECEIVED) or serial.sent_bytes > 0

    @property
    def listens(self) -> bool:
        """True when the guest has shown that it takes input."""
        if self._uses_serial:
            return bool(self._board.serial.ier & IER_RECEIVED)
        return self.bios.keyboard.wanted

    def receive(self, data: bytes) -> None:
        """Hand over what was typed: to COM1, or as key presses where the guest uses the screen."""
        if self._uses_serial:
            self._board.serial.receive(data)
        else:
            self._typist.type(data)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The BIOS's state, and the keys that are still to be pressed."""
        return {"bios": self.bios.snapshot(), "typist": self._typist.snapshot()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave, for a machine booted from the same image."""
        self.bios.restore(snapshot["bios"])
        self._typist.restore(snapshot["typist"])
