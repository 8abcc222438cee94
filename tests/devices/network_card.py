"""A card that networks are tried with, and what a machine does with its networks."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from trapgate.devices.networks.network import Network
from trapgate.machine.clock import Clock
from trapgate.machine.control import RunControl
from trapgate.machine.outside import Outside

from .support import HZ

MAC = bytes.fromhex("525400123456")


class Card:
    """Keeps what comes; `room` frames of it, then it is not ready."""

    mac = MAC

    def __init__(self, room: int = 1 << 30, takes_large: bool = False) -> None:
        self.room, self.takes_large = room, takes_large
        self.got: list[bytes] = []

    @property
    def ready(self) -> bool:
        return len(self.got) < self.room

    def receive(self, data: bytes) -> None:
        self.got.append(data)


class Plugged:
    """A network with a card, in a machine's order of things: frames are delivered by Outside alone."""

    def __init__(self, network: Network, card: Card | None = None) -> None:
        self.network, self.card, self.clock = network, card or Card(), Clock(HZ)
        self.outside = Outside(self.clock, RunControl())
        network.plug(self.card, self.outside.add_place("net0", self.card.receive), self.clock, self.outside.look_within)
        self.outside.add_source(network)

    def look(self) -> None:
        """A period of modelled time passes."""
        deadline = self.clock.deadline
        assert deadline is not None
        self.clock.now = deadline
        self.clock.run_due()

    def until(self, holds: Callable[[], bool], others: tuple[Plugged, ...] = (), seconds: float = 10) -> None:
        """Look until something holds; wait for the network between, as a guest that sleeps does."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it never came"
            for one in (self, *others):
                one.look()
            if holds():
                return
            poller = select.poll()
            for number in self.network.descriptors():
                poller.register(number, select.POLLIN)
            poller.poll(1)
