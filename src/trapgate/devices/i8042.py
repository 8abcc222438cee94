"""The keyboard controller of a PC (Intel 8042) with a keyboard and a mouse behind it; ports 60h and 64h.

Commands are answered at once: the output buffer is full when the guest looks next.

Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from trapgate.devices.ps2 import Keyboard, Mouse, translate
from trapgate.devices.system_control import A20Gate
from trapgate.machine.device import IrqLine, PlainState, Snapshot

# Port offsets from 60h.
DATA = 0
COMMAND = 4  # read: status

STATUS_OUTPUT_FULL = 0x01
STATUS_SYSTEM = 0x04
STATUS_COMMAND = 0x08
STATUS_UNLOCKED = 0x10
STATUS_AUX_DATA = 0x20

# Command byte.
KEYBOARD_INTERRUPT = 0x01
AUX_INTERRUPT = 0x02
SYSTEM_FLAG = 0x04
KEYBOARD_DISABLED = 0x10
AUX_DISABLED = 0x20
TRANSLATE = 0x40

#: As a PC's firmware leaves it: both interrupts off, self-test passed, scan codes translated.
INITIAL_COMMAND_BYTE = SYSTEM_FLAG | TRANSLATE

# Output port.
OUTPUT_NOT_RESET = 0x01
OUTPUT_A20 = 0x02
OUTPUT_KEYBOARD_FULL = 0x10
OUTPUT_AUX_FULL = 0x20
OUTPUT_CONSTANT = 0xCC

SELF_TEST_PASSED = 0x55
PORT_TEST_PASSED = 0x00
#: Input port: keyboard not locked, manufacturing jumper absent.
INPUT_PORT = 0xA0

# Where a byte in the output buffer came from.
FROM_CONTROLLER = 0
FROM_KEYBOARD = 1
FROM_AUX = 2

#: How a movement of the mouse is delivered: counts to the right and down, notches towards the user, buttons held
#: (1 left, 2 right, 4 middle).
MOVEMENT = struct.Struct("<hhbB")
#: Bytes that a device's own buffer holds; more key presses than that are lost.
QUEUE_LIMIT = 256


class I8042(PlainState):
    """Ports `offset` 0 (data) and 4 (status and commands) from 60h."""

    __slots__ = (
        "_released",
        "a20",
        "aux_queue",
        "buffer",
        "command_byte",
        "controller_queue",
        "expecting",
        "keyboard",
        "keyboard_queue",
        "last_was_command",
        "memory",
        "mouse",
        "name",
        "output_port",
        "port_width",
        "request_reset",
        "set_aux_irq",
        "set_keyboard_irq",
        "source",
    )

    STATE: ClassVar[tuple[str, ...]] = (
        "_released",
        "buffer",
        "command_byte",
        "expecting",
        "last_was_command",
        "memory",
        "output_port",
        "source",
    )
    NESTED: ClassVar[tuple[str, ...]] = ("controller_queue", "keyboard_queue", "aux_queue", "keyboard", "mouse")

    def __init__(
        self, set_keyboard_irq: IrqLine, set_aux_irq: IrqLine, a20: A20Gate, request_reset: Callable[[], None]
    ) -> None:
        """`request_reset` resets the processor alone (INIT#)."""
        self.name = "i8042"
        self.port_width = 1
        self.set_keyboard_irq = set_keyboard_irq
        self.set_aux_irq = set_aux_irq
        self.a20 = a20
        self.request_reset = request_reset
        self.controller_queue: deque[tuple[int, int]] = deque()
        self.keyboard_queue: deque[int] = deque()
        self.aux_queue: deque[int] = deque()
        self.keyboard = Keyboard()
        self.mouse = Mouse()
        self.reset()

    def reset(self) -> None:
        """As a PC's firmware leaves the controller and both devices after its power-on self-test."""
        self.command_byte = INITIAL_COMMAND_BYTE
        self.memory = bytearray(32)
        self.output_port = OUTPUT_NOT_RESET | OUTPUT_CONSTANT
        #: The controller command that waits for a byte at port 60h, or 0.
        self.expecting = 0
        self.last_was_command = False
        self.buffer = 0
        #: Where the byte in the output buffer is from, or -1 when it is empty.
        self.source = -1
        #: Translation saw a release prefix.
        self._released = False
        self.controller_queue.clear()
        self.keyboard_queue.clear()
        self.aux_queue.clear()
        self.keyboard.reset()
        self.mouse.reset()
        self._drive_lines()

    # The output buffer

    def _drive_lines(self) -> None:
        self.set_keyboard_irq(
            self.source in (FROM_CONTROLLER, FROM_KEYBOARD) and bool(self.command_byte & KEYBOARD_INTERRUPT)
        )
        self.set_aux_irq(self.source == FROM_AUX and bool(self.command_byte & AUX_INTERRUPT))

    def _fill(self) -> None:
        """Put the next byte into the output buffer if it is empty: answers first, then keyboard, then mouse."""
        if self.source >= 0:
            return
        if self.controller_queue:
            self.source, self.buffer = self.controller_queue.popleft()
        elif self.keyboard_queue and not self.command_byte & KEYBOARD_DISABLED:
            self.source, self.buffer = FROM_KEYBOARD, self.keyboard_queue.popleft()
        elif not self.command_byte & AUX_DISABLED:
            # One packet at a time: what moves meanwhile goes into the next one.
            if not self.aux_queue:
                self.aux_queue.extend(self.mouse.report())
            if self.aux_queue:
                self.source, self.buffer = FROM_AUX, self.aux_queue.popleft()
        self._drive_lines()

    def _answer(self, *values: int, source: int = FROM_CONTROLLER) -> None:
        if len(self.controller_queue) < QUEUE_LIMIT:
            self.controller_queue.extend((source, value) for value in values)
        self._fill()

    def _from_keyboard(self, values: bytes) -> None:
        if len(self.keyboard_queue) >= QUEUE_LIMIT:
            return
        if not self.command_byte & TRANSLATE:
            self.keyboard_queue.extend(values)
        else:
            for value in values:
                code, self._released = translate(value, self._released)
                if not self._released:
                    self.keyboard_queue.append(code)
        self._fill()

    def _from_mouse(self, values: bytes) -> None:
        if len(self.aux_queue) < QUEUE_LIMIT:
            self.aux_queue.extend(values)
        self._fill()

    def press(self, scan_codes: bytes) -> None:
        """Keys pressed and released, as scan codes of set 2; dropped while the keyboard does not scan."""
        if self.keyboard.scanning:
            self._from_keyboard(self.keyboard.encode(scan_codes))

    def move(self, movement: bytes) -> None:
        """The mouse was moved: MOVEMENT packed. What is not that is ignored."""
        if len(movement) == MOVEMENT.size:
            dx, dy, dz, buttons = MOVEMENT.unpack(movement)
            # A press and its release are packets of their own, however slowly the guest reads.
            presses = buttons != self.mouse.buttons and len(self.aux_queue) < QUEUE_LIMIT
            if presses:
                self.aux_queue.extend(self.mouse.report())
            self.mouse.move(dx, dy, dz, buttons)
            if presses:
                self.aux_queue.extend(self.mouse.report())
            self._fill()

    @property
    def is_idle(self) -> bool:
        """True when the guest has taken every byte."""
        return self.source < 0 and not self.keyboard_queue and not self.controller_queue

    # Access

    def read_port(self, offset: int, width: int) -> int:
        """The output buffer, or the status register."""
        if offset == COMMAND:
            status = STATUS_UNLOCKED | self.command_byte & SYSTEM_FLAG
            if self.last_was_command:
                status |= STATUS_COMMAND
            if self.source >= 0:
                status |= STATUS_OUTPUT_FULL
                if self.source == FROM_AUX:
                    status |= STATUS_AUX_DATA
            return status
        value = self.buffer
        if self.source >= 0:
            self.source = -1
            self._drive_lines()
            self._fill()
        return value

    def write_port(self, offset: int, width: int, value: int) -> None:
        """A command to the controller, or a byte for a command or a device."""
        if offset == COMMAND:
            self.last_was_command = True
            self.expecting = 0
            self._command(value)
            return
        self.last_was_command = False
        if self.expecting:
            command, self.expecting = self.expecting, 0
            self._parameter(command, value)
        else:
            # A byte for the keyboard enables its interface again.
            self.command_byte &= ~KEYBOARD_DISABLED
            self._from_keyboard(self.keyboard.write(value))

    def _command(self, value: int) -> None:
        if 0x20 <= value <= 0x3F:
            self._answer(self.command_byte if value == 0x20 else self.memory[value - 0x20])
        elif 0x60 <= value <= 0x7F or 0xD1 <= value <= 0xD4:
            self.expecting = value
        elif value >= 0xF0:
            # Pulse the output lines whose bits are 0; line 0 is the processor's reset.
            if not value & 1:
                self.request_reset()
        elif value == 0xAA:
            self.command_byte |= SYSTEM_FLAG
            self._answer(SELF_TEST_PASSED)
        elif value in (0xA9, 0xAB):
            self._answer(PORT_TEST_PASSED)
        elif value == 0xA7:
            self._set_command_byte(self.command_byte | AUX_DISABLED)
        elif value == 0xA8:
            self._set_command_byte(self.command_byte & ~AUX_DISABLED)
        elif value == 0xAD:
            self._set_command_byte(self.command_byte | KEYBOARD_DISABLED)
        elif value == 0xAE:
            self._set_command_byte(self.command_byte & ~KEYBOARD_DISABLED)
        elif value == 0xC0:
            self._answer(INPUT_PORT)
        elif value == 0xD0:
            self._answer(self._read_output_port())
        elif value == 0xE0:
            self._answer(0)
        # Commands that the controller does not have are ignored, as its firmware does.

    def _parameter(self, command: int, value: int) -> None:
        if command == 0x60:
            self._set_command_byte(value)
        elif command <= 0x7F:
            self.memory[command - 0x60] = value
        elif command == 0xD1:
            self.output_port = value & OUTPUT_NOT_RESET | OUTPUT_CONSTANT
            self.a20.set(bool(value & OUTPUT_A20))
            if not value & OUTPUT_NOT_RESET:
                self.request_reset()
        elif command == 0xD2:
            self._answer(value, source=FROM_KEYBOARD)
        elif command == 0xD3:
            self._answer(value, source=FROM_AUX)
        else:
            self.command_byte &= ~AUX_DISABLED
            self._from_mouse(self.mouse.write(value))

    def _set_command_byte(self, value: int) -> None:
        self.command_byte = value
        self._drive_lines()
        self._fill()

    def _read_output_port(self) -> int:
        value = self.output_port
        if self.a20.enabled:
            value |= OUTPUT_A20
        if self.source in (FROM_CONTROLLER, FROM_KEYBOARD):
            value |= OUTPUT_KEYBOARD_FULL
        elif self.source == FROM_AUX:
            value |= OUTPUT_AUX_FULL
        return value

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The controller, its queues and both devices."""
        return super().snapshot() | {
            "controller_queue": [list(entry) for entry in self.controller_queue],
            "keyboard_queue": list(self.keyboard_queue),
            "aux_queue": list(self.aux_queue),
            "keyboard": self.keyboard.snapshot(),
            "mouse": self.mouse.snapshot(),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave; the interrupt lines are the PIC's to restore."""
        super().restore(snapshot)
        self.controller_queue = deque((source, value) for source, value in snapshot["controller_queue"])
        self.keyboard_queue = deque(snapshot["keyboard_queue"])
        self.aux_queue = deque(snapshot["aux_queue"])
        self.keyboard.restore(snapshot["keyboard"])
        self.mouse.restore(snapshot["mouse"])
