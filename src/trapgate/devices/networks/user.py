"""A network of the host's user: libslirp answers DHCP and DNS itself, and carries TCP and UDP over ordinary sockets.

The guest is 10.0.2.15, the host is 10.0.2.2, the name server 10.0.2.3, as in QEMU. libslirp's clock is the host's: it
is outside. It is asked what to wait for in each look; an epoll descriptor of ours stands for all of its sockets.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from trapgate.devices.networks import slirp_library as slirp
from trapgate.devices.networks.errors import NetworkError
from trapgate.devices.networks.forward import GUEST, Forward
from trapgate.devices.networks.large_packets import fragments, is_tcp, raise_segment_size, segments
from trapgate.devices.networks.network import Network
from trapgate.machine.network import HEADER

NETWORK, NETMASK, HOST, NAME_SERVER = "10.0.2.0", "255.255.255.0", "10.0.2.2", "10.0.2.3"
PREFIX_6, PREFIX_6_LENGTH, HOST_6, NAME_SERVER_6 = "fec0::", 64, "fec0::2", "fec0::3"
NO_TIMEOUT = 0xFFFF_FFFF
#: The largest that libslirp takes (IF_MTU_MAX).
LARGEST_MTU = 65521
_TO_EPOLL = ((slirp.READABLE, select.EPOLLIN), (slirp.WRITABLE, select.EPOLLOUT), (slirp.PRIORITY, select.EPOLLPRI))
_FROM_EPOLL = (*_TO_EPOLL, (slirp.ERROR, select.EPOLLERR), (slirp.HANG_UP, select.EPOLLHUP))
#: By what libslirp waits for: what epoll is told; and the other way round. Both are few.
_EVENTS = {bits: sum(theirs for ours, theirs in _TO_EPOLL if bits & ours) for bits in range(8)}


class ForwardRefused(NetworkError):
    """The host does not let the port be opened."""

    def __init__(self, forward: Forward) -> None:
        super().__init__(
            f"to open the port of hostfwd={forward}",
            "a host that does not allow it",
            "choose a free port, above 1023 without root",
        )


class _Timer:
    """A timer of libslirp's. `due`: milliseconds of its clock; None while it is not set."""

    def __init__(self, callback: Any, opaque: Any) -> None:
        self.callback, self.opaque = callback, opaque
        self.due: int | None = None


class UserNetwork(Network):
    """The network, for frames with `mtu` bytes of payload. Raises SlirpMissing, ForwardRefused."""

    def __init__(
        self, name: str, forwards: Sequence[Forward] = (), mtu: int = 1500, is_restricted: bool = False,
        offloads: bool = False,
    ) -> None:  # fmt: skip
        """`offloads`: TCP packets may be as large as IP allows, where the card takes such."""
        super().__init__(name)
        self.takes_large = offloads
        self._mtu = mtu
        self._library: Any = slirp.load_slirp()
        self._ffi: Any = slirp.ffi()
        self._epoll = select.epoll()
        #: What epoll watches: descriptor to libslirp's events.
        self._watched: dict[int, int] = {}
        #: What libslirp wants to know now, by its index; and what there is of it.
        self._wanted: list[tuple[int, int]] = []
        self._events: dict[int, int] = {}
        self._timers: dict[int, _Timer] = {}
        self._wait: float | None = None
        self._keep: list[Any] = []  # what C points at must live as long as it
        self._slirp = self._open(mtu, is_restricted)
        try:
            for forward in forwards:
                self._forward(forward)
        except NetworkError:
            self.release()
            raise

    # Setting up

    def _open(self, mtu: int, is_restricted: bool) -> Any:
        ffi = self._ffi
        config = ffi.new("SlirpConfig *")
        config.version = slirp.CONFIG_VERSION
        config.restricted = is_restricted
        config.in_enabled = config.in6_enabled = True
        for field, address in (
            ("vnetwork", NETWORK), ("vnetmask", NETMASK), ("vhost", HOST), ("vnameserver", NAME_SERVER),
            ("vdhcp_start", GUEST),
        ):  # fmt: skip
            setattr(config, field, self._address(address))
        for field, address in (("vprefix_addr6", PREFIX_6), ("vhost6", HOST_6), ("vnameserver6", NAME_SERVER_6)):
            getattr(config, field).s6_addr = socket.inet_pton(socket.AF_INET6, address)
        config.vprefix_len = PREFIX_6_LENGTH
        config.if_mtu = config.if_mru = LARGEST_MTU if self.takes_large else mtu
        callbacks = ffi.new("SlirpCb *")
        self._keep += [config, callbacks]
        for field, kind, function in (
            ("send_packet", "ssize_t(const void *, size_t, void *)", self._on_packet),
            ("guest_error", "void(const char *, void *)", self._on_guest_error),
            ("clock_get_ns", "int64_t(void *)", lambda opaque: time.monotonic_ns()),
            ("timer_new", "void *(SlirpTimerCb, void *, void *)", self._new_timer),
            ("timer_free", "void(void *, void *)", lambda timer, opaque: self._free_timer(timer)),
            ("timer_mod", "void(void *, int64_t, void *)", self._set_timer),
            ("register_poll_fd", "void(int, void *)", lambda number, opaque: self._forget(number)),
            ("unregister_poll_fd", "void(int, void *)", lambda number, opaque: self._forget(number)),
            ("notify", "void(void *)", lambda opaque: None),
        ):
            setattr(callbacks, field, self._callback(kind, function))
        self._add_poll = self._callback("int(int, int, void *)", self._on_wanted)
        self._get_events = self._callback("int(int, void *)", self._on_events)
        self._timeout = ffi.new("uint32_t *")
        return self._library.slirp_new(config, callbacks, ffi.NULL)

    def _callback(self, kind: str, function: Any) -> Any:
        made = self._ffi.callback(kind, function)
        self._keep.append(made)
        return made

    def _address(self, text: str) -> Any:
        """An address as C has it; network byte order in memory."""
        return self._ffi.new("struct in_addr *", struct.unpack("=I", socket.inet_aton(text)))[0]

    def _forward(self, forward: Forward) -> None:
        refused = self._library.slirp_add_hostfwd(
            self._slirp, forward.protocol == "udp", self._address(forward.host), forward.host_port,
            self._address(forward.guest), forward.guest_port,
        )  # fmt: skip
        if refused:
            raise ForwardRefused(forward)

    # What libslirp calls

    def _on_packet(self, data: Any, length: int, opaque: Any) -> int:
        frame = self._ffi.buffer(data, length)[:]
        if length <= HEADER + self._mtu or (self.gives_large and is_tcp(frame)):
            self.put(frame)
        else:
            # libslirp was told of larger frames than there are, for the sake of TCP with a card that takes such.
            for piece in (segments if is_tcp(frame) else fragments)(frame, self._mtu):
                self.put(piece)
        return length

    def _on_guest_error(self, message: Any, opaque: Any) -> None:
        self.faults["packet that libslirp refuses"] += 1

    def _new_timer(self, callback: Any, callback_opaque: Any, opaque: Any) -> Any:
        number = max(self._timers, default=0) + 1
        self._timers[number] = _Timer(callback, callback_opaque)
        return self._ffi.cast("void *", number)

    def _timer_number(self, timer: Any) -> int:
        return int(self._ffi.cast("uintptr_t", timer))

    def _free_timer(self, timer: Any) -> None:
        self._timers.pop(self._timer_number(timer), None)

    def _set_timer(self, timer: Any, due: int, opaque: Any) -> None:
        self._timers[self._timer_number(timer)].due = due

    def _forget(self, number: int) -> None:
        """A descriptor is new, or will be closed: its number may come again for another socket."""
        if self._watched.pop(number, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(number)

    def _on_wanted(self, number: int, events: int, opaque: Any) -> int:
        self._wanted.append((number, events))
        return len(self._wanted) - 1

    def _on_events(self, index: int, opaque: Any) -> int:
        if not 0 <= index < len(self._wanted):
            return 0
        number, _ = self._wanted[index]
        return self._events.get(number, 0)

    # Network

    def transmit(self, frame: bytes) -> None:
        """libslirp takes a frame. What it answers waits until the next look."""
        if self.gives_large:
            frame = raise_segment_size(frame)
        self._library.slirp_input(self._slirp, self._ffi.from_buffer("uint8_t[]", frame), len(frame))

    def fetch(self) -> None:
        """Let libslirp look at its sockets and timers."""
        self._run_timers()
        if self.room <= 0:
            return  # its sockets keep what has come
        self._events = {
            number: sum(ours for ours, theirs in _FROM_EPOLL if events & theirs)
            for number, events in self._epoll.poll(0)
        }  # fmt: skip
        # Asks for events by the indices that the last fill has given; a socket that is newer has none yet.
        self._library.slirp_pollfds_poll(self._slirp, 0, self._get_events, self._ffi.NULL)
        self._fill()

    def _fill(self) -> None:
        """Ask libslirp what it waits for, and tell epoll."""
        self._wanted = []
        self._timeout[0] = NO_TIMEOUT
        self._library.slirp_pollfds_fill(self._slirp, self._timeout, self._add_poll, self._ffi.NULL)
        milliseconds = self._timeout[0]
        self._wait = None if milliseconds == NO_TIMEOUT else milliseconds / 1000
        wanted: dict[int, int] = {}
        for number, events in self._wanted:
            wanted[number] = wanted.get(number, 0) | events
        if wanted == self._watched:
            return
        for number in self._watched.keys() - wanted.keys():
            with contextlib.suppress(OSError):
                self._epoll.unregister(number)
        for number, events in wanted.items():
            if self._watched.get(number) != events:
                self._watch(number, _EVENTS[events & 7])
        self._watched = wanted

    def _watch(self, number: int, events: int) -> None:
        try:
            self._epoll.modify(number, events)
        except FileNotFoundError:
            self._epoll.register(number, events)

    def _run_timers(self) -> None:
        now = time.monotonic_ns() // 1_000_000
        for timer in list(self._timers.values()):
            if timer.due is not None and timer.due <= now:
                timer.due = None
                timer.callback(timer.opaque)

    def watched(self) -> Sequence[int]:
        """The descriptor that stands for all of libslirp's."""
        return (self._epoll.fileno(),)

    def timeout(self) -> float | None:
        """Until libslirp's next timer."""
        now = time.monotonic_ns() // 1_000_000
        waits = [max(timer.due - now, 0) / 1000 for timer in self._timers.values() if timer.due is not None]
        if self._wait is not None:
            waits.append(self._wait)
        return min(waits, default=None)

    def release(self) -> None:
        """End all connections."""
        if self._slirp is not None:
            self._library.slirp_cleanup(self._slirp)
            self._slirp = None
            self._epoll.close()
