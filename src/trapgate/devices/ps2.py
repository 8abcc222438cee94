"""A PS/2 keyboard and a PS/2 mouse: what they answer to the bytes that a guest sends them.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)" and "Mouse"; Microsoft Keyboard
Scan Code Specification 1.3a, appendix A (translation of scan code set 2 to set 1).
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.device import PlainState

ACKNOWLEDGE = 0xFA
RESEND = 0xFE
SELF_TEST_PASSED = 0xAA
KEYBOARD_ID = b"\xab\x83"
MOUSE_ID = 0x00
RELEASE_PREFIX = 0xF0

#: Set 2 to set 1, for codes 00h to 7Fh; two more follow in `translate`, the rest pass unchanged.
_SET_1 = bytes.fromhex(
    "ff43413f3d3b3c58644442403e0f2959"
    "65382a701d10025a66712c1f1e11035b"
    "672e2d201205045c68392f211413065d"
    "693130232215075e6a7232241608095f"
    "6b332517180b0a606c34352627190c61"
    "6d7328741a0d626e3a361c1b752b6376"
    "55567778797a0e7b7c4f7d4b477e7f6f"
    "5253504c4d480145574e514a37494654"
)
_SET_1_HIGH = {0x83: 0x41, 0x84: 0x54}


def translate(code: int, released: bool) -> tuple[int, bool]:
    """One byte of set 2 as set 1; the flag says that a release prefix was seen (and is swallowed)."""
    if code == RELEASE_PREFIX:
        return 0, True
    translated = _SET_1[code] if code < 0x80 else _SET_1_HIGH.get(code, code)
    return translated | 0x80 if released else translated, False


#: Scan codes of set 2 by those of set 1, for the keys of a 101-key keyboard.
SET_2 = {code: place for place, code in reversed(list(enumerate(_SET_1)))} | {0x41: 0x83, 0x54: 0x84}


class Keyboard(PlainState):
    """A 101-key keyboard."""

    __slots__ = ("expecting", "leds", "name", "rate", "scan_code_set", "scanning")

    STATE: ClassVar[tuple[str, ...]] = ("expecting", "leds", "rate", "scan_code_set", "scanning")

    def __init__(self) -> None:
        self.name = "keyboard"
        self.reset()

    def reset(self) -> None:
        """Power-on defaults: scan code set 2, scanning."""
        self._set_defaults()
        self.leds = 0
        #: The command that waits for its parameter, or 0.
        self.expecting = 0
        self.scanning = True

    def _set_defaults(self) -> None:
        self.scan_code_set = 2
        self.rate = 0x2B

    def encode(self, scan_codes: bytes) -> bytes:
        """Scan codes of set 2 in the set that the guest has chosen; set 3 is sent as set 2."""
        if self.scan_code_set != 1:
            return scan_codes
        codes, released = bytearray(), False
        for code in scan_codes:
            value, released = translate(code, released)
            if not released:
                codes.append(value)
        return bytes(codes)

    def write(self, value: int) -> bytes:
        """The answer to one byte from the guest."""
        command, self.expecting = self.expecting, 0
        if command and value < 0xED:
            return self._parameter(command, value)
        if value in (0xED, 0xF0, 0xF3, 0xFB, 0xFC, 0xFD):
            self.expecting = value
            return bytes((ACKNOWLEDGE,))
        if value == 0xEE:
            return b"\xee"
        if value == 0xF2:
            return bytes((ACKNOWLEDGE,)) + KEYBOARD_ID
        if value in (0xF4, 0xF5, 0xF6):
            self.scanning = value != 0xF5
            if value != 0xF4:
                self._set_defaults()
            return bytes((ACKNOWLEDGE,))
        if 0xF7 <= value <= 0xFA:
            return bytes((ACKNOWLEDGE,))
        if value == 0xFF:
            self.reset()
            return bytes((ACKNOWLEDGE, SELF_TEST_PASSED))
        return bytes((RESEND,))

    def _parameter(self, command: int, value: int) -> bytes:
        if command == 0xED:
            self.leds = value & 7
        elif command == 0xF3:
            self.rate = value & 0x7F
        elif command == 0xF0:
            if value == 0:
                return bytes((ACKNOWLEDGE, self.scan_code_set))
            if value > 3:
                return bytes((RESEND,))
            self.scan_code_set = value
        return bytes((ACKNOWLEDGE,))


#: Sample rates one after another that make it a wheel mouse, and what it says it is then (Microsoft, "Device Support in
#: the PS/2 mouse port": the IntelliMouse).
WHEEL_KNOCK = [200, 100, 80]
WHEEL_MOUSE_ID = 0x03
LEFT, RIGHT, MIDDLE = 1, 2, 4
#: Counts of a movement that one packet can hold, of a wheel's turn too.
MOST_MOVE, MOST_TURN = 255, 7


class Mouse(PlainState):
    """A three-button mouse, which becomes one with a wheel where a driver knocks."""

    __slots__ = (
        "buttons", "dx", "dy", "dz", "expecting", "has_wheel", "name", "news", "rate", "rates", "remote", "reporting",
        "resolution", "scaling", "wrap",
    )  # fmt: skip

    STATE: ClassVar[tuple[str, ...]] = (
        "buttons", "dx", "dy", "dz", "expecting", "has_wheel", "news", "rate", "rates", "remote", "reporting",
        "resolution", "scaling", "wrap",
    )  # fmt: skip

    def __init__(self) -> None:
        self.name = "mouse"
        #: Buttons that are held down: LEFT, RIGHT, MIDDLE.
        self.buttons = 0
        self.reset()

    def reset(self) -> None:
        """Power-on defaults."""
        self._set_defaults()
        self.expecting = 0
        self.wrap = False
        self.has_wheel = False
        #: The sample rates that were set last.
        self.rates = [0, 0, 0]

    def _set_defaults(self) -> None:
        self.rate = 100
        self.resolution = 2
        self.scaling = False
        self.remote = False
        self.reporting = False
        self._forget()

    def _forget(self) -> None:
        """Movement that has not been reported: right, up, and towards the user; and whether there is news at all."""
        self.dx = self.dy = self.dz = 0
        self.news = False

    # Movement

    def move(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """Moved by so many counts to the right and down, turned by so many notches towards the user."""
        # What a driver does not take is lost at some point, as a counter that stops at its end loses it.
        self.dx = max(-0x7FFF, min(0x7FFF, self.dx + dx))
        self.dy = max(-0x7FFF, min(0x7FFF, self.dy - dy))
        self.dz = max(-0x7FFF, min(0x7FFF, self.dz + dz)) if self.has_wheel else 0
        self.news = self.news or bool(dx or dy or (dz and self.has_wheel)) or buttons != self.buttons
        self.buttons = buttons & 7

    def report(self) -> bytes:
        """A packet for a driver that is told of movement; nothing where there is none."""
        return self._packet() if self.news and self.reporting and not self.remote and not self.wrap else b""

    def _packet(self) -> bytes:
        dx = max(-MOST_MOVE, min(MOST_MOVE, self.dx))
        dy = max(-MOST_MOVE, min(MOST_MOVE, self.dy))
        dz = max(-MOST_TURN, min(MOST_TURN, self.dz))
        self.dx, self.dy, self.dz = self.dx - dx, self.dy - dy, self.dz - dz
        self.news = bool(self.dx or self.dy or self.dz)
        shown = (dx, dy)
        if self.scaling and not self.remote:
            shown = (_scaled(dx), _scaled(dy))
        first = 0x08 | self.buttons | (shown[0] < 0) << 4 | (shown[1] < 0) << 5
        packet = bytes((first, shown[0] & 0xFF, shown[1] & 0xFF))
        return packet + bytes((dz & 0xFF,)) if self.has_wheel else packet

    # Commands

    def write(self, value: int) -> bytes:
        """The answer to one byte from the guest."""
        if self.wrap and value not in (0xEC, 0xFF):
            return bytes((value,))
        command, self.expecting = self.expecting, 0
        acknowledge = bytes((ACKNOWLEDGE,))
        if command == 0xE8:
            self.resolution = value & 3
        elif command == 0xF3:
            self.rate = value
            self.rates = [*self.rates[1:], value]
        elif value in (0xE8, 0xF3):
            self.expecting = value
        elif value in (0xE6, 0xE7):
            self.scaling = value == 0xE7
        elif value == 0xE9:
            held = (self.buttons & LEFT) << 2 | (self.buttons & MIDDLE) >> 1 | (self.buttons & RIGHT) >> 1
            status = self.remote << 6 | self.reporting << 5 | self.scaling << 4 | held
            return acknowledge + bytes((status, self.resolution, self.rate))
        elif value == 0xEB:
            return acknowledge + self._packet()
        elif value in (0xEC, 0xEE):
            self.wrap = value == 0xEE
        elif value in (0xEA, 0xF0):
            self.remote = value == 0xF0
            self._forget()
        elif value == 0xF2:
            self.has_wheel = self.has_wheel or self.rates == WHEEL_KNOCK
            return acknowledge + bytes((WHEEL_MOUSE_ID if self.has_wheel else MOUSE_ID,))
        elif value in (0xF4, 0xF5):
            self.reporting = value == 0xF4
            self._forget()
        elif value == 0xF6:
            self._set_defaults()
        elif value == 0xFF:
            self.reset()
            return acknowledge + bytes((SELF_TEST_PASSED, MOUSE_ID))
        else:
            return bytes((RESEND,))
        return acknowledge


def _scaled(counts: int) -> int:
    """Scaling 2:1 (IBM PS/2 HITR, "Mouse", Set Scaling 2:1)."""
    size = abs(counts)
    size = (0, 1, 1, 3, 6, 9)[size] if size < 6 else min(2 * size, MOST_MOVE)
    return size if counts >= 0 else -size
