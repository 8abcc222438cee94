"""The receive ring: frames come in at the wire's pace, wait in the packet buffer, and fill the guest's buffers.

Source: SDM 3.2 (descriptors, buffers, checksums), 3.2.7 (interrupts), 13.4.22 to 13.4.32.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from trapgate.devices.e1000 import registers as reg
from trapgate.devices.e1000 import statistics as count_of
from trapgate.devices.e1000.checksums import check, ones_sum
from trapgate.devices.e1000.filters import Filters
from trapgate.devices.e1000.interrupts import Delay
from trapgate.devices.e1000.statistics import Statistics
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import PlainState, Snapshot
from trapgate.machine.network import HEADER, LONGEST, SHORTEST
from trapgate.machine.ram import Ram

DESCRIPTOR = 16
# Status and errors (tables 3-2 and 3-4).
DD, EOP, IXSM, VP, TCPCS, IPCS, PIF = 1, 2, 4, 8, 0x20, 0x40, 0x80
TCPE, IPE, RXE = 0x20, 0x40, 0x80
FCS = 4
#: Bytes with the FCS of the longest packet without LPE, and of a tagged one (13.4.22).
LONGEST_USUAL, TAG = 1518, 4
BUFFER_SIZES = (2048, 1024, 512, 256)
#: With BSEX; 0 is reserved.
LARGE_BUFFER_SIZES = (2048, 16384, 8192, 4096)


class Receiver(PlainState):
    """`registers` are the card's; `wire_cycles(bytes)` is what a frame takes."""

    STATE: ClassVar[tuple[str, ...]] = ("coming", "waiting", "held", "wire_free", "is_short", "stopped")
    NESTED: ClassVar[tuple[str, ...]] = ("delay",)

    def __init__(
        self, memory: Ram, clock: Clock, registers: dict[int, int], statistics: Statistics, faults: Counter[str],
        is_allowed: Callable[[], bool], wire_cycles: Callable[[int], int], interrupt: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.name = "e1000-receive"
        self._memory, self._clock, self._registers = memory, clock, registers
        self._statistics, self._faults = statistics, faults
        self._is_allowed, self._wire_cycles, self._interrupt = is_allowed, wire_cycles, interrupt
        self.filters = Filters(registers)
        self._event: Event | None = None
        self.delay = Delay(clock, lambda: interrupt(reg.RXT0))
        self._clear()

    def _clear(self) -> None:
        #: Frames on the wire, [cycle of arrival, frame]; frames in the packet buffer; bytes of both.
        self.coming: list[list[int | bytes]] = []
        self.waiting: list[bytes] = []
        self.held = 0
        #: From which cycle on the wire is free.
        self.wire_free = 0
        #: Whether the first frame that waits was counted as one without a descriptor.
        self.is_short = False
        #: The ring was wrong: nothing moves until the tail is written.
        self.stopped = False

    def reset(self) -> None:
        """What has come and not been taken is lost."""
        self._cancel()
        self.delay.stop()
        self.filters.forget()
        self._clear()

    def _cancel(self) -> None:
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None

    # From the wire

    @property
    def is_enabled(self) -> bool:
        """Whether the driver wants packets."""
        return bool(self._registers[reg.RCTL] & reg.RCTL_EN)

    @property
    def has_room(self) -> bool:
        """Whether the longest frame would fit into the share of the packet buffer that PBA gives to receiving."""
        return self.held + LONGEST <= (self._registers[reg.PBA] & 0xFFFF) << 10

    def take(self, frame: bytes, from_wire: bool = True) -> None:
        """A frame: from the network, after what is already on the wire, or from the card's own loop."""
        if not self.is_enabled:
            return
        if len(frame) < HEADER or len(frame) > LONGEST:
            self._statistics.add(count_of.RLEC)
            return
        frame = frame.ljust(SHORTEST, b"\0")
        if self.held + len(frame) > (self._registers[reg.PBA] & 0xFFFF) << 10:
            self._statistics.add(count_of.MPC)
            self._interrupt(reg.RXO)
            return
        self.held += len(frame)
        now = self._clock.now
        if from_wire:
            self.wire_free = max(now, self.wire_free) + self._wire_cycles(len(frame))
            self.coming.append([self.wire_free, frame])
            if self._event is None:
                self._event = self._clock.schedule(self.wire_free, self._arrive)
        else:
            self._filter(frame)

    def _arrive(self) -> None:
        """The first frame on the wire is here."""
        self._event = None
        frame = self.coming.pop(0)[1]
        assert isinstance(frame, bytes)
        if self.coming:
            arrival = self.coming[0][0]
            assert isinstance(arrival, int)
            self._event = self._clock.schedule(arrival, self._arrive)
        self._filter(frame)

    def unplug(self) -> None:
        """The link is lost, with what was on the wire."""
        self._cancel()
        self.held -= sum(len(frame) for _, frame in self.coming if isinstance(frame, bytes))
        self.coming = []

    def _filter(self, frame: bytes) -> None:
        self._statistics.on_wire(frame)
        control, tag = self._registers[reg.RCTL], self.filters.tag(frame)
        longest = LONGEST if control & reg.RCTL_LPE else LONGEST_USUAL - FCS + (0 if tag is None else TAG)
        if not self.filters.takes(frame, tag):
            self.held -= len(frame)
        elif len(frame) > longest:
            self._statistics.add(count_of.ROC)
            self.held -= len(frame)
        else:
            self._statistics.received(frame)
            self.waiting.append(frame)
            self.run()

    # To the guest

    def kick(self) -> None:
        """The tail was written."""
        self.stopped = False
        self.run()

    def run(self) -> None:
        """Move packets into the guest's buffers, as far as there are any."""
        while self.waiting and not self.stopped and self.is_enabled and self._is_allowed():
            registers = self._registers
            count = registers[reg.RDLEN] // DESCRIPTOR
            if registers[reg.RDH] == registers[reg.RDT] or not count:
                self._lack()
                return
            if registers[reg.RDH] >= count or registers[reg.RDT] >= count:
                self._stop("receive head or tail outside the ring")
                return
            if not self._store(self.waiting[0], count):
                return
            self.held -= len(self.waiting.pop(0))
            self.is_short = False

    def _stop(self, why: str) -> None:
        self._faults[why] += 1
        self.stopped = True

    def _lack(self) -> None:
        """A packet waits for descriptors; it is counted once (RNBC, 13.7.36)."""
        if not self.is_short:
            self.is_short = True
            self._statistics.add(count_of.RNBC)

    @property
    def _buffer_size(self) -> int:
        control = self._registers[reg.RCTL]
        sizes = LARGE_BUFFER_SIZES if control & reg.RCTL_BSEX else BUFFER_SIZES
        return sizes[control >> reg.RCTL_BSIZE_SHIFT & 3]

    def _store(self, frame: bytes, count: int) -> bool:
        """Put a packet into as many buffers as it takes. False when it has to wait, or the ring is wrong."""
        registers, memory, size = self._registers, self._memory, self._buffer_size
        base = registers[reg.RDBAH] << 32 | registers[reg.RDBAL]
        data, fields = self._contents(frame)
        head, tail = registers[reg.RDH], registers[reg.RDT]
        places: list[tuple[int, int]] = []
        left = len(data)
        while left > 0:
            if head == tail:
                if left and len(places) >= count - 1:
                    self._faults["packet longer than the whole ring"] += 1
                    return True  # it is dropped: it would wait for ever
                self._lack()
                return False
            descriptor = base + DESCRIPTOR * head
            if not memory.is_ram(descriptor, DESCRIPTOR):
                self._stop("receive ring outside memory")
                return False
            buffer = memory.read_u64(descriptor)
            places.append((descriptor, buffer))
            left -= size if buffer else 0  # null descriptors take nothing (3.2.6)
            head = (head + 1) % count
        self._write(places, data, size, fields)
        before = (tail - registers[reg.RDH]) % count
        registers[reg.RDH] = head
        self._tell(len(data), before, (tail - head) % count, count)
        return True

    def _write(self, places: list[tuple[int, int]], data: bytes, size: int, fields: tuple[int, int, int, int]) -> None:
        memory, status, checksum, errors, special = self._memory, *fields
        position = 0
        for descriptor, buffer in places:
            if not buffer:
                memory.write_u8(descriptor + 12, memory.read_u8(descriptor + 12) | DD)
                continue
            piece = data[position : position + size]
            position += size
            if memory.is_ram(buffer, len(piece)):
                memory.write(buffer, piece)
            else:
                self._faults["receive buffer outside memory"] += 1
                errors |= RXE
            state = DD | EOP | status if position >= len(data) else DD
            memory.write(descriptor + 8, struct.pack("<HHBBH", len(piece), checksum, state, errors, special))

    def _contents(self, frame: bytes) -> tuple[bytes, tuple[int, int, int, int]]:
        """What is stored of a frame, and status, packet checksum, errors and special of its last descriptor."""
        registers = self._registers
        control, tag = registers[reg.RXCSUM], self.filters.tag(frame)
        status = PIF if self.filters.is_inexact(frame) else 0
        errors = special = 0
        checksum = ones_sum(memoryview(frame)[control & reg.PCSS :])
        if control & (reg.IPOFL | reg.TUOFL):
            found = check(frame)
            if control & reg.IPOFL and found.ip is not None:
                status |= IPCS
                errors |= 0 if found.ip else IPE
            if control & reg.TUOFL and found.transport is not None:
                status |= TCPCS
                errors |= 0 if found.transport else TCPE
        if not status & (IPCS | TCPCS):
            status |= IXSM
        data = frame if registers[reg.RCTL] & reg.RCTL_SECRC else frame + zlib.crc32(frame).to_bytes(4, "little")
        if tag is not None and registers[reg.CTRL] & reg.CTRL_VME:
            data, special = data[:12] + data[16:], tag
            status |= VP
        # The field holds the sum's bytes as they would stand in the packet.
        return data, (status, int.from_bytes(checksum.to_bytes(2, "big"), "little"), errors, special)

    def _tell(self, length: int, before: int, free: int, count: int) -> None:
        """Interrupt for a packet: at once or after RDTR and RADV; for few descriptors; for a small packet."""
        registers = self._registers
        threshold = count >> 1 + (registers[reg.RCTL] >> reg.RCTL_RDMTS_SHIFT & 3)
        if before > threshold >= free:
            self._interrupt(reg.RXDMT0)
        if length <= registers[reg.RSRPD]:
            self._interrupt(reg.SRPD)
        if not registers[reg.RDTR]:
            self._interrupt(reg.RXT0)
            return
        self.delay.start(registers[reg.RDTR], registers[reg.RADV])

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The ring's state and its timers."""
        return {**super().snapshot(), "delay": self.delay.snapshot()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back and wait on."""
        super().restore(snapshot)
        self.delay.restore(snapshot["delay"])
        self.filters.forget()
        self._cancel()
        if self.coming:
            arrival = self.coming[0][0]
            assert isinstance(arrival, int)
            self._event = self._clock.schedule(arrival, self._arrive)
