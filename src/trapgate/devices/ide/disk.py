"""An ATA hard disk: PIO and DMA commands with addresses of 28 and 48 bits, and by cylinder, head and sector.

Source: ATA/ATAPI-6 (T13/1410D revision 3b), 8 (commands), 6.2 (addresses).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from trapgate.devices.ide import registers as ata
from trapgate.devices.ide.drive import AtaDrive
from trapgate.devices.ide.identify import MAX_MULTIPLE, identify_disk
from trapgate.machine.block import BlockBackend, BlockError
from trapgate.machine.clock import Clock

SECTOR = ata.SECTOR
HEADS, SECTORS_PER_TRACK, MAX_CYLINDERS = 16, 63, 16383
RECALIBRATE = range(0x10, 0x20)
LARGEST_28, LARGEST_48 = 256, 65536

#: SET FEATURES (8.46, table 44).
WRITE_CACHE_ON, SET_TRANSFER_MODE, READ_AHEAD_OFF, WRITE_CACHE_OFF, READ_AHEAD_ON = 0x02, 0x03, 0x55, 0x82, 0xAA
REVERT_OFF, REVERT_ON = 0x66, 0xCC
PIO_DEFAULT, PIO_FLOW, MULTIWORD = range(2), range(0x08, 0x0D), range(0x20, 0x23)
ACTIVE = 0xFF

#: (48-bit addresses, sectors per block are those of SET MULTIPLE MODE) of the commands that move data.
_PIO_READS = {
    ata.READ_SECTORS: (False, False), ata.READ_SECTORS_ONCE: (False, False), ata.READ_SECTORS_EXT: (True, False),
    ata.READ_MULTIPLE: (False, True), ata.READ_MULTIPLE_EXT: (True, True),
}  # fmt: skip
_PIO_WRITES = {
    ata.WRITE_SECTORS: (False, False), ata.WRITE_SECTORS_ONCE: (False, False), ata.WRITE_SECTORS_EXT: (True, False),
    ata.WRITE_MULTIPLE: (False, True), ata.WRITE_MULTIPLE_EXT: (True, True),
}  # fmt: skip
_DMA_READS = {ata.READ_DMA: False, ata.READ_DMA_ONCE: False, ata.READ_DMA_EXT: True}
_DMA_WRITES = {ata.WRITE_DMA: False, ata.WRITE_DMA_ONCE: False, ata.WRITE_DMA_EXT: True}
_VERIFIES = {ata.READ_VERIFY: False, ata.READ_VERIFY_ONCE: False, ata.READ_VERIFY_EXT: True}
_POWER = (ata.STANDBY_IMMEDIATE, ata.IDLE_IMMEDIATE, ata.STANDBY, ata.IDLE, ata.SLEEP)


class AtaDisk(AtaDrive):
    """A disk on `medium`; what is left over behind its last whole sector is not seen."""

    STATE: ClassVar[tuple[str, ...]] = (
        *AtaDrive.STATE, "heads", "sectors", "multiple", "mode", "write_cache", "next", "left", "block",
        "wide", "is_new",
    )  # fmt: skip

    def __init__(self, name: str, clock: Clock, medium: BlockBackend, serial: str) -> None:
        self.total = medium.size // SECTOR
        self._serial = serial
        #: Translation of cylinder, head and sector, as INITIALIZE DEVICE PARAMETERS sets it.
        self.heads, self.sectors = HEADS, SECTORS_PER_TRACK
        self.multiple = 0
        self.mode = -1
        self.write_cache = True
        # Of the command in progress: next sector, sectors left, sectors per interrupt, 48-bit addresses.
        self.next = self.left = 0
        self.block = 1
        self.wide = False
        #: Nothing of it has gone to the disk yet.
        self.is_new = False
        super().__init__(name, clock, medium)
        self._simple: dict[int, Callable[[], None]] = {
            ata.IDENTIFY_DEVICE: lambda: self.later("identify"),
            ata.SET_FEATURES: self._set_features,
            ata.SET_MULTIPLE: self._set_multiple,
            ata.INITIALIZE_PARAMETERS: self._initialize,
            ata.FLUSH_CACHE: lambda: self.later("flush"),
            ata.FLUSH_CACHE_EXT: lambda: self.later("flush"),
            ata.READ_NATIVE_MAX: lambda: self._native_max(False),
            ata.READ_NATIVE_MAX_EXT: lambda: self._native_max(True),
            ata.SEEK: self.done,
            ata.CHECK_POWER_MODE: self._power_mode,
        }

    def reset(self) -> None:
        """Power on: settings too are as they were at first."""
        self.heads, self.sectors = HEADS, SECTORS_PER_TRACK
        self.multiple, self.mode, self.write_cache = 0, -1, True
        super().reset()

    # Commands

    def execute(self, command: int) -> None:
        """Begin a command; its end is signalled by an interrupt."""
        self.error = 0
        self.counts["commands"] += 1
        if command in _PIO_READS:
            self.wide, many = _PIO_READS[command]
            if self._begin(many):
                self.later("read", min(self.left, self.block))
        elif command in _PIO_WRITES:
            self.wide, many = _PIO_WRITES[command]
            if self._begin(many, writes=True):
                self.demand(min(self.left, self.block) * SECTOR, "write", interrupt=False)
        elif command in _DMA_READS:
            self.wide = _DMA_READS[command]
            if self._begin():
                self.later("dma-read", self.left)
        elif command in _DMA_WRITES:
            self.wide = _DMA_WRITES[command]
            if self._begin(writes=True):
                self.later("dma-write", self.left)
        elif command in _VERIFIES:
            self.wide = _VERIFIES[command]
            if self._begin():
                self.later("verify")
        elif command in self._simple:
            self._simple[command]()
        elif command in _POWER or command in RECALIBRATE:
            self.done()
        else:
            self.abort(f"command {command:02X}h")

    def _begin(self, many: bool = False, writes: bool = False) -> bool:
        """Take the address and the count from the registers; False after an error."""
        if many and not self.multiple:
            self.abort("multiple transfer without SET MULTIPLE MODE")
            return False
        self.block = self.multiple if many else 1
        count = self.count if self.wide else self.count & 0xFF
        self.left = count or (LARGEST_48 if self.wide else LARGEST_28)
        address = self._address()
        if address is None or address + self.left > self.total:
            self.faults["address behind the last sector"] += 1
            self.fail(ata.IDNF)
            return False
        if writes and self.medium.read_only:
            self.faults["read-only"] += 1
            self.fail(ata.ABRT)
            return False
        self.next = address
        self.is_new = True
        return True

    def _address(self) -> int | None:
        """The first sector by the registers; None for a place that there is not."""
        low, mid, high = self.lba_low & 0xFF, self.lba_mid & 0xFF, self.lba_high & 0xFF
        if self.wide:
            return (
                low
                | mid << 8
                | high << 16
                | self.lba_low >> 8 << 24
                | self.lba_mid >> 8 << 32
                | (self.lba_high >> 8 << 40)
            )
        if self.device & ata.LBA:
            return low | mid << 8 | high << 16 | (self.device & 0xF) << 24
        head = self.device & 0xF
        if not 1 <= low <= self.sectors or head >= self.heads:
            return None
        return ((high << 8 | mid) * self.heads + head) * self.sectors + low - 1

    def _report(self, sector: int) -> None:
        """The registers name the sector that an error is at."""
        if not self.wide and not self.device & ata.LBA:
            track, number = divmod(sector, self.sectors)
            cylinder, head = divmod(track, self.heads)
            self.lba_low, self.lba_mid, self.lba_high = number + 1, cylinder & 0xFF, cylinder >> 8 & 0xFF
            self.device = self.device & 0xF0 | head
            return
        self.lba_low = sector & 0xFF | (sector >> 24 & 0xFF) << 8
        self.lba_mid = sector >> 8 & 0xFF | (sector >> 32 & 0xFF) << 8
        self.lba_high = sector >> 16 & 0xFF | (sector >> 40 & 0xFF) << 8
        if not self.wide:
            self.device = self.device & 0xF0 | sector >> 24 & 0xF

    # Data

    def is_outgoing(self) -> bool:
        """A read, or IDENTIFY DEVICE."""
        return self.stage in ("read", "identify")

    def proceed(self, stage: str) -> None:
        """Carry out a part of the command. Raises BlockError."""
        if stage == "read":
            sectors = min(self.left, self.block)
            data = self._read(sectors)
            self.next += sectors
            self.left -= sectors
            self.offer(data, stage)
        elif stage == "write":
            self._write(bytes(self.buffer))
            if self.left:
                self.demand(min(self.left, self.block) * SECTOR, stage, interrupt=True)
            else:
                self.done()
        elif stage == "dma-read":
            self.offer_dma(self._read(self.left), stage)
        elif stage == "dma-write":
            self.demand_dma(self.left * SECTOR, stage)
        elif stage == "dma-written":
            self._write(bytes(self.buffer))
            self.done()
        elif stage == "verify":
            self.done()
        elif stage == "flush":
            self.medium.flush()
            self.counts["flushes"] += 1
            self.done()
        elif stage == "identify":
            self.offer(self._identity(), stage)

    def _read(self, sectors: int) -> bytes:
        data = self.medium.read(self.next * SECTOR, sectors * SECTOR)
        self.counts["reads"] += 1
        self.counts["bytes_read"] += len(data)
        return data

    def _write(self, data: bytes) -> None:
        self.medium.write(self.next * SECTOR, data)
        self.counts["writes"] += 1
        self.counts["bytes_written"] += len(data)
        self.next += len(data) // SECTOR
        self.left -= len(data) // SECTOR

    def drained(self, stage: str) -> None:
        """A block has been read from the data port."""
        if stage == "read" and self.left:
            self.later(stage, min(self.left, self.block), is_new=False)
        else:
            self.status = ata.READY
            self.stage = ""

    def filled(self, stage: str) -> None:
        """A block has been written to the data port."""
        self.later(stage, min(self.left, self.block), self.is_new)
        self.is_new = False

    def dma_done(self) -> None:
        """The controller has moved all of it."""
        self.wants_dma = False
        if self.stage != "dma-write":
            self.done()
            return
        # The disk's time has passed already.
        try:
            self.proceed("dma-written")
        except BlockError as error:
            self.faults[error.reason] += 1
            self.medium_failed("dma-written", error)

    def medium_failed(self, stage: str, error: BlockError) -> None:
        """Uncorrectable data where it was read, a device fault where it was to be written."""
        self._report(self.next)
        if stage in ("read", "dma-read", "verify"):
            self.fail(ata.UNC)
        else:
            self.fail(ata.ABRT, ata.ERR | ata.DF)

    # Commands without data

    def _geometry(self) -> tuple[int, int, int]:
        cylinders = min(max(1, self.total // (HEADS * SECTORS_PER_TRACK)), MAX_CYLINDERS)
        return cylinders, HEADS, SECTORS_PER_TRACK

    def _identity(self) -> bytes:
        cylinders = min(max(1, self.total // (self.heads * self.sectors)), MAX_CYLINDERS)
        return identify_disk(
            self._serial, self.total, self._geometry(), (cylinders, self.heads, self.sectors), self.multiple, self.mode,
            self.write_cache,
        )  # fmt: skip

    def _set_features(self) -> None:
        feature, mode = self.features & 0xFF, self.count & 0xFF
        if feature == SET_TRANSFER_MODE:
            if mode in MULTIWORD:
                self.mode = mode - MULTIWORD.start
            elif mode not in PIO_DEFAULT and mode not in PIO_FLOW:
                self.abort(f"transfer mode {mode:02X}h")
                return
        elif feature in (WRITE_CACHE_ON, WRITE_CACHE_OFF):
            self.write_cache = feature == WRITE_CACHE_ON
        elif feature not in (READ_AHEAD_OFF, READ_AHEAD_ON, REVERT_OFF, REVERT_ON):
            self.abort(f"feature {feature:02X}h")
            return
        self.done()

    def _set_multiple(self) -> None:
        count = self.count & 0xFF
        if count > MAX_MULTIPLE or count & count - 1:
            self.multiple = 0
            self.abort("sectors per block that are no power of two up to 16")
            return
        self.multiple = count
        self.done()

    def _initialize(self) -> None:
        heads, sectors = (self.device & 0xF) + 1, self.count & 0xFF
        if not sectors:
            self.abort("translation with 0 sectors per track")
            return
        self.heads, self.sectors = heads, sectors
        self.done()

    def _native_max(self, wide: bool) -> None:
        self.wide = wide
        if not wide and not self.device & ata.LBA:
            self.abort("READ NATIVE MAX without LBA")
            return
        self._report(max(self.total, 1) - 1 if wide else min(max(self.total, 1) - 1, (1 << 28) - 1))
        self.done()

    def _power_mode(self) -> None:
        self.count = ACTIVE
        self.done()
