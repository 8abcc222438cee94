"""Where a debugger wants to be stopped: breakpoints and watchpoints. No memory of the guest changes for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trapgate.api.accesses import MemoryAccess
from trapgate.api.watch import Watcher, Watchpoint
from trapgate.debug.guest import Guest

#: Each costs host time; a client that wants more is broken.
MOST_POINTS = 4096
#: Instructions of a run that is stepped between two looks at the world outside.
LOOK_EVERY = 2000

WatchKind = Literal["write", "read", "access"]


@dataclass(frozen=True, slots=True)
class Watch:
    """`size` bytes from linear `address` on."""

    kind: WatchKind
    address: int
    size: int

    def sees(self, access: MemoryAccess) -> bool:
        """Whether an access is of this kind, and touches it."""
        if not access.touches(self.address, self.size):
            return False
        return self.kind == "access" or (access.is_write if self.kind == "write" else access.kind != "write")


class _Looking(Watcher):
    """Also looks, now and then, whether somebody wants to stop the run: stepped, modelled time passes slowly."""

    def __init__(self, guest: Guest, on_hit: Callable[[int, MemoryAccess], None], look: Callable[[], None]) -> None:
        super().__init__(guest.processor, on_hit)
        self._look, self._left = look, LOOK_EVERY

    def before(self) -> None:
        super().before()
        self._left -= 1
        if self._left <= 0:
            self._left = LOOK_EVERY
            self._look()


class Points:
    """The breakpoints (linear addresses) and watchpoints of one debugger. They come into force with `arm`.

    `look` is called now and then while watchpoints make the run slow.
    """

    def __init__(self, guest: Guest, look: Callable[[], None]) -> None:
        self._guest = guest
        self._watcher = _Looking(guest, self._seen, look)
        guest.when_emulated(self._watcher.emulated)
        self.software: set[int] = set()
        self.hardware: set[int] = set()
        self.watches: list[Watch] = []
        #: The watchpoint that the last run has hit, with the address of the access.
        self.hit: tuple[Watch, int] | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.software) + len(self.hardware) + len(self.watches)

    def arm(self) -> None:
        """Have the run that follows stop at them."""
        self.hit = None
        processor = self._guest.processor
        addresses = frozenset(self.software | self.hardware)
        if addresses != processor.blocks.breakpoints.addresses:
            processor.set_breakpoints(addresses)
        self._watcher.watchpoints = [Watchpoint(w.address, w.size, w.kind != "write") for w in self.watches]
        processor.observer = self._watcher if self.watches else None

    def rest(self) -> None:
        """Have it stop nowhere, for now."""
        self.hit = None
        processor = self._guest.processor
        if processor.blocks.breakpoints.addresses:
            processor.set_breakpoints(frozenset())
        processor.observer = None

    def disarm(self) -> None:
        """Have it stop nowhere."""
        self.software.clear()
        self.hardware.clear()
        self.watches.clear()
        self.arm()

    def _seen(self, rip: int, access: MemoryAccess) -> None:
        watch = next((w for w in self.watches if w.sees(access)), None)
        if watch is not None:
            self.hit = watch, max(access.address, watch.address)
            # Behind the instruction; one that was emulated has left the guest, which is stopped when it runs again.
            self._guest.processor.pause()
            self._guest.processor.steps_left = 0
