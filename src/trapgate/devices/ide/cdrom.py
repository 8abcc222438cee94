"""An ATAPI CD-ROM drive: packets in, data out by PIO or DMA. What the packets mean is scsi_cd.py's.

Source: ATA/ATAPI-6 (T13/1410D revision 3b), 9.8 and 9.9 (PACKET protocols), 8.23.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.devices.ide import registers as ata
from trapgate.devices.ide.drive import AtaDrive
from trapgate.devices.ide.identify import identify_packet
from trapgate.devices.ide.scsi_cd import MEDIUM_ERROR, UNRECOVERED_READ, CheckCondition, CompactDisc
from trapgate.machine.block import BlockBackend, BlockError
from trapgate.machine.clock import Clock
from trapgate.machine.device import Snapshot

PACKET_LENGTH = 12
# The count register is the interrupt reason (7.10).
COMMAND, TO_HOST = 0x01, 0x02
USES_DMA = 0x01
LARGEST_PIECE = 0xFFFE
SET_TRANSFER_MODE = 0x03
MULTIWORD = range(0x20, 0x23)
PIO = (*range(2), *range(0x08, 0x0D))


class CdRom(AtaDrive):
    """A drive with a CD of 2048-byte blocks, `medium`."""

    STATE: ClassVar[tuple[str, ...]] = (*AtaDrive.STATE, "mode", "reply", "sent", "limit", "by_dma")
    SIGNATURE: ClassVar[tuple[int, int, int, int]] = (1, 1, 0x14, 0xEB)

    def __init__(self, name: str, clock: Clock, medium: BlockBackend, serial: str) -> None:
        self._serial = serial
        self.mode = -1
        #: The data of the command, how much of it has gone, and how much goes at once.
        self.reply = b""
        self.sent = 0
        self.limit = LARGEST_PIECE
        self.by_dma = False
        super().__init__(name, clock, medium)
        self.disc = CompactDisc(medium, self.faults)

    def reset(self) -> None:
        """Power on."""
        self.mode = -1
        self.disc.reset()
        super().reset()

    def after_reset(self) -> None:
        """SRST and DEVICE RESET: whatever was to be sent is dropped."""
        self.reply, self.sent = b"", 0
        super().after_reset()

    def execute(self, command: int) -> None:
        """Begin a command; disk commands end with the signature that tells the drive apart."""
        self.error = 0
        self.counts["commands"] += 1
        if command == ata.PACKET:
            self.by_dma = bool(self.features & USES_DMA)
            asked = (self.lba_high & 0xFF) << 8 | self.lba_mid & 0xFF
            self.limit = min(asked & ~1 or LARGEST_PIECE, LARGEST_PIECE)
            self.count = COMMAND
            self.demand(PACKET_LENGTH, "packet", interrupt=False)
        elif command == ata.IDENTIFY_PACKET_DEVICE:
            self.later("identify")
        elif command == ata.SET_FEATURES:
            self._set_features()
        elif command in (ata.NOP, ata.IDENTIFY_DEVICE, ata.READ_SECTORS):
            self.set_signature()
            self.abort(f"command {command:02X}h")
        elif command in (ata.STANDBY_IMMEDIATE, ata.IDLE_IMMEDIATE, ata.SLEEP, ata.FLUSH_CACHE):
            self.done()
        elif command == ata.CHECK_POWER_MODE:
            self.count = 0xFF
            self.done()
        else:
            self.abort(f"command {command:02X}h")

    def _set_features(self) -> None:
        feature, mode = self.features & 0xFF, self.count & 0xFF
        if feature != SET_TRANSFER_MODE or (mode not in PIO and mode not in MULTIWORD):
            self.abort(f"feature {feature:02X}h, {mode:02X}h")
            return
        if mode in MULTIWORD:
            self.mode = mode - MULTIWORD.start
        self.done()

    # Packets

    def is_outgoing(self) -> bool:
        """Everything but the packet itself."""
        return self.stage != "packet"

    def filled(self, stage: str) -> None:
        """The packet is here."""
        self.later("execute")

    def proceed(self, stage: str) -> None:
        """Carry out a part of the command. Raises BlockError."""
        if stage == "identify":
            self.offer(identify_packet(self._serial, self.mode), stage)
        elif stage == "execute":
            self._execute(bytes(self.buffer))
        elif stage == "moved":
            if self.by_dma:
                self.offer_dma(self.reply, "packet-dma")
            else:
                self._piece()

    def _execute(self, packet: bytes) -> None:
        try:
            self.reply = self.disc.command(packet)
        except CheckCondition as condition:
            self._check(condition.key)
            return
        self.sent = 0
        self.counts["reads"] += 1
        self.counts["bytes_read"] += len(self.reply)
        if self.reply:
            self.later("moved", len(self.reply) // ata.SECTOR, is_new=False)
        else:
            self._complete()

    def _piece(self) -> None:
        """Offer as much as the host takes at once."""
        piece = self.reply[self.sent : self.sent + self.limit]
        self.sent += len(piece)
        self.count = TO_HOST
        self.lba_mid, self.lba_high = len(piece) & 0xFF, len(piece) >> 8
        self.offer(piece, "packet-in")

    def drained(self, stage: str) -> None:
        """A piece has been read."""
        if stage == "packet-in":
            if self.sent < len(self.reply):
                self._piece()
            else:
                self._complete()
        else:
            self.status = ata.READY
            self.stage = ""

    def dma_done(self) -> None:
        """The controller has moved all of it."""
        self._complete()

    def _complete(self) -> None:
        self.reply = b""
        self.count = COMMAND | TO_HOST
        self.done()

    def _check(self, key: int) -> None:
        """CHECK CONDITION: the sense key is in the error register."""
        self.reply = b""
        self.count = COMMAND | TO_HOST
        self.fail(key << 4 | ata.ABRT)

    def medium_failed(self, stage: str, error: BlockError) -> None:
        """What could not be read is a medium error."""
        self.disc.check(MEDIUM_ERROR, UNRECOVERED_READ)
        self._check(MEDIUM_ERROR)

    # Snapshot

    NESTED: ClassVar[tuple[str, ...]] = ("waiting", "sense")

    def snapshot(self) -> Snapshot:
        """With the sense data."""
        return {**super().snapshot(), "sense": list(self.disc.sense)}

    def restore(self, snapshot: Snapshot) -> None:
        """With the sense data."""
        super().restore(snapshot)
        key, code, qualifier = snapshot["sense"]
        self.disc.sense = (key, code, qualifier)
