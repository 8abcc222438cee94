"""-drive and -cdrom, in QEMU's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.lab.options import DriveOptions

Drives = Annotated[
    list[str] | None,
    typer.Option("--drive", "-drive", metavar="file=F,if=ide|virtio,...", help="A disk; may be given several times."),
]
Cdrom = Annotated[str | None, typer.Option("--cdrom", "-cdrom", metavar="FILE", help="A CD in an IDE CD-ROM drive.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", "-device", metavar="NAME", help="A PCI device: virtio-rng-pci, virtio-serial-pci."),
]
Write = Annotated[bool, typer.Option("--write", help="The guest's writes go into the disk images.")]

KEYS = ("file", "if", "format", "readonly", "media")
#: For each key with a fixed set of values: those.
VALUES = {
    "if": ("ide", "virtio"),
    "format": ("raw", "qcow2", "vmdk", "vdi", "vhdx"),
    "readonly": ("on", "off"),
    "media": ("disk", "cdrom"),
}


class UnknownDevice(CommandLineError):
    """-device names none."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"a device that trapgate has ({', '.join(known)})", repr(name), "choose one with --device")


class InvalidDrive(CommandLineError):
    """-drive is not a list of key=value as QEMU has it."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(f"{wanted} in --drive", got, "write --drive file=disk.img,if=ide")


def parse_drive(text: str) -> DriveOptions:
    """A drive of `key=value,...`; a comma within a value is doubled, as in QEMU. Raises InvalidDrive."""
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
    interface: Literal["ide", "virtio"] = "virtio" if values.get("if") == "virtio" else "ide"
    if is_cd and interface != "ide":
        raise InvalidDrive("if=ide with media=cdrom", "if=virtio")
    return DriveOptions(
        file=Path(values["file"]),
        interface=interface,
        format=values.get("format"),
        read_only=values.get("readonly") == "on",
        is_cd=is_cd,
    )


def parse_drives(drives: list[str] | None, cdrom: str | None) -> tuple[DriveOptions, ...]:
    """All drives of a command line. Raises InvalidDrive."""
    found = [parse_drive(text) for text in drives or ()]
    if cdrom is not None:
        found.append(DriveOptions(file=Path(cdrom), format="raw", is_cd=True))
    return tuple(found)


def parse_devices(names: list[str] | None) -> tuple[str, ...]:
    """All devices of a command line. Raises UnknownDevice."""
    if not names:
        return ()
    from trapgate.boards.pci import DEVICES

    for name in names:
        if name not in DEVICES:
            raise UnknownDevice(name, DEVICES)
    return tuple(dict.fromkeys(names))
