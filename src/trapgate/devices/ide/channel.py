"""One IDE channel: two drives behind the registers of a command block and a control block, and INTRQ.

Source: ATA/ATAPI-6 (T13/1410D revision 3b), 7 and 9.16 (one drive alone).
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.devices.ide import registers as ata
from trapgate.devices.ide.bus_master import BusMaster
from trapgate.devices.ide.drive import AtaDrive
from trapgate.machine.device import IrqLine, PlainState, Snapshot


class Channel(PlainState):
    """Drives 0 and 1; either may be missing. An access to a missing drive reads 0."""

    STATE: ClassVar[tuple[str, ...]] = ("selected", "control", "line")
    NESTED: ClassVar[tuple[str, ...]] = ("drives", "dma")

    def __init__(self, name: str, drives: tuple[AtaDrive | None, AtaDrive | None], set_irq: IrqLine, dma: BusMaster):
        self.name = name
        self.drives = drives
        self.dma = dma
        self._set_irq = set_irq
        self.selected = self.control = 0
        self.line = False
        for drive in self._present():
            drive.on_irq = self._update
            drive.on_dma = dma.run
        dma.waiting = self._waiting

    def _present(self) -> list[AtaDrive]:
        return [drive for drive in self.drives if drive is not None]

    def _waiting(self) -> AtaDrive | None:
        drive = self.drives[self.selected]
        return drive if drive is not None and drive.wants_dma else None

    def reset(self) -> None:
        """Power on."""
        self.selected = self.control = 0
        for drive in self._present():
            drive.reset()
        self.dma.reset()
        self._update()

    # INTRQ

    def _update(self) -> None:
        """The selected drive drives INTRQ unless nIEN is set."""
        drive = self.drives[self.selected]
        level = drive is not None and drive.irq and not self.control & ata.NIEN
        if level != self.line:
            self.line = level
            if level:
                self.dma.interrupt()
            self._set_irq(level)

    # Access

    def read(self, offset: int) -> int:
        """A byte of the command block besides data. Reading the status acknowledges the interrupt."""
        drive = self.drives[self.selected]
        if drive is None:
            return 0
        if offset == ata.STATUS_COMMAND:
            drive.set_irq(False)
            return drive.status
        return drive.read_register(offset, bool(self.control & ata.HOB))

    def alternate_status(self) -> int:
        """The status, without acknowledging anything."""
        drive = self.drives[self.selected]
        return 0 if drive is None else drive.status

    def write(self, offset: int, value: int) -> None:
        """A byte of the command block besides data; both drives hear it, and the selected one a command."""
        self.control &= ~ata.HOB
        if offset == ata.STATUS_COMMAND:
            self._command(value)
            return
        for drive in self._present():
            # A busy drive does not hear (7.1), but the selection is the channel's.
            if not drive.status & (ata.BSY | ata.DRQ):
                drive.write_register(offset, value)
        if offset == ata.DEVICE:
            self.selected = 1 if value & ata.DEV else 0
            self._update()

    def _command(self, command: int) -> None:
        if command == ata.EXECUTE_DIAGNOSTIC:
            self._diagnose()
            return
        drive = self.drives[self.selected]
        if drive is None:
            return
        if command == ata.DEVICE_RESET and drive.SIGNATURE[2]:
            # The one command that a busy ATAPI drive hears.
            device = drive.device
            drive.after_reset()
            drive.device = device & ata.DEV
            return
        if drive.status & (ata.BSY | ata.DRQ):
            drive.faults["command while busy"] += 1
            return
        drive.set_irq(False)
        drive.execute(command)

    def _diagnose(self) -> None:
        """EXECUTE DEVICE DIAGNOSTIC: both drives, and drive 0 answers (8.11)."""
        for drive in self._present():
            drive.after_reset()
        self.selected = 0
        first = self.drives[0]
        if first is not None:
            first.set_irq(True)
        self._update()

    def write_control(self, value: int) -> None:
        """Device control: SRST resets both drives, nIEN masks INTRQ, HOB shows the earlier bytes."""
        before, self.control = self.control, value & (ata.HOB | ata.SRST | ata.NIEN)
        if value & ata.SRST and not before & ata.SRST:
            for drive in self._present():
                drive.after_reset()
                drive.status = ata.BSY
            self.selected = 0
        elif before & ata.SRST and not value & ata.SRST:
            for drive in self._present():
                drive.after_reset()
        self._update()

    def read_data(self, width: int) -> int:
        """The data port."""
        drive = self.drives[self.selected]
        return (1 << 8 * width) - 1 if drive is None else drive.read_data(width)

    def write_data(self, width: int, value: int) -> None:
        """The data port."""
        drive = self.drives[self.selected]
        if drive is not None:
            drive.write_data(width, value)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The channel, its drives and its DMA engine."""
        drives = [None if drive is None else drive.snapshot() for drive in self.drives]
        return {**super().snapshot(), "drives": drives, "dma": self.dma.snapshot()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back; the line itself is the interrupt controllers' to restore."""
        super().restore(snapshot)
        for drive, state in zip(self.drives, snapshot["drives"], strict=True):
            if drive is not None:
                drive.restore(state)
        self.dma.restore(snapshot["dma"])
