"""A port of the host that leads into a user network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: The guest's address in a user network, which its DHCP server gives.
GUEST = "10.0.2.15"
ANY = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of the host whose connections or datagrams go to a port of the guest."""

    protocol: Literal["tcp", "udp"]
    host: str
    host_port: int
    guest: str
    guest_port: int

    def __str__(self) -> str:
        return f"{self.protocol}:{self.host}:{self.host_port}-{self.guest}:{self.guest_port}"
