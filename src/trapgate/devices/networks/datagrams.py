"""A cable made of UDP datagrams, a frame in each: QEMU's `-netdev socket,udp=...,localaddr=...` and `-netdev dgram`."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from trapgate.devices.networks.errors import NetworkError, reason
from trapgate.devices.networks.network import Network, receive_frames
from trapgate.machine.network import LONGEST

#: A host name or IPv4 address, and a port.
Address = tuple[str, int]


class SocketUnusable(NetworkError):
    """A socket cannot be bound, or not be connected."""

    def __init__(self, what: str, address: Address, got: str) -> None:
        super().__init__(
            f"{what} {address[0]}:{address[1]}", got, "start the other side first, or choose another address"
        )


class DatagramNetwork(Network):
    """Receives at `local`, sends to `remote`, and takes datagrams from nobody else. Raises SocketUnusable."""

    def __init__(self, name: str, local: Address, remote: Address) -> None:
        super().__init__(name)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        what, address = "to receive datagrams at", local
        try:
            self._socket.bind(local)
            what, address = "to send datagrams to", remote
            self._socket.connect(remote)
        except (OSError, OverflowError) as error:
            self._socket.close()
            got = reason(error) if isinstance(error, OSError) else "no valid port"
            raise SocketUnusable(what, address, got) from error

    def transmit(self, frame: bytes) -> None:
        """A datagram. While nobody listens there, it is lost, as on a cable."""
        try:
            self._socket.send(frame)
        except OSError as error:
            self.faults[f"host: {reason(error)}"] += 1

    def fetch(self) -> None:
        """Datagrams that have come."""
        receive_frames(self, lambda: self._socket.recv(LONGEST + 1))

    def watched(self) -> Sequence[int]:
        """The socket's."""
        return (self._socket.fileno(),)

    def release(self) -> None:
        """Unplug it."""
        self._socket.close()
