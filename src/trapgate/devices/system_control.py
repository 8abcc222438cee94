"""System control ports: 61h (timer gate, speaker, refresh, parity), 92h (fast A20 and reset), CF9h (reset control).

Sources: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A" and "System Control Port B"; Intel
82371SB (PIIX3) data sheet, sections 4.2.7 (NSC) and 4.1.10 (reset control register).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from trapgate.devices.pit8254 import Pit8254
from trapgate.machine.control import Reset, RunControl
from trapgate.machine.device import PlainState

# Port 61h.
GATE2 = 0x01
SPEAKER_DATA = 0x02
PORT_B_WRITABLE = 0x0F
REFRESH_TOGGLE = 0x10
OUTPUT2 = 0x20
SPEAKER_CHANNEL = 2
#: Timer ticks between two refresh requests: channel 1's count since the IBM PC, about 15 us.
REFRESH_TICKS = 18

# Port 92h.
FAST_RESET = 0x01
FAST_A20 = 0x02

# Port CF9h.
RESET_SYSTEM = 0x02
RESET_CPU = 0x04


class A20Gate(PlainState):
    """Address line 20: port 92h and the keyboard controller both set it, and the last one wins."""

    __slots__ = ("enabled", "name", "set_pin")

    STATE: ClassVar[tuple[str, ...]] = ("enabled",)

    def __init__(self, set_pin: Callable[[bool], None]) -> None:
        """`set_pin` drives the processor's A20M#."""
        self.name = "a20"
        self.set_pin = set_pin
        self.enabled = True

    def reset(self) -> None:
        """Enabled, as firmware leaves it."""
        self.set(True)

    def set(self, enabled: bool) -> None:
        """Enable or mask address line 20."""
        if enabled != self.enabled:
            self.enabled = enabled
            self.set_pin(enabled)

    def after_restore(self) -> None:
        """Drive the pin again."""
        self.set_pin(self.enabled)


class SystemPortB(PlainState):
    """Port 61h."""

    __slots__ = ("name", "pit", "port_width", "value")

    STATE: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self, pit: Pit8254) -> None:
        self.name = "port61"
        self.port_width = 1
        self.pit = pit
        self.value = 0

    def reset(self) -> None:
        """Gate 2 closed, the speaker silent."""
        self.value = 0
        self.pit.set_gate(False)

    def read_port(self, offset: int, width: int) -> int:
        """What was written, the refresh toggle and channel 2's output; no parity or channel check ever happens."""
        pit = self.pit
        tick = pit.ticks()
        value = self.value
        if tick // REFRESH_TICKS & 1:
            value |= REFRESH_TOGGLE
        if pit.channels[SPEAKER_CHANNEL].output(tick):
            value |= OUTPUT2
        return value

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Set the gate of timer channel 2, the speaker's data bit and the NMI enables."""
        self.value = value & PORT_B_WRITABLE
        self.pit.set_gate(bool(value & GATE2))


class SystemPortA(PlainState):
    """Port 92h."""

    __slots__ = ("a20", "name", "port_width", "request_reset", "value")

    STATE: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self, a20: A20Gate, request_reset: Callable[[], None]) -> None:
        """`request_reset` resets the processor alone (INIT#)."""
        self.name = "port92"
        self.port_width = 1
        self.a20 = a20
        self.request_reset = request_reset
        self.value = 0

    def reset(self) -> None:
        """No reset is asked for; the A20 gate resets itself."""
        self.value = 0

    def read_port(self, offset: int, width: int) -> int:
        """The reset bit as written, and the state of address line 20."""
        return self.value | (FAST_A20 if self.a20.enabled else 0)

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Set address line 20; a reset bit that goes from 0 to 1 resets the processor."""
        rises = value & FAST_RESET and not self.value & FAST_RESET
        self.value = value & ~FAST_A20
        self.a20.set(bool(value & FAST_A20))
        if rises:
            self.request_reset()


class ResetControl(PlainState):
    """Port CF9h: ends the run with Reset when RESET_CPU goes from 0 to 1."""

    __slots__ = ("control", "name", "port_width", "value")

    STATE: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self, control: RunControl) -> None:
        self.name = "reset"
        self.port_width = 1
        self.control = control
        self.value = 0

    def reset(self) -> None:
        """No reset is asked for."""
        self.value = 0

    def read_port(self, offset: int, width: int) -> int:
        """The type of reset that was last chosen."""
        return self.value

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Choose the type of reset (bit 1) and ask for it (bit 2)."""
        rises = value & RESET_CPU and not self.value & RESET_CPU
        self.value = value & (RESET_SYSTEM | RESET_CPU)
        if rises:
            self.control.stop(Reset())
