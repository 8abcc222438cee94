"""-nic, and pairs of -netdev and -device, in QEMU's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.devices.networks.forward import ANY, GUEST, Forward
from trapgate.lab.options import NicOptions

Nics = Annotated[
    list[str] | None,
    typer.Option(
        "--nic", "-nic", metavar="user|tap|socket|hub|none,...", help="A network card; may be given several times."
    ),
]
Netdevs = Annotated[
    list[str] | None,
    typer.Option("--netdev", "-netdev", metavar="user|tap|socket|hub,id=ID,...", help="A network for a -device."),
]

#: For each kind of network: the keys that it takes besides COMMON, the first of them for `kind=VALUE`.
KINDS: dict[str, tuple[str, ...]] = {
    "user": ("hostfwd", "restrict", "offload"),
    "tap": ("ifname",),
    "socket": ("listen", "connect", "udp", "localaddr"),
    "hub": ("name",),
    "none": (),
}
Model = Literal["e1000", "virtio", "hypercall"]
COMMON = ("model", "mac", "mtu", "pcap")
#: The cards of -device, and their models.
DEVICES: dict[str, Model] = {"e1000": "e1000", "virtio-net-pci": "virtio"}
#: Words that QEMU has for a model, besides our own.
MODELS: dict[str, Model] = {
    "e1000": "e1000", "virtio": "virtio", "virtio-net-pci": "virtio", "hypercall": "hypercall",
}  # fmt: skip
MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
PORT = re.compile(r"[0-9]{1,5}")
FORWARD = re.compile(r"(?:(tcp|udp):)?([0-9.]*):([0-9]{1,5})-([0-9.]*):([0-9]{1,5})")
ADDRESS = re.compile(r"([0-9]{1,3})(\.[0-9]{1,3}){3}")
SMALLEST_MTU, LARGEST_MTU = 576, 9000
LOCAL = "127.0.0.1"
MULTICAST_BIT = 1


class InvalidNic(CommandLineError):
    """-nic, or a pair of -netdev and -device, is not as QEMU has it."""

    def __init__(self, option: str, wanted: str, got: str) -> None:
        super().__init__(f"{wanted} in --{option}", got, "write --nic user,model=virtio,hostfwd=tcp::2222-:22")


class _Words:
    """`word,key=value,...` of one option; a comma within a value is doubled."""

    def __init__(self, option: str, text: str) -> None:
        self.option = option
        self.values: dict[str, list[str]] = {}
        first, *rest = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
        self.kind, _, self.value = first.partition("=")
        for part in rest:
            key, equals, value = part.partition("=")
            if not equals:
                raise self.error("key=value", repr(part))
            self.values.setdefault(key, []).append(value)

    def error(self, wanted: str, got: str) -> InvalidNic:
        """What is wrong."""
        return InvalidNic(self.option, wanted, got)

    def take(self, key: str) -> str | None:
        """The one value of `key`, which is taken away."""
        values = self.values.pop(key, [])
        if len(values) > 1:
            raise self.error(f"{key}= once", "it twice")
        return values[0] if values else None

    def parsed(self, key: str, parse: Callable[[str], Any], wanted: str) -> Any:
        """The value of `key` by `parse`, which raises ValueError; None without one."""
        value = self.take(key)
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise self.error(wanted, repr(value)) from error

    def finish(self, known: Sequence[str]) -> None:
        """Nothing may be left."""
        for key in self.values:
            raise self.error(f"one of {', '.join(known)}", repr(key))


def _mac(text: str) -> bytes:
    if not MAC.fullmatch(text):
        raise ValueError
    value = bytes.fromhex(text.replace(":", ""))
    if value[0] & MULTICAST_BIT or not any(value):
        raise ValueError
    return value


def _mtu(text: str) -> int:
    value = int(text)
    if not SMALLEST_MTU <= value <= LARGEST_MTU:
        raise ValueError
    return value


def _file(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)


def _port(text: str) -> int:
    if not PORT.fullmatch(text) or not 0 < int(text) < 1 << 16:
        raise ValueError
    return int(text)


def _host(text: str) -> str:
    if not ADDRESS.fullmatch(text) or any(int(part) > 255 for part in text.split(".")):
        raise ValueError
    return text


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host or LOCAL, _port(port)


def _forward(text: str) -> Forward:
    match = FORWARD.fullmatch(text)
    if match is None:
        raise ValueError
    protocol: Literal["tcp", "udp"] = "udp" if match[1] == "udp" else "tcp"
    return Forward(protocol, _host(match[2] or ANY), _port(match[3]), _host(match[4] or GUEST), _port(match[5]))


def _on(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError
    return text == "on"


def _model(text: str) -> Model:
    if text not in MODELS:
        raise ValueError
    return MODELS[text]


def _card(words: _Words) -> dict[str, Any]:
    """What is the card's own."""
    found = {
        "model": words.parsed("model", _model, "model=e1000|virtio|hypercall"),
        "mac": words.parsed("mac", _mac, "mac= with the address of one station, such as 52:54:00:12:34:56,"),
        "mtu": words.parsed("mtu", _mtu, f"mtu= from {SMALLEST_MTU} to {LARGEST_MTU}"),
        "capture": words.parsed("pcap", _file, "pcap=FILE"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _network(words: _Words) -> dict[str, Any]:
    """What is the network's own."""
    kind = words.kind
    if kind not in KINDS:
        raise words.error(f"one of {', '.join(KINDS)}", repr(kind))
    if words.value:
        if not KINDS[kind]:
            raise words.error(f"{kind} alone", repr(f"{kind}={words.value}"))
        words.values.setdefault(KINDS[kind][0], []).append(words.value)
    if kind == "user":
        texts = words.values.pop("hostfwd", [])
        try:
            forwards = tuple(_forward(text) for text in texts)
        except ValueError as error:
            raise words.error("hostfwd=tcp|udp:[HOST]:PORT-[GUEST]:PORT", repr(", ".join(texts))) from error
        restricted = words.parsed("restrict", _on, "restrict=on|off")
        offloads = words.parsed("offload", _on, "offload=on|off")
        found = {"forwards": forwards, "is_restricted": bool(restricted), "offloads": offloads is not False}
        return {"network": kind, **found}
    if kind in ("tap", "hub"):
        key = KINDS[kind][0]
        name = words.take(key)
        if not name:
            raise words.error(f"{key}= with {kind}", "none")
        return {"network": kind, "name": name}
    if kind == "socket":
        wanted = "=HOST:PORT"
        listen, connect, remote, local = (words.parsed(key, _address, key + wanted) for key in KINDS["socket"])
        ways = (listen is not None) + (connect is not None) + (remote is not None)
        if ways != 1 or (remote is None) != (local is None):
            raise words.error("one of listen=, connect=, udp= with localaddr=", "another choice of them")
        return {"network": kind, "listen": listen, "connect": connect, "remote": remote, "local": local}
    return {"network": kind}


def parse_nic(text: str) -> NicOptions:
    """A card with its network, of `user,key=value,...`. Raises InvalidNic."""
    words = _Words("nic", text)
    found = NicOptions(**{**_network(words), **_card(words)})
    words.finish((*KINDS[words.kind], *COMMON))
    return found


def parse_netdev(text: str) -> tuple[str, NicOptions]:
    """A network with its id=, for a -device. Raises InvalidNic."""
    words = _Words("netdev", text)
    found = _network(words)
    name = words.take("id")
    if not name:
        raise words.error("id=", "none")
    # The cable's: how long its frames may be, and who listens.
    cable = {key: value for key, value in _card(words).items() if key in ("mtu", "capture")}
    words.finish((*KINDS[words.kind], "id", "mtu", "pcap"))
    return name, NicOptions(**found, **cable)


def parse_nics(
    nics: list[str] | None, netdevs: list[str] | None, devices: list[str] | None
) -> tuple[tuple[NicOptions, ...], list[str]]:
    """The cards of a command line, and the devices that are none. Raises InvalidNic.

    Cards of -device come first, in their order. `none` among the cards of -nic stands for no card.
    """
    networks: dict[str, NicOptions] = {}
    for text in netdevs or ():
        name, network = parse_netdev(text)
        if name in networks:
            raise InvalidNic("netdev", f"id={name} once", "it twice")
        networks[name] = network
    found, others = [], []
    for text in devices or ():
        if text.partition(",")[0] in DEVICES:
            found.append(_device(text, networks))
        else:
            others.append(text)
    for name in networks:
        raise InvalidNic("netdev", f"a card for id={name}", f"no --device with netdev={name}")
    found += [nic for nic in map(parse_nic, nics or ()) if nic.network != "none"]
    return tuple(found), others


def _device(text: str, networks: dict[str, NicOptions]) -> NicOptions:
    """The card of a -device; its network is taken out of `networks`."""
    words = _Words("device", text)
    name = words.take("netdev")
    if name is None or name not in networks:
        raise words.error("netdev= with the id of a --netdev", "none" if name is None else repr(name))
    mac = words.parsed("mac", _mac, "mac= with the address of one station, such as 52:54:00:12:34:56,")
    words.finish(("netdev", "mac"))
    return replace(networks.pop(name), model=DEVICES[words.kind], mac=mac)
