"""What the bus, the boards and the snapshots need of a device.

A device is given offsets, owns no address and reads no host clock. Device files follow one order: errors, metrics,
registers, state, reset, access, snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

from trapgate.machine.errors import SnapshotMismatch

#: A device drives its interrupt request line with this: True asserts it, whatever its electrical polarity.
IrqLine = Callable[[bool], None]

#: A device's state as plain values: integers, booleans, strings, bytes, None, and lists and dicts of these.
Snapshot = dict[str, Any]


class PortDevice(Protocol):
    """A device in the 64 KB I/O space.

    `port_width` is the widest access (bytes: 1, 2 or 4) that the device takes in one piece; the bus splits wider ones
    into little-endian pieces. Values are unsigned and fit in `width` bytes.
    """

    name: str
    port_width: int

    def read_port(self, offset: int, width: int) -> int:
        """The value at port `offset` (counted from the mapping), `width` bytes wide."""

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Write `value`, `width` bytes wide, to port `offset`."""

    def reset(self) -> None:
        """Go to the state after the reset line was active."""


@runtime_checkable
class StreamDevice(Protocol):
    """What a PortDevice has besides when a port of it is a stream: several accesses of REP INS and OUTS at once.

    Nothing but the place in the stream may change by them: where something else happens (an interrupt, a new block),
    the device stops before that element, which comes by `read_port` or `write_port`.
    """

    def read_run(self, offset: int, width: int, count: int) -> bytes:
        """At most `count` elements of `width` bytes, as `read_port` would give them one by one; perhaps none."""

    def write_run(self, offset: int, width: int, data: bytes) -> int:
        """Take elements of `width` bytes from the beginning of `data`; how many, perhaps none."""


class MemoryDevice(Protocol):
    """A device in guest-physical memory. Accesses are 1 to 8 bytes wide and may be unaligned."""

    name: str

    def read_memory(self, offset: int, width: int) -> int:
        """The value `offset` bytes into the mapping, `width` bytes wide, unsigned."""

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """Write `value`, `width` bytes wide, `offset` bytes into the mapping."""

    def reset(self) -> None:
        """Go to the state after the reset line was active."""


class Snapshotable(Protocol):
    """A device whose state can be taken and put back; `restore(snapshot())` changes nothing a guest can see."""

    name: str

    def snapshot(self) -> Snapshot:
        """The whole state as plain values."""

    def restore(self, snapshot: Snapshot) -> None:
        """Put back a state that `snapshot` gave. Raises SnapshotMismatch for one of another shape."""


def copy_plain(value: Any) -> Any:
    """A deep copy of a plain value, so that a snapshot does not change when its device does."""
    if isinstance(value, list):
        return [copy_plain(item) for item in value]
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, dict):
        return {key: copy_plain(item) for key, item in value.items()}
    return value


class PlainState:
    """Snapshots for devices whose state is the attributes that STATE names.

    Derived things (events on the clock, levels of lines) are not in STATE: `after_restore` makes them again.
    """

    __slots__ = ()

    STATE: ClassVar[tuple[str, ...]] = ()
    #: Further names in the snapshot, which the device's own `snapshot` adds and its own `restore` puts back.
    NESTED: ClassVar[tuple[str, ...]] = ()

    def snapshot(self) -> Snapshot:
        """The attributes in STATE as plain values."""
        return {name: copy_plain(getattr(self, name)) for name in self.STATE}

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave. Raises SnapshotMismatch when its names are not STATE and NESTED."""
        wanted = {*self.STATE, *self.NESTED}
        if set(snapshot) != wanted:
            raise SnapshotMismatch(type(self).__name__, wanted, set(snapshot))
        for name in self.STATE:
            value = copy_plain(snapshot[name])
            if isinstance(getattr(self, name), bytearray):
                value = bytearray(value)
            setattr(self, name, value)
        self.after_restore()

    def after_restore(self) -> None:
        """Make derived state again after `restore`."""
