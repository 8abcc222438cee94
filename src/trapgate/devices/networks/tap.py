"""A tap interface of the host's kernel: frames come from and go to a network interface that the host has.

Source: Linux, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence

from trapgate.devices.networks.errors import NetworkError, reason
from trapgate.devices.networks.network import Network, receive_frames
from trapgate.machine.network import LONGEST

DEVICE = "/dev/net/tun"
#: ioctl TUNSETIFF with struct ifreq; its flags: an Ethernet interface, frames without a header.
TUNSETIFF = 0x4004_54CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
IFREQ = struct.Struct("16sH22x")
LONGEST_NAME = 15


class TapUnusable(NetworkError):
    """The tap interface cannot be opened."""

    def __init__(self, interface: str, got: str) -> None:
        super().__init__(
            f"the tap interface {interface}",
            got,
            f"make it with ip tuntap add dev {interface} mode tap user $USER, and bring it up",
        )


class TapNetwork(Network):
    """The interface `interface`; it is made when there is none and the user may. Raises TapUnusable."""

    def __init__(self, name: str, interface: str) -> None:
        super().__init__(name)
        encoded = interface.encode()
        if not 0 < len(encoded) <= LONGEST_NAME:
            raise TapUnusable(interface, f"a name that is not of 1 to {LONGEST_NAME} bytes")
        try:
            self._file = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TapUnusable(interface, f"{reason(error)} for {DEVICE}") from error
        try:
            fcntl.ioctl(self._file, TUNSETIFF, IFREQ.pack(encoded, IFF_TAP | IFF_NO_PI))
        except OSError as error:
            os.close(self._file)
            raise TapUnusable(interface, reason(error)) from error

    def transmit(self, frame: bytes) -> None:
        """The host receives a frame; while its interface is down it takes none."""
        try:
            os.write(self._file, frame)
        except OSError as error:
            self.faults[f"host: {reason(error)}"] += 1

    def fetch(self) -> None:
        """What the host sends."""
        receive_frames(self, lambda: os.read(self._file, LONGEST + 1))

    def watched(self) -> Sequence[int]:
        """The interface's."""
        return (self._file,)

    def release(self) -> None:
        """An interface that was made for this run goes."""
        os.close(self._file)
