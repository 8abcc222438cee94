"""Errors of --drive and --cdrom, and of the images behind them."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

from trapgate.cli.drives import InvalidDrive, UnknownDevice
from trapgate.cli.errors import CommandLineError
from trapgate.devices.disks.foreign import ForeignImage, NotThatFormat, ReaderMissing
from trapgate.devices.disks.raw_image import ImageInUse, ImageUnusable, RawImage
from trapgate.firmware.errors import NotBootable
from trapgate.lab.errors import ConflictingOptions
from trapgate.machine.block import MediumFull, MediumReadOnly, MediumTooShort, MediumUnreadable

from .cases import World, case

DISK = bytes(4096)
QCOW2 = b"QFI\xfb".ljust(4096, b"\0")


def _run(*arguments: str) -> Callable[[World], object]:
    def action(world: World) -> None:
        world.write("disk.img", DISK)
        world.write("disk.qcow2", QCOW2)
        (world.folder / "folder").mkdir(exist_ok=True)
        world.cli(*arguments)

    return action


def _drive(text: str) -> Callable[[World], object]:
    return _run("run", "embedded", "--drive", text)


def _in_use(writes: bool) -> Callable[[World], object]:
    def action(world: World) -> None:
        path = world.write("disk.img", DISK)
        other = RawImage(path, writes=not writes)
        try:
            RawImage(path, writes)
        finally:
            other.close()

    return action


def _no_locks(world: World) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    world.monkeypatch.setattr(fcntl, "flock", flock)
    RawImage(world.write("disk.img", DISK))


def _with(action: Callable[[RawImage, World], object], writes: bool = False) -> Callable[[World], object]:
    def run(world: World) -> None:
        disk = RawImage(world.write("disk.img", DISK), writes)
        try:
            action(disk, world)
        finally:
            world.monkeypatch.undo()
            world.monkeypatch.chdir(world.folder)
            disk.close()

    return run


def _fails(name: str, number: int) -> Callable[[RawImage, World], None]:
    """Let a function of `os` fail."""

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    def action(disk: RawImage, world: World) -> None:
        world.monkeypatch.setattr(os, name, fail)
        {"pread": lambda: disk.read(0, 512), "pwrite": lambda: disk.write(0, b"x"), "fsync": disk.flush}[name]()

    return action


def _truncated(disk: RawImage, world: World) -> None:
    os.truncate("disk.img", 1000)
    disk.read(512, 1024)


class _Stream:
    """What the package gives for an image: it works once, and then not."""

    size = 4096

    def __init__(self, path: Path, mode: str) -> None:
        self._mode = mode

    def seek(self, offset: int) -> None:
        if self._mode == "damaged":
            raise ValueError("bad table\nsomewhere")

    def read(self, length: int) -> bytes:
        return b"\0" * 100

    def close(self) -> None:
        if self._mode == "unclosable":
            raise ValueError("cannot close")


def _foreign(mode: str, use: Callable[[ForeignImage], object]) -> Callable[[World], object]:
    """Use an image through a played package."""

    def action(world: World) -> None:
        def reader(path: Path) -> _Stream:
            if mode == "no image":
                raise EOFError
            return _Stream(path, mode)

        names = ("dissect", "dissect.hypervisor", "dissect.hypervisor.disk", "dissect.hypervisor.disk.qcow2")
        for name in names:
            world.monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[names[-1]].QCow2 = reader  # type: ignore[attr-defined]
        use(ForeignImage(world.write("disk.qcow2", QCOW2), "qcow2"))

    return action


def _missing_reader(world: World) -> None:
    world.monkeypatch.setitem(sys.modules, "dissect", None)
    _drive("file=disk.qcow2")(world)


_SEE = "write --drive file=disk.img,if=ide"
for text, wanted, got in (
    ("disk.img", "key=value", "'disk.img'"),
    ("file=disk.img,cache=none", "one of file, if, format, readonly, media, id", "'cache'"),
    ("file=a,file=b", "file= once", "it twice"),
    ("file=disk.img,if=scsi", "if=ide|virtio|hypercall|none", "'scsi'"),
    ("if=ide", "file=", "none"),
    ("file=disk.img,if=none,id=d", "id= with if=none, and a --device NAME,drive=ID", "no such pair"),
    ("file=disk.img,if=virtio,media=cdrom", "if=ide with media=cdrom", "if=virtio"),
):
    case(InvalidDrive, f"wanted {wanted} in --drive, got {got}: {_SEE}", _drive(text))
case(
    UnknownDevice,
    (
        "wanted a device that trapgate has (virtio-rng-pci, virtio-serial-pci, virtio-rng-device, "
        "virtio-serial-device, virtconsole, virtserialport, ide-hd, ide-cd, virtio-blk-pci, virtio-blk-device), "
        "got 'sb16': choose one with --device"
    ),
    _run("run", "embedded", "--device", "sb16"),
)
case(
    CommandLineError,
    (
        "wanted --drive, --device, --nic and --virtfs after trapgate run or trapgate compare, got one after trapgate "
        "trace: "
        "leave it out"
    ),
    _run("trace", "embedded", "--drive", "file=disk.img"),
)
case(
    ConflictingOptions,
    "wanted --write with one run, got it with several: leave it out, the images stay as they are",
    _run("compare", "embedded", "--drive", "file=disk.img", "--write"),
)
case(
    ConflictingOptions,
    (
        "wanted --chardev and a --virtfs that is written with one run, got one with several: leave it out, or add "
        "readonly=on"
    ),
    _run("compare", "embedded", "--virtfs", "local,path=.,mount_tag=t"),
)
case(
    ConflictingOptions,
    "wanted at most 4 drives with if=ide, got more: give some of them if=virtio",
    _run("run", "embedded", *["--drive", "file=disk.img"] * 4, "--cdrom", "disk.img"),
)
case(
    ConflictingOptions,
    "wanted at most 27 drives with if=virtio, got more: leave some of them out",
    _run("run", "embedded", *["--drive", "file=disk.img,if=virtio"] * 28),
)
case(
    ConflictingOptions,
    (
        "wanted at most 8 virtio devices without PCI, got more: give some of them a device that ends in -pci"
    ),
    _run(
        "run", "embedded", "--device", "virtio-rng-device", "--device", "virtio-blk-device,drive=d",
        *["--drive", "file=disk.img,if=none,id=d"] * 8,
    ),
)  # fmt: skip
case(
    ConflictingOptions,
    (
        "wanted a raw image with --write, got the qcow2 image disk.qcow2: convert it with qemu-img convert -O raw, or "
        "leave --write out"
    ),
    _run("run", "embedded", "--drive", "file=disk.qcow2", "--write"),
)
case(
    NotBootable,
    (
        "wanted a boot sector that ends in 55h AAh in the disk image disk.img, got 00h 00h there: name an image "
        "that can be booted"
    ),
    _run("run", "--drive", "file=disk.img"),
)
case(
    ImageUnusable,
    "wanted a disk image at missing.img, got no such file or directory: name another file",
    _drive("file=missing.img"),
)
case(ImageUnusable, "wanted a disk image at folder, got a directory: name another file", _drive("file=folder"))
case(
    ImageUnusable,
    "wanted a disk image at disk.img, got one that cannot be locked (no locks available): name another file",
    _no_locks,
)
case(
    ImageInUse,
    (
        "wanted disk.img for this run alone, because it is written, got one in use: end the other run, or use a copy "
        "of the file"
    ),
    _in_use(True),
)
case(
    ImageInUse,
    "wanted an image that nobody writes in disk.img, got one in use: end the other run, or use a copy of the file",
    _in_use(False),
)
case(
    ReaderMissing,
    (
        "wanted the package dissect.hypervisor to read the qcow2 image disk.qcow2, got an installation without it: pip "
        "install 'trapgate[images]', or convert the image with qemu-img convert -O raw"
    ),
    _missing_reader,
)
case(
    NotThatFormat,
    "wanted a qcow2 image in disk.qcow2, got EOFError: name its format with format=, or another file",
    _foreign("no image", lambda image: None),
)
case(
    MediumTooShort,
    "wanted 1024 bytes at byte 512 of disk.img, got 488: the image is damaged or truncated",
    _with(_truncated),
)
case(
    MediumTooShort,
    "wanted 512 bytes at byte 0 of disk.qcow2, got 100: the image is damaged or truncated",
    _foreign("short", lambda image: image.read(0, 512)),
)
case(
    MediumUnreadable,
    "wanted to access disk.img, got input/output error: check the file",
    _with(_fails("pread", errno.EIO)),
)
case(
    MediumUnreadable,
    "wanted to access disk.img, got input/output error: check the file",
    _with(_fails("fsync", errno.EIO), writes=True),
)
case(
    MediumFull,
    "wanted room for what the guest writes to disk.img, got no space left on device: free some",
    _with(_fails("pwrite", errno.ENOSPC), writes=True),
)
case(
    MediumReadOnly,
    "wanted a medium that can be written, got disk.img: leave readonly=on out",
    _with(lambda disk, world: disk.write(0, b"x")),
)
case(
    MediumReadOnly,
    "wanted a medium that can be written, got disk.qcow2: leave readonly=on out",
    _foreign("good", lambda image: image.write(0, b"x")),
)
case(
    MediumUnreadable,
    "wanted to access disk.qcow2, got bad table: check the file",
    _foreign("damaged", lambda image: image.read(0, 512)),
)
case(
    MediumUnreadable,
    "wanted to access disk.qcow2, got cannot close: check the file",
    _foreign("unclosable", lambda image: image.close()),
)
