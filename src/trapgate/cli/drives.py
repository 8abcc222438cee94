"""-drive and -cdrom, in QEMU's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from trapgate.cli.characters import virtio_port
from trapgate.cli.errors import CommandLineError
from trapgate.lab.options import CharacterOptions, DriveOptions, VirtioPortOptions

Drives = Annotated[
    list[str] | None,
    typer.Option(
        "--drive", "-drive", metavar="file=F,if=ide|virtio|hypercall,...", help="A disk; may be given several times."
    ),
]
Cdrom = Annotated[str | None, typer.Option("--cdrom", "-cdrom", metavar="FILE", help="A CD in an IDE CD-ROM drive.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", "-device", metavar="NAME[,KEY=VALUE...]", help="A device: virtio-rng-pci ..."),
]
Write = Annotated[bool, typer.Option("--write", help="The guest's writes go into the disk images.")]

#: Ports of the virtio console, and the device that has them.
VIRTIO_PORTS = ("virtconsole", "virtserialport")
CONSOLE = "virtio-serial-pci"
KEYS = ("file", "if", "format", "readonly", "media", "id")
#: For each key with a fixed set of values: those.
VALUES = {
    "if": ("ide", "virtio", "hypercall", "none"),
    "format": ("raw", "qcow2", "vmdk", "vdi", "vhdx"),
    "readonly": ("on", "off"),
    "media": ("disk", "cdrom"),
}


Interface = Literal["ide", "virtio", "virtio-mmio", "hypercall"]
INTERFACES: dict[str, Interface] = {
    "ide": "ide", "virtio": "virtio", "hypercall": "hypercall",
}  # fmt: skip


class UnknownDevice(CommandLineError):
    """-device names none."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"a device that trapgate has ({', '.join(known)})", repr(name), "choose one with --device")


class InvalidDrive(CommandLineError):
    """-drive is not a list of key=value as QEMU has it."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(f"{wanted} in --drive", got, "write --drive file=disk.img,if=ide")


#: Devices that a drive with if=none is behind, and their interfaces.
DRIVE_DEVICES: dict[str, Literal["ide", "virtio", "virtio-mmio"]] = {
    "ide-hd": "ide", "ide-cd": "ide", "virtio-blk-pci": "virtio", "virtio-blk-device": "virtio-mmio",
}  # fmt: skip


def parse_drive(text: str, interfaces: Mapping[str, Literal["ide", "virtio", "virtio-mmio"]]) -> DriveOptions:
    """A drive of `key=value,...`; a comma within a value is doubled, as in QEMU. Raises InvalidDrive.

    `interfaces` are those of --device, by the drives' identifiers.
    """
    values: dict[str, str] = {}
    for part in text.replace(",,", "\0").split(","):
        key, equals, value = part.replace("\0", ",").partition("=")
        if not equals:
            raise InvalidDrive("key=value", repr(part.replace("\0", ",")))
        if key not in KEYS:
            raise InvalidDrive(f"one of {', '.join(KEYS)}", repr(key))
        if key in values:
            raise InvalidDrive(f"{key}= once", "it twice")
        if key in VALUES and value not in VALUES[key]:
            raise InvalidDrive(f"{key}={'|'.join(VALUES[key])}", repr(value))
        values[key] = value
    if not values.get("file"):
        raise InvalidDrive("file=", "none")
    is_cd = values.get("media") == "cdrom"
    interface: Interface = INTERFACES[values.get("if", "ide")] if values.get("if") != "none" else "ide"
    if values.get("if") == "none":
        if values.get("id", "") not in interfaces:
            raise InvalidDrive("id= with if=none, and a --device NAME,drive=ID", "no such pair")
        interface = interfaces[values["id"]]
    if is_cd and interface != "ide":
        raise InvalidDrive("if=ide with media=cdrom", f"if={values['if']}")
    return DriveOptions(
        file=Path(values["file"]),
        interface=interface,
        format=values.get("format"),
        read_only=values.get("readonly") == "on",
        is_cd=is_cd,
    )


def parse_drives(
    drives: list[str] | None, cdrom: str | None, devices: list[str] | None
) -> tuple[tuple[DriveOptions, ...], list[str]]:
    """All drives of a command line, and the devices that are not for drives. Raises InvalidDrive."""
    interfaces, others = {}, []
    for text in devices or ():
        name, *words = text.split(",")
        if name in DRIVE_DEVICES:
            interfaces[dict(word.partition("=")[::2] for word in words).get("drive", "")] = DRIVE_DEVICES[name]
        else:
            others.append(text)
    found = [parse_drive(text, interfaces) for text in drives or ()]
    if cdrom is not None:
        found.append(DriveOptions(file=Path(cdrom), format="raw", is_cd=True))
    return tuple(found), others


def parse_devices(
    texts: list[str] | None, chardevs: Mapping[str, CharacterOptions]
) -> tuple[tuple[str, ...], tuple[VirtioPortOptions, ...]]:
    """All devices of a command line, and the ports of its virtio console. Raises UnknownDevice, InvalidCharacters."""
    if not texts:
        return (), ()
    from trapgate.boards.pci import DEVICES

    names, ports = [], []
    for text in texts:
        name, *words = text.split(",")
        values = dict(word.partition("=")[::2] for word in words)
        if name in VIRTIO_PORTS:
            ports.append(virtio_port(name, values, chardevs))
        elif name in DEVICES:
            names.append(name)
        else:
            raise UnknownDevice(name, (*DEVICES, *VIRTIO_PORTS, *DRIVE_DEVICES))
    if ports and not any(name.startswith("virtio-serial") for name in names):
        names.append(CONSOLE)
    return tuple(dict.fromkeys(names)), tuple(ports)
