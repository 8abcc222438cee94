"""The interval timer: an Intel 8254 with three channels, clocked at 1.193182 MHz.

Nothing ticks here: a channel knows the tick at which its count was loaded, and everything else is arithmetic on the
clock. Only channel 0's output schedules events, at the ticks at which it changes.

Source: Intel 8254 data sheet (order 231164-005): "Control Word Format", "Read-Back Command", "Mode Definitions".
"""

from __future__ import annotations

from trapgate.devices.pit_channel import PitChannel
from trapgate.machine.clock import Clock, Event, TickSource
from trapgate.machine.device import IrqLine, Snapshot

#: Hz: the colour-burst crystal of 14.31818 MHz divided by 12.
FREQUENCY = 1_193_182

CONTROL = 3
SELECT_READ_BACK = 3
READ_BACK_NO_COUNT = 0x20
READ_BACK_NO_STATUS = 0x10


class Pit8254:
    """Ports `offset` 0 to 2 are the channels, 3 the control word."""

    __slots__ = ("_event", "_event_tick", "_output", "_source", "channels", "name", "port_width", "set_irq")

    def __init__(self, clock: Clock, set_irq: IrqLine) -> None:
        """`set_irq` is channel 0's output (IRQ 0). Gates 0 and 1 are tied high, gate 2 comes by `set_gate`."""
        self.name = "pit"
        self.port_width = 1
        self.set_irq = set_irq
        self._source = TickSource(clock, FREQUENCY)
        self.channels = (PitChannel(True), PitChannel(True), PitChannel(False))
        self._event: Event | None = None
        self._event_tick = 0
        self._output = False

    def reset(self) -> None:
        """The chip has no reset input; this is the state in which a PC's firmware leaves it.

        Channel 0 is the 18.2 Hz tick (mode 3, count 65536), channel 1 requests memory refresh (mode 2, count 18),
        channel 2 is the silent speaker (mode 3).
        """
        tick = self._source.ticks()
        for channel, mode, count in zip(self.channels, (3, 2, 3), (0, 18, 0x533), strict=True):
            channel.reset(tick)
            channel.write_control(0x30 | mode << 1, tick)
            channel.write(count & 0xFF, tick)
            channel.write(count >> 8, tick)
        self._follow_output(tick)

    # Channel 0's output

    def _follow_output(self, tick: int) -> None:
        """Drive IRQ 0 as of `tick` and schedule the output's next change."""
        clock = self._source.clock
        if self._event is not None:
            clock.cancel(self._event)
            self._event = None
        channel = self.channels[0]
        level = channel.output(tick)
        if level != self._output:
            self._output = level
            self.set_irq(level)
        change = channel.next_change(tick)
        if change is not None:
            self._event_tick = change
            self._event = clock.schedule(self._source.cycle_of(change), self._on_change)

    def _on_change(self) -> None:
        # The event's own tick, not now's: no pulse is lost when events run late.
        self._event = None
        self._follow_output(self._event_tick)

    # The gate and output of the speaker's channel (port 61h)

    def set_gate(self, level: bool) -> None:
        """Drive gate 2."""
        self.channels[2].set_gate(level, self._source.ticks())

    def output(self, index: int) -> bool:
        """The level of output `index` now."""
        return self.channels[index].output(self._source.ticks())

    def ticks(self) -> int:
        """Ticks of the timer's crystal since cycle 0."""
        return self._source.ticks()

    # Access

    def read_port(self, offset: int, width: int) -> int:
        """The count (or what was latched) of channel `offset`; the control word cannot be read."""
        if offset == CONTROL:
            return 0xFF
        return self.channels[offset].read(self._source.ticks())

    def write_port(self, offset: int, width: int, value: int) -> None:
        """A byte of a count, a control word, or a read-back command."""
        tick = self._source.ticks()
        # An event that is late must drive its edge before the guest changes the channel.
        while self._event is not None and self._event_tick <= tick:
            self._source.clock.cancel(self._event)
            self._on_change()
        if offset != CONTROL:
            self.channels[offset].write(value, tick)
            index = offset
        else:
            index = value >> 6
            if index == SELECT_READ_BACK:
                self._read_back(value, tick)
                return
            self.channels[index].write_control(value & 0x3F, tick)
        if index == 0:
            self._follow_output(tick)

    def _read_back(self, value: int, tick: int) -> None:
        for index, channel in enumerate(self.channels):
            if value >> (index + 1) & 1:
                if not value & READ_BACK_NO_COUNT:
                    channel.latch_count(tick)
                if not value & READ_BACK_NO_STATUS:
                    channel.latch_status(tick)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The channels, and the output's level with the tick of its next change."""
        return {
            "channels": [channel.snapshot() for channel in self.channels],
            "event_tick": self._event_tick if self._event is not None else None,
            "output": self._output,
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Put back the channels and schedule the output's next change; the line itself is the PIC's to restore."""
        for channel, state in zip(self.channels, snapshot["channels"], strict=True):
            channel.restore(state)
        clock = self._source.clock
        if self._event is not None:
            clock.cancel(self._event)
            self._event = None
        self._output = snapshot["output"]
        if snapshot["event_tick"] is not None:
            self._event_tick = snapshot["event_tick"]
            self._event = clock.schedule(self._source.cycle_of(self._event_tick), self._on_change)
