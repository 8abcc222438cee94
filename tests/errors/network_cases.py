"""Errors of -nic, -netdev and -device, and of the networks behind them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

from trapgate.cli.errors import CommandLineError
from trapgate.cli.nics import InvalidNic
from trapgate.devices.networks import slirp_library
from trapgate.devices.networks.capture import CaptureUnusable, PcapFile
from trapgate.devices.networks.datagrams import DatagramNetwork, SocketUnusable
from trapgate.devices.networks.forward import Forward
from trapgate.devices.networks.hub import HubNetwork, HubUnusable
from trapgate.devices.networks.slirp_library import SlirpMissing
from trapgate.devices.networks.stream import StreamNetwork
from trapgate.devices.networks.tap import TapNetwork, TapUnusable
from trapgate.devices.networks.user import ForwardRefused, UserNetwork
from trapgate.lab.errors import ConflictingOptions

from .cases import World, case

_LOCAL = "127.0.0.1"
_SEE = "write --nic user,model=virtio,hostfwd=tcp::2222-:22"


def _with_disk(*arguments: str) -> Callable[[World], object]:
    def action(world: World) -> None:
        world.write("disk.img", bytes(4096))
        world.cli("run", "embedded", *arguments)

    return action


def _run(*arguments: str) -> Callable[[World], object]:
    return lambda world: world.cli("run", "embedded", *arguments)


for text, wanted, got in (
    ("wifi", "one of user, tap, socket, hub, none", "'wifi'"),
    ("user,mac", "key=value", "'mac'"),
    ("user,model=ne2k", "model=e1000|virtio|hypercall", "'ne2k'"),
    ("user,mtu=100", "mtu= from 576 to 9000", "'100'"),
    ("user,mtu=jumbo", "mtu= from 576 to 9000", "'jumbo'"),
    ("user,mac=1:2:3", "mac= with the address of one station, such as 52:54:00:12:34:56,", "'1:2:3'"),
    ("user,mac=01:00:5e:00:00:01",
     "mac= with the address of one station, such as 52:54:00:12:34:56,", "'01:00:5e:00:00:01'"),
    ("user,pcap=", "pcap=FILE", "''"),
    ("user,restrict=yes", "restrict=on|off", "'yes'"),
    ("user,hostfwd=tcp::22", "hostfwd=tcp|udp:[HOST]:PORT-[GUEST]:PORT", "'tcp::22'"),
    ("user,hostfwd=tcp::0-:22", "hostfwd=tcp|udp:[HOST]:PORT-[GUEST]:PORT", "'tcp::0-:22'"),
    ("user,hostfwd=tcp:1.2.3.400:1-:22", "hostfwd=tcp|udp:[HOST]:PORT-[GUEST]:PORT", "'tcp:1.2.3.400:1-:22'"),
    ("user,ifname=x", "one of hostfwd, restrict, offload, model, mac, mtu, pcap", "'ifname'"),
    ("user,mtu=600,mtu=700", "mtu= once", "it twice"),
    ("none=x", "none alone", "'none=x'"),
    ("tap", "ifname= with tap", "none"),
    ("hub", "name= with hub", "none"),
    ("socket", "one of listen=, connect=, udp= with localaddr=", "another choice of them"),
    ("socket,udp=:1", "one of listen=, connect=, udp= with localaddr=", "another choice of them"),
    ("socket,listen=:1,connect=:2", "one of listen=, connect=, udp= with localaddr=", "another choice of them"),
    ("socket,listen=:99999", "listen=HOST:PORT", "':99999'"),
):  # fmt: skip
    case(InvalidNic, f"wanted {wanted} in --nic, got {got}: {_SEE}", _run("--nic", text))
for arguments, wanted, got in (
    (("--netdev", "user"), "id= in --netdev", "none"),
    (("--netdev", "user,id=a", "--netdev", "user,id=a"), "id=a once in --netdev", "it twice"),
    (("--netdev", "user,id=a"), "a card for id=a in --netdev", "no --device with netdev=a"),
    (("--device", "e1000"), "netdev= with the id of a --netdev in --device", "none"),
    (("--device", "e1000,netdev=b"), "netdev= with the id of a --netdev in --device", "'b'"),
):
    case(InvalidNic, f"wanted {wanted}, got {got}: {_SEE}", _run(*arguments))
case(
    CommandLineError,
    (
        "wanted --drive, --device, --nic and --virtfs after trapgate run or trapgate compare, got one after trapgate "
        "lockstep: leave it out"
    ),
    lambda world: world.cli("lockstep", "embedded", "--nic", "user"),
)
case(
    ConflictingOptions,
    "wanted at most 8 network cards, got more: leave some of them out",
    _run(*["--nic", "none,model=virtio", "--nic", "user"] * 9),
)
case(
    ConflictingOptions,
    "wanted at most 27 drives with if=virtio and network cards together, got more: leave some of them out",
    _with_disk(*["--drive", "file=disk.img,if=virtio"] * 26, *["--nic", "user"] * 2),
)


case(
    ConflictingOptions,
    "wanted network cards with an address each, got one of them twice: choose others with mac=",
    _run("--nic", "user,mac=52:54:00:12:34:57", "--nic", "user"),
)
case(
    ConflictingOptions,
    (
        "wanted networks with user for several runs, without hostfwd= and pcap=, got one that only one run can have: "
        "choose it with trapgate run"
    ),
    lambda world: world.cli("compare", "embedded", "--nic", "hub=lab"),
)


def _without_library(world: World) -> None:
    world.monkeypatch.setattr(slirp_library, "LIBRARY", "libslirp.so.999")
    UserNetwork("net0-user")


case(
    SlirpMissing,
    (
        "wanted libslirp.so.999 for a user network, got a host without it: install it (Debian package libslirp0), or "
        "choose another network with -nic"
    ),
    _without_library,
)


class _Refusing:
    """A library that opens no port."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *arguments: -1


def _refused(world: World) -> None:
    world.monkeypatch.setattr("trapgate.devices.networks.slirp_library.load_slirp", _Refusing)
    UserNetwork("net0-user", (Forward("tcp", "0.0.0.0", 22, "10.0.2.15", 22),))


case(
    ForwardRefused,
    (
        "wanted to open the port of hostfwd=tcp:0.0.0.0:22-10.0.2.15:22, got a host that does not allow it: choose a "
        "free port, above 1023 without root"
    ),
    _refused,
)
case(
    CaptureUnusable,
    "wanted to write a capture to missing/a.pcap, got no such file or directory: name another file with pcap=",
    lambda world: PcapFile(Path("missing/a.pcap")),
)
case(
    CaptureUnusable,
    "wanted to write a capture to a\0b, got no valid name: name another file with pcap=",
    lambda world: PcapFile(Path("a\0b")),
)


def _busy_port(world: World) -> None:
    world.monkeypatch.setattr(
        socket, "create_server", lambda *a, **k: (_ for _ in ()).throw(OSError(98, "Address already in use"))
    )
    StreamNetwork("net0-socket", (_LOCAL, 1234), listens_at=True)


def _nobody_listens(world: World) -> None:
    def fail(*arguments: object, **words: object) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    world.monkeypatch.setattr(socket, "create_connection", fail)
    StreamNetwork("net0-socket", (_LOCAL, 1234), listens_at=False)


_OTHER_SIDE = "start the other side first, or choose another address"
case(
    SocketUnusable,
    f"wanted to listen at 127.0.0.1:1234, got address already in use: {_OTHER_SIDE}",
    _busy_port,
)
case(
    SocketUnusable,
    f"wanted somebody who listens at 127.0.0.1:1234, got connection refused: {_OTHER_SIDE}",
    _nobody_listens,
)
case(
    SocketUnusable,
    f"wanted to receive datagrams at 192.0.2.99:1, got cannot assign requested address: {_OTHER_SIDE}",
    lambda world: DatagramNetwork("net0-socket", ("192.0.2.99", 1), (_LOCAL, 1)),
)


def _tap(number: int, name: str) -> Callable[[World], object]:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    def action(world: World) -> None:
        if name == "open":
            world.monkeypatch.setattr(os, "open", fail)
        else:
            world.monkeypatch.setattr(os, "open", lambda *a: os.dup(0))
            world.monkeypatch.setattr(fcntl, "ioctl", fail)
        TapNetwork("net0-tap", "tap7")

    return action


_MAKE = "make it with ip tuntap add dev tap7 mode tap user $USER, and bring it up"
case(
    TapUnusable,
    f"wanted the tap interface tap7, got permission denied for /dev/net/tun: {_MAKE}",
    _tap(errno.EACCES, "open"),
)
case(
    TapUnusable,
    f"wanted the tap interface tap7, got operation not permitted: {_MAKE}",
    _tap(errno.EPERM, "ioctl"),
)
case(
    TapUnusable,
    (
        "wanted the tap interface a-name-that-is-too-long, got a name that is not of 1 to 15 bytes: make it with ip "
        "tuntap add dev a-name-that-is-too-long mode tap user $USER, and bring it up"
    ),
    lambda world: TapNetwork("net0-tap", "a-name-that-is-too-long"),
)
_CHOOSE = "choose another name with hub=, or another XDG_RUNTIME_DIR"
case(
    HubUnusable,
    f"wanted a hub ../lab, got a name with other characters than letters, digits, dots and dashes: {_CHOOSE}",
    lambda world: HubNetwork("net0-hub", "../lab"),
)


def _hub_in_a_file(world: World) -> None:
    world.write("file", b"")
    world.monkeypatch.setenv("XDG_RUNTIME_DIR", "file")
    HubNetwork("net0-hub", "lab")


def _hub_of_another(world: World) -> None:
    world.monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    mine = os.getuid()
    world.monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    HubNetwork("net0-hub", "lab")


case(HubUnusable, f"wanted a hub lab, got file/trapgate/hubs/lab with not a directory: {_CHOOSE}", _hub_in_a_file)
case(
    HubUnusable,
    f"wanted a hub lab, got run/trapgate, which is another user's: {_CHOOSE}",
    _hub_of_another,
)
