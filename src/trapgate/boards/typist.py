"""Types what comes from the console on the keyboard, no faster than the guest takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from trapgate.devices.i8042 import I8042
from trapgate.devices.keystrokes import keystrokes
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import Snapshot

#: Keys per second (assumed: a person types fewer, and software keeps up with this).
KEYS_PER_SECOND = 200


class Typist:
    """Presses keys one after another; `has_room` is asked before each whether the guest can take one more."""

    def __init__(self, clock: Clock, keyboard: I8042, has_room: Callable[[], bool]) -> None:
        self._clock = clock
        self._keyboard = keyboard
        self._has_room = has_room
        self._keys: deque[bytes] = deque()
        self._event: Event | None = None

    def type(self, data: bytes) -> None:
        """Type the keys that give the bytes `data`."""
        self._keys += keystrokes(data)
        self._schedule()

    def _schedule(self) -> None:
        if self._keys and self._event is None:
            self._event = self._clock.schedule(self._clock.now + self._clock.hz // KEYS_PER_SECOND, self._press)

    def _press(self) -> None:
        self._event = None
        if self._keyboard.is_idle and self._has_room():
            self._keyboard.press(self._keys.popleft())
        self._schedule()

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The keys that are still to be pressed, and when the next one is."""
        return {"keys": list(self._keys), "at": 0 if self._event is None else self._event.at}

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave."""
        self._keys = deque(snapshot["keys"])
        if self._event is not None:
            self._clock.cancel(self._event)
        self._event = self._clock.schedule(snapshot["at"], self._press) if snapshot["at"] else None
