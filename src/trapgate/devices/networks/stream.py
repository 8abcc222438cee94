"""A cable made of a TCP connection: QEMU's `-netdev socket,listen=...` and `connect=...`, and `-netdev stream`.

Each frame goes after its length, 32 bits, big-endian (QEMU, net/socket.c's wire format; docs of `-netdev stream`). The
side that listens takes one connection at a time, and another when that has ended.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from trapgate.devices.networks.datagrams import Address, SocketUnusable
from trapgate.devices.networks.errors import reason
from trapgate.devices.networks.network import Network

LENGTH = 4
#: A longer frame is none: QEMU's buffers are 68 KB.
LONGEST_RECORD = 4096 + 65536
#: Bytes that wait for a peer that does not read; frames beyond are dropped.
MOST_UNSENT = 1 << 20
#: Bytes that are read from the connection in one look.
READ_SIZE = 1 << 18
#: Seconds until what could not be sent is tried again, while the guest sleeps.
UNSENT_TIMEOUT = 0.001


class StreamNetwork(Network):
    """Listens at `address`, or connects to it. Raises SocketUnusable."""

    def __init__(self, name: str, address: Address, listens_at: bool) -> None:
        super().__init__(name)
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._unread = bytearray()
        self._unsent = bytearray()
        try:
            if listens_at:
                self._listener = socket.create_server(address, backlog=1)
                self._listener.setblocking(False)
            else:
                self._use(socket.create_connection(address, timeout=10))
        except (OSError, OverflowError) as error:
            got = reason(error) if isinstance(error, OSError) else "no valid port"
            what = "to listen at" if listens_at else "somebody who listens at"
            raise SocketUnusable(what, address, got) from error

    def _use(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer = peer
        self.counts["connections"] += 1

    @property
    def port(self) -> int:
        """The port of the listening side, or the one that it is connected to."""
        end = self._listener.getsockname() if self._listener is not None else None
        if end is None:
            end = self._peer.getpeername() if self._peer is not None else (None, 0)
        return int(end[1])

    def _hang_up(self) -> None:
        if self._peer is not None:
            self._peer.close()
        self._peer = None
        self._unread.clear()
        self._unsent.clear()

    def transmit(self, frame: bytes) -> None:
        """Into the connection, as far as its buffers reach."""
        if self._peer is None:
            self.faults["nobody connected"] += 1
            return
        if len(self._unsent) + LENGTH + len(frame) > MOST_UNSENT:
            self.faults["peer does not read"] += 1
            return
        self._unsent += len(frame).to_bytes(LENGTH, "big") + frame
        self._write()

    def _write(self) -> None:
        if self._peer is None or not self._unsent:
            return
        try:
            sent = self._peer.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self.faults[f"host: {reason(error)}"] += 1
            self._hang_up()
            return
        del self._unsent[:sent]

    def fetch(self) -> None:
        """Take a connection, what has come, and send what could not be sent before."""
        if self._peer is None and self._listener is not None:
            self._accept(self._listener)
        self._write()
        self._parse()
        if self._peer is None or self.room <= 0:
            return
        try:
            data = self._peer.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self.faults[f"host: {reason(error)}"] += 1
            data = b""
        if not data:
            self.counts["hang-ups"] += 1
            self._hang_up()
            return
        self._unread += data
        self._parse()

    def _accept(self, listener: socket.socket) -> None:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        self._use(peer)

    def _parse(self) -> None:
        """Put the whole frames that have come, as far as there is room; the rest waits."""
        unread, place = self._unread, 0
        while self.room > 0 and len(unread) - place >= LENGTH:
            length = int.from_bytes(unread[place : place + LENGTH], "big")
            if length > LONGEST_RECORD:
                # Nothing behind it can be told apart.
                self.faults["record of a bad length"] += 1
                self._hang_up()
                return
            if len(unread) - place - LENGTH < length:
                break
            self.put(bytes(unread[place + LENGTH : place + LENGTH + length]))
            place += LENGTH + length
        del unread[:place]

    def watched(self) -> Sequence[int]:
        """The connection's, or while there is none that of the listening socket."""
        end = self._peer or self._listener
        return () if end is None else (end.fileno(),)

    def timeout(self) -> float | None:
        """Soon again while there is something that could not be sent."""
        return UNSENT_TIMEOUT if self._unsent else None

    def release(self) -> None:
        """Unplug it."""
        self._hang_up()
        if self._listener is not None:
            self._listener.close()
