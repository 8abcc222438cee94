"""What an ATA disk and an ATAPI drive have in common: the task file, the data port's buffer, and the protocols.

A command sets BSY and is carried out some modelled time later (`proceed`). `stage` says what comes next: "" nothing,
otherwise a name that the drive's class gives a meaning.

Source: ATA/ATAPI-6 (T13/1410D revision 3b), 9 (protocols).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from trapgate.devices import disk_timing
from trapgate.devices.ide import registers as ata
from trapgate.machine.block import BlockBackend, BlockError
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import PlainState, Snapshot


class AtaDrive(PlainState, ABC):
    """A drive on a channel. Registers that hold two bytes keep the last one written in the low byte (7.1, HOB)."""

    STATE: ClassVar[tuple[str, ...]] = (
        "status", "error", "features", "count", "lba_low", "lba_mid", "lba_high", "device", "buffer", "position",
        "stage", "due", "wants_dma", "dma_to_memory", "irq",
    )  # fmt: skip
    #: Count, LBA low, mid and high after a reset.
    SIGNATURE: ClassVar[tuple[int, int, int, int]] = (1, 1, 0, 0)

    def __init__(self, name: str, clock: Clock, medium: BlockBackend) -> None:
        self.name = name
        self.medium = medium
        self._clock = clock
        self._event: Event | None = None
        #: What was done and what went wrong (metric).
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        #: INTRQ of the drive changes.
        self.on_irq: Callable[[], None] = lambda: None
        #: The drive is ready for a DMA transfer.
        self.on_dma: Callable[[], None] = lambda: None
        self.status = self.error = self.features = self.count = 0
        self.lba_low = self.lba_mid = self.lba_high = self.device = 0
        self.buffer = bytearray()
        self.position = 0
        self.stage = ""
        self.due = 0
        self.wants_dma = self.dma_to_memory = self.irq = False
        self.after_reset()

    # Reset

    def after_reset(self) -> None:
        """The registers after power-on, SRST or DEVICE RESET (9.1): no transfer, the drive's signature."""
        self._cancel()
        self.stage = ""
        self.wants_dma = False
        self.buffer = bytearray()
        self.position = 0
        self.error = ata.PASSED
        self.device = 0
        self.set_signature()
        self.set_irq(False)
        self.status = ata.READY if self.SIGNATURE[2] == 0 else 0

    def set_signature(self) -> None:
        """By which host software knows what the drive is (9.12)."""
        self.count, self.lba_low, self.lba_mid, self.lba_high = self.SIGNATURE

    def reset(self) -> None:
        """Power on."""
        self.after_reset()

    # Time

    def later(self, stage: str, sectors: int = 0, is_new: bool = True) -> None:
        """Be busy, then `proceed` with `stage`."""
        self.status = ata.BSY | self.status & ata.DRDY
        self.stage = stage
        microseconds = disk_timing.SECTOR_MICROSECONDS * sectors
        if is_new:
            microseconds += disk_timing.COMMAND_MICROSECONDS
        self.due = self._clock.now + disk_timing.cycles(self._clock.hz, microseconds)
        self._cancel()
        self._event = self._clock.schedule(self.due, self._on_time)

    def _cancel(self) -> None:
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None

    def _on_time(self) -> None:
        self._event = None
        stage, self.stage = self.stage, ""
        try:
            self.proceed(stage)
        except BlockError as error:
            self.faults[error.reason] += 1
            self.medium_failed(stage, error)

    @abstractmethod
    def proceed(self, stage: str) -> None:
        """The time of `stage` has passed. May raise BlockError."""

    @abstractmethod
    def medium_failed(self, stage: str, error: BlockError) -> None:
        """The back end has refused what `stage` asked of it."""

    @abstractmethod
    def execute(self, command: int) -> None:
        """The command register was written."""

    # Ends of commands

    def set_irq(self, level: bool) -> None:
        """INTRQ."""
        if level != self.irq:
            self.irq = level
            self.on_irq()

    def done(self) -> None:
        """The command has ended well."""
        self.status = ata.READY
        self.stage = ""
        self.wants_dma = False
        self.set_irq(True)

    def fail(self, error: int, status: int = ata.ERR) -> None:
        """The command has ended with an error."""
        self.error = error
        self.status = ata.READY | status
        self.stage = ""
        self.wants_dma = False
        self.set_irq(True)

    def abort(self, why: str) -> None:
        """A command that the drive does not take."""
        self.faults[why] += 1
        self.fail(ata.ABRT)

    # The data port

    def offer(self, data: bytes | bytearray, stage: str) -> None:
        """Let the host read `data`; `drained(stage)` when it has."""
        self.buffer = bytearray(data)
        self.position = 0
        self.stage = stage
        self.status = ata.READY | ata.DRQ
        self.set_irq(True)

    def demand(self, length: int, stage: str, interrupt: bool) -> None:
        """Let the host write `length` bytes; `filled(stage)` when it has."""
        self.buffer = bytearray(length)
        self.position = 0
        self.stage = stage
        self.status = ata.READY | ata.DRQ
        if interrupt:
            self.set_irq(True)

    @abstractmethod
    def is_outgoing(self) -> bool:
        """Whether the data phase, if there is one, is one in which the host reads."""

    @abstractmethod
    def drained(self, stage: str) -> None:
        """The host has read what was offered."""

    @abstractmethod
    def filled(self, stage: str) -> None:
        """The host has written what was demanded."""

    def read_data(self, width: int) -> int:
        """`width` bytes from the data port; all ones when there is nothing to read."""
        if not self.status & ata.DRQ or self.wants_dma or not self.is_outgoing():
            self.faults["data port read without data"] += 1
            return (1 << 8 * width) - 1
        position = self.position
        value = int.from_bytes(self.buffer[position : position + width], "little")
        self.position = position = position + width
        if position >= len(self.buffer):
            self.drained(self.stage)
        return value

    def write_data(self, width: int, value: int) -> None:
        """`width` bytes to the data port; dropped when none are wanted."""
        if not self.status & ata.DRQ or self.wants_dma or self.is_outgoing():
            self.faults["data port write without a request"] += 1
            return
        position, buffer = self.position, self.buffer
        end = min(position + width, len(buffer))
        buffer[position:end] = value.to_bytes(width, "little")[: end - position]
        self.position = end
        if end >= len(buffer):
            self.filled(self.stage)

    def _room(self, width: int) -> int:
        """Elements before the one that ends the data."""
        return max(0, (len(self.buffer) - self.position - 1) // width)

    def read_run(self, width: int, count: int) -> bytes:
        """At most `count` elements, but never the last one, after which the drive goes on."""
        if not self.status & ata.DRQ or self.wants_dma or not self.is_outgoing():
            return b""
        position, length = self.position, width * min(count, self._room(width))
        self.position += length
        return bytes(self.buffer[position : position + length])

    def write_run(self, width: int, data: bytes) -> int:
        """The same for elements that the host writes."""
        if not self.status & ata.DRQ or self.wants_dma or self.is_outgoing():
            return 0
        taken = min(len(data) // width, self._room(width))
        position, length = self.position, width * taken
        self.buffer[position : position + length] = data[:length]
        self.position += length
        return taken

    # DMA

    def offer_dma(self, data: bytes | bytearray, stage: str) -> None:
        """Have the controller move `data` into memory; `dma_done(stage)` follows."""
        self._request_dma(bytearray(data), stage, True)

    def demand_dma(self, length: int, stage: str) -> None:
        """Have the controller fill a buffer of `length` bytes from memory; `dma_done(stage)` follows."""
        self._request_dma(bytearray(length), stage, False)

    def _request_dma(self, buffer: bytearray, stage: str, to_memory: bool) -> None:
        self.buffer, self.position, self.stage = buffer, 0, stage
        self.dma_to_memory, self.wants_dma = to_memory, True
        self.status = ata.READY | ata.DRQ
        self.on_dma()

    @abstractmethod
    def dma_done(self) -> None:
        """The controller has moved the whole buffer."""

    # Registers

    def write_register(self, offset: int, value: int) -> None:
        """A register of the command block besides data and command."""
        if offset == ata.ERROR_FEATURES:
            self.features = self.features << 8 & 0xFF00 | value
        elif offset == ata.COUNT:
            self.count = self.count << 8 & 0xFF00 | value
        elif offset == ata.LBA_LOW:
            self.lba_low = self.lba_low << 8 & 0xFF00 | value
        elif offset == ata.LBA_MID:
            self.lba_mid = self.lba_mid << 8 & 0xFF00 | value
        elif offset == ata.LBA_HIGH:
            self.lba_high = self.lba_high << 8 & 0xFF00 | value
        elif offset == ata.DEVICE:
            self.device = value

    def read_register(self, offset: int, high: bool) -> int:
        """A register of the command block besides data and status; `high`: the byte written before the last (HOB)."""
        if offset == ata.ERROR_FEATURES:
            return self.error
        if offset == ata.DEVICE:
            return self.device | ata.OBSOLETE
        value = (self.count, self.lba_low, self.lba_mid, self.lba_high)[offset - ata.COUNT]
        return value >> 8 if high else value & 0xFF

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The registers, the buffer and what is to come; the medium is not in it."""
        return {**super().snapshot(), "waiting": self._event is not None}

    NESTED: ClassVar[tuple[str, ...]] = ("waiting",)

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back and wait on."""
        super().restore(snapshot)
        self._cancel()
        if snapshot["waiting"]:
            self._event = self._clock.schedule(self.due, self._on_time)
