"""Types what comes from the console on the keyboard, no faster than the guest takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from trapgate.devices.i8042 import I8042
from trapgate.devices.keystrokes import keystrokes
from trapgate.machine.clock import Clock

#: Keys per second (assumed: a person types fewer, and software keeps up with this).
KEYS_PER_SECOND = 200


class Typist:
    """Presses keys one after another; `has_room` is asked before each whether the guest can take one more."""

    def __init__(self, clock: Clock, keyboard: I8042, has_room: Callable[[], bool]) -> None:
        self._clock = clock
        self._keyboard = keyboard
        self._has_room = has_room
        self._keys: deque[bytes] = deque()
        self._scheduled = False

    def type(self, data: bytes) -> None:
        """Type the keys that give the bytes `data`."""
        self._keys += keystrokes(data)
        self._schedule()

    def _schedule(self) -> None:
        if self._keys and not self._scheduled:
            self._scheduled = True
            self._clock.schedule(self._clock.now + self._clock.hz // KEYS_PER_SECOND, self._press)

    def _press(self) -> None:
        self._scheduled = False
        if self._keyboard.is_idle and self._has_room():
            self._keyboard.press(self._keys.popleft())
        self._schedule()
