"""The transmit ring: descriptors become packets, which take their time on the wire one after the other.

A descriptor that asks for a report has it when its packet is on the wire as a whole.

Source: SDM 3.3 (descriptors), 3.4 (ring and interrupts).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from trapgate.devices.e1000 import offload
from trapgate.devices.e1000 import registers as reg
from trapgate.devices.e1000.checksums import insert
from trapgate.devices.e1000.interrupts import Delay
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import PlainState, Snapshot
from trapgate.machine.network import HEADER, LONGEST, SHORTEST
from trapgate.machine.ram import Ram

DESCRIPTOR = 16
# CMD, DCMD and TUCMD (tables 3-10, 3-17).
EOP, IFCS, IC, TSE, RS, DEXT, VLE, IDE = 1, 2, 4, 4, 8, 0x20, 0x40, 0x80
CONTEXT_TYPE, DATA_TYPE = 0, 1
DONE, STATUS_BYTE = 1, 12
FCS = 4
#: Bytes of a packet: of one that is sent as it is (3.3.2), of one that is cut into segments (20 bits of PAYLEN).
LARGEST_PACKET, LARGEST_SEGMENTED = 16288, 1 << 18


class Transmitter(PlainState):
    """`registers` are the card's; `wire_cycles(bytes)` is what a frame takes; `send(frame)` puts it onto the link."""

    STATE: ClassVar[tuple[str, ...]] = (
        "contexts", "packet", "is_first", "is_too_long", "first", "frames", "reports", "due", "stopped",
    )  # fmt: skip
    NESTED: ClassVar[tuple[str, ...]] = ("delay",)

    def __init__(
        self, memory: Ram, clock: Clock, registers: dict[int, int], faults: Counter[str],
        is_allowed: Callable[[], bool], wire_cycles: Callable[[int], int], send: Callable[[bytes], None],
        interrupt: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.name = "e1000-transmit"
        self._memory, self._clock, self._registers, self._faults = memory, clock, registers, faults
        self._is_allowed, self._wire_cycles, self._send, self._interrupt = is_allowed, wire_cycles, send, interrupt
        self._event: Event | None = None
        self.delay = Delay(clock, lambda: interrupt(reg.TXDW))
        self._clear()

    def _clear(self) -> None:
        #: The context for checksums and the one for segmentation, as their two quad words.
        self.contexts = [[0, 0], [0, 0]]
        #: What has been gathered of a packet; its first descriptor's upper quad word.
        self.packet = bytearray()
        self.is_first, self.is_too_long = True, False
        self.first = 0
        #: What is on the wire: frames; descriptors to be reported ([address, command]); when it will be done, or -1.
        self.frames: list[bytes] = []
        self.reports: list[list[int]] = []
        self.due = -1
        #: The ring was wrong: nothing moves until the tail is written.
        self.stopped = False

    def reset(self) -> None:
        """Nothing is sent."""
        self._cancel()
        self.delay.stop()
        self._clear()

    def _cancel(self) -> None:
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None

    # The ring

    def kick(self) -> None:
        """The tail was written."""
        self.stopped = False
        self.run()

    def run(self) -> None:
        """Take descriptors until a packet is on the wire, or the ring is empty."""
        registers = self._registers
        while self.due < 0 and not self.stopped and registers[reg.TCTL] & reg.TCTL_EN and self._is_allowed():
            head, tail = registers[reg.TDH], registers[reg.TDT]
            if head == tail:
                return
            count = registers[reg.TDLEN] // DESCRIPTOR
            address = (registers[reg.TDBAH] << 32 | registers[reg.TDBAL]) + DESCRIPTOR * head
            if head >= count or tail >= count:
                self._stop("transmit head or tail outside the ring")
            elif not self._memory.is_ram(address, DESCRIPTOR):
                self._stop("transmit ring outside memory")
            else:
                low, high = struct.unpack("<QQ", self._memory.read(address, DESCRIPTOR))
                registers[reg.TDH] = head = (head + 1) % count
                threshold = 8 * (registers[reg.TXDCTL] >> 25)
                if threshold and (tail - head) % count == threshold:
                    self._interrupt(reg.TXD_LOW)
                self._take(address, low, high)

    def _stop(self, why: str) -> None:
        self._faults[why] += 1
        self.stopped = True

    def _take(self, address: int, low: int, high: int) -> None:
        """One descriptor."""
        command = high >> 24 & 0xFF
        kind = high >> 20 & 0xF
        if command & RS:
            self.reports.append([address, command])
        if command & DEXT and kind == CONTEXT_TYPE:
            self.contexts[bool(command & TSE)] = [low, high]
            if self.is_first:
                self._report()
            return
        if command & DEXT and kind != DATA_TYPE:
            self._faults[f"transmit descriptor of type {kind}"] += 1
            return
        if self.is_first:
            self.first, self.is_first = high, False
        self._gather(low, high & (0xF_FFFF if command & DEXT else 0xFFFF))
        if command & EOP:
            self._finish(high)

    def _gather(self, address: int, length: int) -> None:
        is_segmented = self.first >> 24 & DEXT and self.first >> 24 & TSE
        if len(self.packet) + length > (LARGEST_SEGMENTED if is_segmented else LARGEST_PACKET):
            self.is_too_long = True
        elif length and not self._memory.is_ram(address, length):
            self._faults["transmit buffer outside memory"] += 1
            self.is_too_long = True
        elif length:
            self.packet += self._memory.read(address, length)

    def _finish(self, last: int) -> None:
        """The packet is whole: put it on the wire."""
        packet, self.packet = self.packet, bytearray()
        too_long, self.is_first, self.is_too_long = self.is_too_long, True, False
        frames: list[bytes] = []
        if too_long:
            self._faults["packet that cannot be sent"] += 1
        else:
            try:
                frames = self._frames(packet, last)
            except offload.CannotSegment as error:
                self._faults[error.reason] += 1
        self.frames = [frame for frame in frames if self._fits(frame)]
        self.due = self._clock.now + sum(self._wire_cycles(len(frame)) for frame in self.frames)
        self._event = self._clock.schedule(self.due, self._sent)

    def _fits(self, frame: bytes) -> bool:
        if HEADER <= len(frame) <= LONGEST:
            return True
        self._faults["frame of a bad length"] += 1
        return False

    def _frames(self, packet: bytearray, last: int) -> list[bytes]:
        """What goes out for a packet. VLE, IFCS and the tag are those of the last descriptor, of the first with TSE;
        POPTS of the first (3.3.7)."""
        first = self.first
        if not first >> 24 & DEXT:
            if last >> 24 & IC:
                insert(packet, last >> 40 & 0xFF, last >> 16 & 0xFF, 0)
            return [self._frame(packet, last)]
        options = first >> 40 & 0xFF
        if first >> 24 & TSE:
            context = offload.Context.of(*self.contexts[1])
            return [self._frame(frame, first) for frame in offload.segments(packet, context, options)]
        offload.insert_checksums(packet, offload.Context.of(*self.contexts[0]), options)
        return [self._frame(packet, last)]

    def _frame(self, frame: bytearray, descriptor: int) -> bytes:
        command, registers = descriptor >> 24 & 0xFF, self._registers
        if not command & IFCS:
            del frame[-FCS:]  # software has put the FCS there itself
        if command & VLE and registers[reg.CTRL] & reg.CTRL_VME:
            frame[12:12] = struct.pack(">HH", registers[reg.VET], descriptor >> 48)
        if registers[reg.TCTL] & reg.TCTL_PSP and len(frame) < SHORTEST:
            frame += bytes(SHORTEST - len(frame))
        return bytes(frame)

    def _sent(self) -> None:
        """The wire is free again."""
        self._event, self.due = None, -1
        frames, self.frames = self.frames, []
        for frame in frames:
            self._send(frame)
        self._report()
        if self._registers[reg.TDH] == self._registers[reg.TDT]:
            self._interrupt(reg.TXQE)
        self.run()

    def _report(self) -> None:
        """Write descriptors back, and interrupt: at once, or after the delay where IDE asks for it (3.4.3)."""
        reports, self.reports = self.reports, []
        for address, _ in reports:
            self._memory.write_u8(address + STATUS_BYTE, DONE)
        registers = self._registers
        if any(not command & IDE for _, command in reports) or (reports and not registers[reg.TIDV]):
            self.delay.stop()
            self._interrupt(reg.TXDW)
        elif reports:
            self.delay.start(registers[reg.TIDV], registers[reg.TADV])

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The ring's state and its timers."""
        return {**super().snapshot(), "delay": self.delay.snapshot()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back and wait on."""
        super().restore(snapshot)
        self.delay.restore(snapshot["delay"])
        self._cancel()
        if self.due >= 0:
            self._event = self._clock.schedule(self.due, self._sent)
