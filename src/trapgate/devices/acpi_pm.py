"""ACPI's fixed hardware: the PM1a event and control blocks and the power management timer.

The machine is in ACPI mode from the start: SCI_EN reads 1 and there is no SMI command port.

Source: ACPI Specification 6.5, section 4.8, "ACPI Register Model".
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.clock import Clock, Event, TickSource
from trapgate.machine.control import PowerOff, RunControl
from trapgate.machine.device import IrqLine, PlainState

# Where the registers are; the FADT names these ports.
PM1A_EVENT = 0x600
PM1A_EVENT_LENGTH = 4
PM1A_CONTROL = 0x604
PM1A_CONTROL_LENGTH = 2
PM_TIMER = 0x608
PM_TIMER_LENGTH = 4
SCI_IRQ = 9
#: SLP_TYPa of S5 ("soft off"), as the DSDT's _S5 object gives it.
SLEEP_TYPE_S5 = 5

#: Hz (section 4.8.3.3).
TIMER_FREQUENCY = 3_579_545
TIMER_BITS = 24
TIMER_MASK = (1 << TIMER_BITS) - 1
#: TMR_STS is set whenever the timer's top bit changes.
TIMER_HALF = 1 << (TIMER_BITS - 1)

# PM1 status and enable (tables 4.13 and 4.14).
TIMER_STATUS = 1 << 0
GLOBAL_STATUS = 1 << 5
POWER_BUTTON = 1 << 8
SLEEP_BUTTON = 1 << 9
RTC_ALARM = 1 << 10
WAKE_STATUS = 1 << 15
ENABLE_WRITABLE = TIMER_STATUS | GLOBAL_STATUS | POWER_BUTTON | SLEEP_BUTTON | RTC_ALARM

# PM1 control (table 4.15).
SCI_ENABLE = 1 << 0
BUS_MASTER_RELOAD = 1 << 1
SLEEP_TYPE_SHIFT = 10
SLEEP_TYPE_MASK = 7 << SLEEP_TYPE_SHIFT
SLEEP_ENABLE = 1 << 13
CONTROL_WRITABLE = BUS_MASTER_RELOAD | SLEEP_TYPE_MASK


class AcpiPm(PlainState):
    """The event block: ports `offset` 0 to 3 (status, enable). `control` and `timer` are mapped beside it."""

    __slots__ = (
        "_event",
        "_timer",
        "checked",
        "control_value",
        "enable",
        "line",
        "name",
        "port_width",
        "run_control",
        "set_sci",
        "status",
    )

    STATE: ClassVar[tuple[str, ...]] = ("checked", "control_value", "enable", "line", "status")

    def __init__(self, clock: Clock, set_sci: IrqLine, run_control: RunControl) -> None:
        """`set_sci` is the system control interrupt, level-triggered."""
        self.name = "acpi"
        self.port_width = 1
        self.set_sci = set_sci
        self.run_control = run_control
        self._timer = TickSource(clock, TIMER_FREQUENCY)
        self._event: Event | None = None
        self.line = False
        #: The timer's half-periods that have been turned into TMR_STS.
        self.checked = 0
        self.reset()

    def reset(self) -> None:
        """Nothing pending, nothing enabled, ACPI mode."""
        self.status = 0
        self.enable = 0
        self.control_value = SCI_ENABLE
        self.checked = self._timer.ticks() // TIMER_HALF
        self._update()

    # Interrupts

    def _collect(self) -> None:
        halves = self._timer.ticks() // TIMER_HALF
        if halves > self.checked:
            self.checked = halves
            self.status |= TIMER_STATUS

    def _update(self) -> None:
        self._schedule()
        level = bool(self.status & self.enable)
        if level != self.line:
            self.line = level
            self.set_sci(level)

    def _schedule(self) -> None:
        clock = self._timer.clock
        if self._event is not None:
            clock.cancel(self._event)
            self._event = None
        if self.enable & ~self.status & TIMER_STATUS:
            self._event = clock.schedule(self._timer.cycle_of((self.checked + 1) * TIMER_HALF), self._on_timer)

    def _on_timer(self) -> None:
        self._event = None
        self._collect()
        self._update()

    def press_power_button(self) -> None:
        """Signal the power button, to which the guest's ACPI driver listens."""
        self.status |= POWER_BUTTON
        self._update()

    # Access

    def read_port(self, offset: int, width: int) -> int:
        """A byte of PM1_STS (0, 1) or PM1_EN (2, 3)."""
        if offset < 2:
            self._collect()
            return self.status >> 8 * offset & 0xFF
        return self.enable >> 8 * (offset - 2) & 0xFF

    def write_port(self, offset: int, width: int, value: int) -> None:
        """PM1_STS: ones clear; PM1_EN: stored."""
        self._collect()
        if offset < 2:
            self.status &= ~(value << 8 * offset)
        else:
            shift = 8 * (offset - 2)
            self.enable = (self.enable & ~(0xFF << shift) | value << shift) & ENABLE_WRITABLE
        self._update()

    def read_control(self, offset: int) -> int:
        """A byte of PM1_CNT."""
        return self.control_value >> 8 * offset & 0xFF

    def write_control(self, offset: int, value: int) -> None:
        """A byte of PM1_CNT. SLP_EN with S5's type turns the machine off; other sleep types do not exist here."""
        shift = 8 * offset
        written = value << shift
        self.control_value = (self.control_value & ~(0xFF << shift) | written) & CONTROL_WRITABLE | SCI_ENABLE
        sleep_type = (self.control_value & SLEEP_TYPE_MASK) >> SLEEP_TYPE_SHIFT
        if written & SLEEP_ENABLE and sleep_type == SLEEP_TYPE_S5:
            self.run_control.stop(PowerOff())

    def read_timer(self) -> int:
        """The 24-bit power management timer."""
        return self._timer.ticks() & TIMER_MASK

    def after_restore(self) -> None:
        """Schedule the next timer overflow; the line itself is the PIC's to restore."""
        self._schedule()


class AcpiControl:
    """The PM1a control block: ports `offset` 0 and 1."""

    __slots__ = ("name", "pm", "port_width")

    def __init__(self, pm: AcpiPm) -> None:
        self.name = "acpi"
        self.port_width = 1
        self.pm = pm

    def reset(self) -> None:
        """The register is part of AcpiPm, which resets it."""

    def read_port(self, offset: int, width: int) -> int:
        """A byte of PM1_CNT."""
        return self.pm.read_control(offset)

    def write_port(self, offset: int, width: int, value: int) -> None:
        """A byte of PM1_CNT."""
        self.pm.write_control(offset, value)


class AcpiTimer:
    """The power management timer: ports `offset` 0 to 3, read-only."""

    __slots__ = ("name", "pm", "port_width")

    def __init__(self, pm: AcpiPm) -> None:
        self.name = "acpi-timer"
        self.port_width = 4
        self.pm = pm

    def reset(self) -> None:
        """The timer runs on."""

    def read_port(self, offset: int, width: int) -> int:
        """The timer, or bytes of it."""
        if width == 4 and offset == 0:
            return self.pm.read_timer()
        return self.pm.read_timer() >> 8 * offset & (1 << 8 * width) - 1

    def write_port(self, offset: int, width: int, value: int) -> None:
        """The timer cannot be written."""
