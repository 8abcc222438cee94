"""Opens the networks that a run's cards are plugged into, and plugs them in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from trapgate.boards.pc import Pc
from trapgate.boards.pci import VIRTIO_SLOTS, NicConfig
from trapgate.devices.networks.network import Network
from trapgate.lab.errors import ConflictingOptions
from trapgate.lab.options import FIRST_MAC, NicOptions, RunOptions
from trapgate.lab.statistics import Statistics
from trapgate.machine.clock import Clock
from trapgate.machine.network import NoLink
from trapgate.machine.outside import Outside

#: What a run has where no model is named.
DEFAULT_MODEL: Literal["e1000", "virtio", "hypercall"] = "virtio"
MOST_CARDS = 8


class Networked(Protocol):
    """A machine with cards."""

    board: Pc
    outside: Outside

    @property
    def clock(self) -> Clock:
        """Modelled time."""


@dataclass(frozen=True, slots=True)
class Nic:
    """A card of a run, and its network if it has one."""

    config: NicConfig
    network: Network | None


def check_nics(options: RunOptions) -> None:
    """Raises ConflictingOptions for cards that cannot be had together."""
    if len(options.nics) > MOST_CARDS:
        raise ConflictingOptions(f"at most {MOST_CARDS} network cards", "more", "leave some of them out")
    disks = sum(drive.interface == "virtio" for drive in options.drives)
    if disks + len(options.nics) > VIRTIO_SLOTS:
        wanted = f"at most {VIRTIO_SLOTS} drives with if=virtio and network cards together"
        raise ConflictingOptions(wanted, "more", "leave some of them out")
    addresses = [mac_of(nic, number) for number, nic in enumerate(options.nics)]
    if len(set(addresses)) < len(addresses):
        raise ConflictingOptions("network cards with an address each", "one of them twice", "choose others with mac=")


def check_shared(options: RunOptions) -> None:
    """Raises ConflictingOptions for networks that several runs cannot have at once."""
    for nic in options.nics:
        if nic.network not in ("user", "none") or nic.forwards or nic.capture is not None:
            wanted = "networks with user for several runs, without hostfwd= and pcap="
            raise ConflictingOptions(wanted, "one that only one run can have", "choose it with trapgate run")
    check_nics(options)


def model_of(nic: NicOptions) -> Literal["e1000", "virtio", "hypercall"]:
    """The model of a card."""
    return nic.model or DEFAULT_MODEL


def mac_of(nic: NicOptions, number: int) -> bytes:
    """The station address of card `number`, counted from 0."""
    if nic.mac is not None:
        return nic.mac
    return (int.from_bytes(FIRST_MAC, "big") + number).to_bytes(6, "big")


@contextmanager
def open_networks(options: RunOptions) -> Iterator[tuple[Nic, ...]]:
    """The cards of a run, in their order; their networks are closed in the end. Raises NetworkError, RunError."""
    check_nics(options)
    with ExitStack() as stack:
        nics = []
        for number, chosen in enumerate(options.nics):
            # A network that is told of whole packets would have to cut all of them up for another card.
            nic = chosen if model_of(chosen) == "virtio" else replace(chosen, offloads=False)
            network = open_network(nic, f"net{number}-{nic.network}")
            if network is not None:
                stack.callback(network.close)
                if nic.capture is not None:
                    from trapgate.devices.networks.capture import PcapFile

                    network.capture = PcapFile(nic.capture)
            config = NicConfig(
                model_of(nic),
                mac_of(nic, number),
                network or NoLink(),
                nic.mtu,
                network is not None and network.takes_large,
            )
            nics.append(Nic(config, network))
        yield tuple(nics)


def open_network(nic: NicOptions, name: str) -> Network | None:
    """The network of one card; None for a card that is plugged in nowhere. Raises NetworkError."""
    # Each kind is imported when it is asked for: most runs have none.
    if nic.network == "user":
        from trapgate.devices.networks.user import UserNetwork

        return UserNetwork(name, nic.forwards, nic.mtu, nic.is_restricted, nic.offloads)
    if nic.network == "peer":
        from trapgate.devices.networks.peer import PeerNetwork

        return PeerNetwork(name)
    if nic.network == "tap":
        from trapgate.devices.networks.tap import TapNetwork

        return TapNetwork(name, nic.name)
    if nic.network == "hub":
        from trapgate.devices.networks.hub import HubNetwork

        return HubNetwork(name, nic.name)
    if nic.network == "socket":
        if nic.remote is not None and nic.local is not None:
            from trapgate.devices.networks.datagrams import DatagramNetwork

            return DatagramNetwork(name, nic.local, nic.remote)
        from trapgate.devices.networks.stream import StreamNetwork

        address = nic.listen or nic.connect
        assert address is not None, "one of listen, connect, remote and local"
        return StreamNetwork(name, address, listens_at=nic.listen is not None)
    return None


def configs(nics: Sequence[Nic]) -> tuple[NicConfig, ...]:
    """What the board needs to know of `nics`."""
    return tuple(nic.config for nic in nics)


def plug_in(machine: Networked, nics: Sequence[Nic]) -> None:
    """Connect the cards of `machine` with their networks. The places of input are net0, net1 ..."""
    for number, (nic, card) in enumerate(zip(nics, machine.board.cards, strict=True)):
        deliver = machine.outside.add_place(f"net{number}", card.receive)
        if nic.network is not None:
            nic.network.plug(card, deliver, machine.clock, machine.outside.look_within)
            machine.outside.add_source(nic.network)


def with_networks(statistics: Statistics, nics: Sequence[Nic]) -> Statistics:
    """What each network has passed on, and what it has not, beside the counts of the devices."""
    networks = [nic.network for nic in nics if nic.network is not None]
    counts = {network.name: dict(network.counts) for network in networks if network.counts}
    faults = {network.name: dict(network.faults) for network in networks if network.faults}
    return replace(
        statistics,
        device_counts={**statistics.device_counts, **counts},
        device_faults={**statistics.device_faults, **faults},
    )
