"""The card's PHY, like Marvell's 88E1011, with a partner that speaks 10, 100 and 1000 Mb/s; and MDIC before it.

Sources: SDM 13.4.7 (MDIC) and 13.4.7.1 (the PHY's registers); IEEE 802.3, 22.2.4 and 28.2 (registers 0 to 15).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import PlainState

# MDIC (table 13-13).
REGISTER_SHIFT, ADDRESS_SHIFT, OPERATION_SHIFT = 16, 21, 26
WRITE, READ = 1, 2
READY, INTERRUPT, ERROR = 1 << 28, 1 << 29, 1 << 30
ADDRESS = 1

CONTROL, STATUS, IDENTIFIER_1, IDENTIFIER_2, ADVERTISED, PARTNER, EXPANSION = 0, 1, 2, 3, 4, 5, 6
GIGABIT_CONTROL, GIGABIT_STATUS, EXTENDED_STATUS = 9, 10, 15
SPECIFIC_CONTROL, SPECIFIC_STATUS, INTERRUPT_STATUS, EXTENDED_CONTROL = 16, 17, 19, 20

# Control (22.2.4.1).
RESET, LOOPBACK, SPEED_LOW, NEGOTIATE, POWER_DOWN, ISOLATE, RESTART, DUPLEX, SPEED_HIGH = (
    1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11, 1 << 10, 1 << 9, 1 << 8, 1 << 6,
)  # fmt: skip
#: Status: 10 and 100 Mb/s in both duplexes, extended status, preamble suppression, negotiation, extended registers.
ABILITIES, NEGOTIATED, LINK = 0x7949, 1 << 5, 1 << 2
#: What the partner offers: acknowledge, 10 and 100 Mb/s in both duplexes, IEEE 802.3. No PAUSE: none is ever sent.
PARTNER_OFFERS = 0x41E1
#: Both receivers fine, the partner speaks 1000BASE-T in both duplexes.
GIGABIT_FINE = 0x3C00
#: Link, resolved, full duplex; the speed is in bits 14 and 15.
SPECIFIC_LINK, SPEED_SHIFT = 0x2C00, 14

RESET_VALUES = {
    CONTROL: NEGOTIATE | DUPLEX | SPEED_HIGH, IDENTIFIER_1: 0x0141, IDENTIFIER_2: 0x0C20, ADVERTISED: 0x0DE1,
    GIGABIT_CONTROL: 0x0300, EXTENDED_STATUS: 0x3000, SPECIFIC_CONTROL: 0x0068, EXTENDED_CONTROL: 0x0D60,
}  # fmt: skip
#: Bits that software can write; a register that is not here is for reading.
WRITABLE = {
    CONTROL: LOOPBACK | SPEED_LOW | NEGOTIATE | POWER_DOWN | ISOLATE | DUPLEX | SPEED_HIGH, ADVERTISED: 0xBFFF,
    7: 0xFFFF,
    GIGABIT_CONTROL: 0xFF00, SPECIFIC_CONTROL: 0xFFFF, 18: 0xFFFF, EXTENDED_CONTROL: 0xFFFF, 24: 0xFFFF, 25: 0xFFFF,
    26: 0xFFFF, 29: 0xFFFF, 30: 0xFFFF,
}  # fmt: skip
REGISTERS = 32
#: Mb/s by the two bits of a speed.
SPEEDS = (10, 100, 1000)
#: From the beginning of negotiation to a link. Assumed: a real one takes a second or two, in which nothing happens.
NEGOTIATION_MILLISECONDS = 20


class Phy(PlainState):
    """`on_link(level)` is called when the link comes or goes."""

    STATE: ClassVar[tuple[str, ...]] = ("registers", "mdic", "link", "speed", "was_down", "due")

    def __init__(self, clock: Clock, on_link: Callable[[], None]) -> None:
        self.name = "e1000-phy"
        self._clock, self._on_link = clock, on_link
        self._event: Event | None = None
        self.registers = [0] * REGISTERS
        self.mdic = READY
        #: Whether there is a link; 0, 1 or 2 for 10, 100, 1000 Mb/s; whether it has been down since status was read.
        self.link, self.speed, self.was_down = False, 2, True
        #: The cycle at which the link comes, or -1.
        self.due = -1
        self._preset()

    def _preset(self) -> None:
        self.registers = [RESET_VALUES.get(number, 0) for number in range(REGISTERS)]

    def reset(self) -> None:
        """Hardware reset: negotiation begins."""
        self._preset()
        self.mdic = READY
        self._negotiate()

    @property
    def is_looped(self) -> bool:
        """Whether what is sent comes back from the PHY."""
        return bool(self.registers[CONTROL] & LOOPBACK)

    # The link

    def _negotiate(self) -> None:
        self._cancel()
        self._set_link(False)
        if not self.registers[CONTROL] & (POWER_DOWN | ISOLATE) and self._resolve() is not None:
            self.due = self._clock.now + self._clock.hz * NEGOTIATION_MILLISECONDS // 1000
            self._event = self._clock.schedule(self.due, self._linked)

    def _resolve(self) -> int | None:
        """The speed of the coming link; None where the partner and this end have none in common."""
        control = self.registers[CONTROL]
        if not control & NEGOTIATE:
            return min((2 if control & SPEED_HIGH else 0) | (1 if control & SPEED_LOW else 0), 2)
        if self.registers[GIGABIT_CONTROL] & 0x0300:
            return 2
        offered = self.registers[ADVERTISED] & PARTNER_OFFERS
        return 1 if offered & 0x0180 else 0 if offered & 0x0060 else None

    def _linked(self) -> None:
        self._event, self.due = None, -1
        speed = self._resolve()
        if speed is not None:
            self.speed = speed
            self._set_link(True)

    def _cancel(self) -> None:
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None
        self.due = -1

    def _set_link(self, link: bool) -> None:
        self.was_down |= not link
        if link != self.link:
            self.link = link
            self._on_link()

    # Access

    def read(self, number: int) -> int:
        """Register `number` (0 to 31)."""
        if number == STATUS:
            seen = self.link and not self.was_down  # a lost link shows once (22.2.4.2.13)
            self.was_down = not self.link
            return ABILITIES | (LINK if seen else 0) | (NEGOTIATED if self._is_negotiated else 0)
        if number == PARTNER:
            return PARTNER_OFFERS if self._is_negotiated else 0
        if number == EXPANSION:
            return 0x000D if self._is_negotiated else 0x0004
        if number == GIGABIT_STATUS:
            return GIGABIT_FINE if self._is_negotiated else 0
        if number == SPECIFIC_STATUS:
            return SPECIFIC_LINK | self.speed << SPEED_SHIFT if self.link else 0
        return self.registers[number]

    @property
    def _is_negotiated(self) -> bool:
        return self.link and bool(self.registers[CONTROL] & NEGOTIATE)

    def write(self, number: int, value: int) -> None:
        """Register `number`."""
        if number == CONTROL and value & RESET:
            # Registers 0, 4 and 9 keep what was set in them until the reset (M88: they take effect by it).
            self.registers[CONTROL] = value & WRITABLE[CONTROL]
            self._negotiate()
            return
        before = self.registers[number]
        mask = WRITABLE.get(number, 0)
        self.registers[number] = before & ~mask | value & mask
        if number == CONTROL and (value & RESTART or (before ^ value) & WRITABLE[CONTROL] & ~LOOPBACK):
            self._negotiate()

    def write_mdic(self, value: int) -> int:
        """An access through MDIC, done at once; the cause of an interrupt is wanted where INTERRUPT is left in `mdic`.

        Returns the new MDIC.
        """
        number, operation = value >> REGISTER_SHIFT & 31, value >> OPERATION_SHIFT & 3
        kept = value & ~(READY | ERROR)
        if value >> ADDRESS_SHIFT & 31 != ADDRESS:
            self.mdic = kept | READY | ERROR
        elif operation == READ:
            self.mdic = kept & ~0xFFFF | self.read(number) | READY
        elif operation == WRITE:
            self.write(number, value & 0xFFFF)
            self.mdic = kept | READY
        else:
            self.mdic = kept | READY | ERROR
        return self.mdic

    def after_restore(self) -> None:
        """Wait for the link again."""
        due = self.due
        self._cancel()
        self.due = due
        if due >= 0:
            self._event = self._clock.schedule(due, self._linked)
