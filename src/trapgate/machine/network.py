"""What a network card and the network it is plugged into need of each other. Frames are Ethernet's, without the FCS."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

#: Bytes: destination, source, type.
HEADER = 14
#: Bytes of the shortest frame on a wire, without the FCS (IEEE 802.3, 3.2.8). Cards pad what they send.
SHORTEST = 60
#: Bytes of the longest frame that any card here takes: 9000 bytes of payload, a header and a VLAN tag.
LONGEST = HEADER + 4 + 9000
#: Bytes of the longest frame between a card and a network that hand whole IP packets over.
LARGEST = HEADER + 0xFFFF


class Link(Protocol):
    """The network, as a card sees it."""

    def send(self, frame: bytes) -> None:
        """Take a frame that the card sends. Never raises for what is in it."""


class Card(Protocol):
    """A card, as its network sees it. `receive` is a place of machine/outside.py: frames come in by delivery alone."""

    #: The station address, 6 bytes.
    mac: bytes

    @property
    def ready(self) -> bool:
        """Whether it has room for a frame. A network keeps frames back while it has not, as far as it can."""

    def receive(self, data: bytes) -> None:
        """Take a frame from the network; dropped, and counted, when there is no room or it is not for this card."""


@runtime_checkable
class LargeCard(Card, Protocol):
    """A card that takes whole TCP packets over IPv4, up to LARGEST bytes of frame, while its driver wants them."""

    @property
    def takes_large(self) -> bool:
        """Whether the driver wants them now."""


class NoLink:
    """A cable that is plugged in nowhere."""

    __slots__ = ()

    def send(self, frame: bytes) -> None:
        """Drop it."""
