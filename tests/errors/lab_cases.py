"""Errors of what a run is made of: guests, files, Debian's packages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import zstandard

from lab.played_apt import PACKAGES, install_apt, package, tar
from trapgate.firmware.errors import NotAKernel, TooLittleMemory
from trapgate.firmware.raw import RawImage
from trapgate.lab import debian
from trapgate.lab import run as lab_run
from trapgate.lab.console_output import ConsoleSplitter
from trapgate.lab.debian import AptMissing, CacheUnwritable, DownloadFailed, PackageNotFound, fetch_debian
from trapgate.lab.debian_package import CorruptPackage, extract
from trapgate.lab.ends import End
from trapgate.lab.errors import CommandNotRun, ConflictingOptions, FileUnusable, UnknownProcessor
from trapgate.lab.guest import Guest
from trapgate.lab.initramfs import REQUIRED_APPLETS, NotBusybox, build_initramfs

from .cases import World, case

SECTOR = bytes(510) + b"\x55\xaa"


_KERNEL_PACKAGE = PACKAGES["linux-image-9-cloud-amd64"]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _run(*arguments: str) -> Callable[[World], object]:
    def action(world: World) -> None:
        world.write("sector", SECTOR)
        world.write("notes.txt", b"no image")
        with open("large", "wb") as file:
            os.truncate(file.fileno(), (4 << 30) + 1)
        world.cli("run", *arguments)

    return action


def _command_not_run(world: World) -> None:
    guest = Guest(RawImage(SECTOR), "sector", ConsoleSplitter("word"))
    assert guest.splitter is not None
    guest.splitter.feed(b"Kernel panic - not syncing: no init\r\n")
    lab_run._status(End("reset"), guest)


def _fetch(*marks: str, change: Callable[[Path], object] = lambda folder: None) -> Callable[[World], object]:
    """Fetch Debian from a played apt with these marks (see lab/played_apt.py)."""

    def action(world: World) -> None:
        folder = world.folder / "apt"
        install_apt(folder)
        for mark in marks:
            (folder / mark).touch()
        change(folder)
        world.monkeypatch.setenv("PATH", str(folder))
        fetch_debian(cache=Path("cache"))

    return action


def _no_apt(world: World) -> None:
    world.monkeypatch.setenv("PATH", str(world.folder))
    fetch_debian(cache=Path("cache"))


def _changing_cache(world: World) -> None:
    world.monkeypatch.setattr(debian, "_read_guest", lambda folder: None)
    _fetch()(world)


def _unwritable_cache(world: World) -> None:
    world.write("cache", b"a file")
    _fetch()(world)


def _other_dependency(folder: Path) -> None:
    script = folder / "apt-cache"
    script.write_text(script.read_text().replace("Depends: linux-image-9-cloud-amd64 (= 9)", "Depends: nothing"))


def _busybox(*applets: str) -> bytes:
    """What of a busybox tells which applets it has."""
    return b"\x7fELF\0" + b"".join(name.encode() + b"\0" for name in ("[", "[[", *applets)) + b"\0"


def _extract(data: bytes, *patterns: str) -> Callable[[World], object]:
    return lambda world: extract(world.write("p.deb", data), patterns or ["a"])


def _short_member() -> bytes:
    """A whole package whose tar archive ends in the middle of a file, without the marks of a tar archive's end."""
    archive = tar({"a": b"x" * 3000}, "w")[: 512 + 1024]
    return package(zstandard.ZstdCompressor().compress(archive), "data.tar.zst")


case(
    UnknownProcessor,
    (
        "wanted a processor that trapgate has (opteron-2007, opteron-2006, pentium3, pentium, 486), got 'z80': "
        "choose one with --cpu"
    ),
    _run("--cpu", "z80"),
)
case(
    ConflictingOptions,
    "wanted a guest or --kernel, got both: leave one of them out",
    _run("sector", "--kernel", "sector"),
)
case(
    ConflictingOptions,
    "wanted a command only for a guest with a shell, got one for another: use trapgate run debian -- COMMAND",
    _run("sector", "--", "ls"),
)
case(
    ConflictingOptions,
    "wanted a command after --, got nothing: add one, or leave -- out for a shell",
    _run("debian", "--"),
)
case(
    ConflictingOptions,
    "wanted --initrd with a kernel, got it with embedded: name a kernel with --kernel",
    _run("--initrd", "sector"),
)
case(
    TooLittleMemory,
    "wanted at least 80 MB of memory for Debian's kernel and busybox, got 64 MB: use --memory 80M or more",
    _run("debian", "-m", "64M"),
)
case(
    NotAKernel,
    (
        "wanted a kernel (Linux bzImage, multiboot 1, or ELF with a PVH entry), got a boot sector of 512 bytes in "
        "sector: name a kernel image with --kernel"
    ),
    _run("--kernel", "sector"),
)
case(
    ConflictingOptions,
    "wanted --initrd and --append with a kernel, got a boot sector in sector: leave them out",
    _run("sector", "--append", "quiet"),
)
case(FileUnusable, "wanted a guest file at ., got a directory: name another file", _run("."))
case(
    FileUnusable,
    "wanted a guest file at /dev/null, got something that is no plain file: name another file",
    _run("/dev/null"),
)
case(
    FileUnusable,
    "wanted a guest file at large, got 4294967297 bytes: name another file, of at most 4 GB",
    _run("large"),
)
case(
    FileUnusable,
    (
        "wanted a guest file at missing, got no such file or directory: name another file, or one of debian, "
        "embedded, trapgate-guest, real-loop, bench, hypervisor, io"
    ),
    _run("missing"),
)
case(
    FileUnusable,
    "wanted a kernel file at missing, got no such file or directory: name another file",
    _run("--kernel", "missing"),
)
case(FileUnusable, "wanted a kernel file at a\0b, got no valid name: name another file", _run("--kernel", "a\0b"))
case(
    CommandNotRun,
    (
        "wanted the guest to run the command, got one that ended (reset) before it was done: it said 'Kernel "
        "panic - not syncing: no init', run it without a command to see all"
    ),
    _command_not_run,
)
case(
    NotBusybox,
    (
        "wanted a static busybox with cat, cttyhack, hostname, mount, poweroff, printf, setsid, sh, stty, got 2 "
        "bytes that are no busybox: install Debian's busybox-static or name another busybox"
    ),
    lambda w: build_initramfs(b"MZ"),
)
case(
    NotBusybox,
    (
        "wanted a static busybox with cat, cttyhack, hostname, mount, poweroff, printf, setsid, sh, stty, got one "
        "without stty: install Debian's busybox-static or name another busybox"
    ),
    lambda w: build_initramfs(_busybox(*REQUIRED_APPLETS[:-1])),
)
case(
    AptMissing,
    (
        "wanted apt-get to get Debian's kernel, got a host without it: run on Debian, or name files with --kernel "
        "and --initrd"
    ),
    _no_apt,
)
case(
    CacheUnwritable,
    (
        "wanted a folder for Debian's files at cache, got file exists: make it writable, or set XDG_CACHE_HOME to "
        "one that is"
    ),
    _unwritable_cache,
)
case(
    PackageNotFound,
    (
        "wanted the package busybox-static from apt's sources, got no such package: add Debian (amd64, main) to "
        "apt's sources, or name files with --kernel and --initrd"
    ),
    _fetch(change=lambda folder: (folder / "busybox-static.deb").unlink()),
)
case(
    PackageNotFound,
    (
        "wanted the package linux-image-cloud-amd64 from apt's sources, got one that depends on 'nothing': add "
        "Debian (amd64, main) to apt's sources, or name files with --kernel and --initrd"
    ),
    _fetch(change=_other_dependency),
)
case(
    DownloadFailed,
    (
        "wanted to download linux-image-9-cloud-amd64 through apt, got files in "
        f"cache/linux-image-9-cloud-amd64_9_{_sha256(_KERNEL_PACKAGE)[:12]}_9_"
        f"{_sha256(PACKAGES['busybox-static'])[:12]} that changed while they were written: "
        "check the network, or name files with --kernel and --initrd"
    ),
    _changing_cache,
)
case(
    DownloadFailed,
    (
        "wanted to download Debian's package lists through apt, got Failed to fetch somewhere  Could not resolve "
        "host: check the network, or name files with --kernel and --initrd"
    ),
    _fetch("offline", "no-lists"),
)
case(
    DownloadFailed,
    (
        "wanted to download linux-image-9-cloud-amd64 through apt, got Failed to fetch somewhere  Could not "
        "resolve host: check the network, or name files with --kernel and --initrd"
    ),
    _fetch("offline"),
)
case(
    DownloadFailed,
    (
        "wanted to download linux-image-9-cloud-amd64 through apt, got a file with SHA-256 "
        f"{_sha256(_KERNEL_PACKAGE[:-10])} instead of {_sha256(_KERNEL_PACKAGE)}: "
        "check the network, or name files with --kernel and --initrd"
    ),
    _fetch("truncate"),
)
case(
    CorruptPackage,
    "wanted a Debian package at p.deb, got 4 bytes that are no ar archive: remove the file and fetch it again",
    _extract(b"PK\3\4"),
)
case(
    CorruptPackage,
    "wanted a Debian package at p.deb, got a damaged ar header at byte 8: remove the file and fetch it again",
    _extract(package(tar({"a": b"x"})).replace(b"`\n", b"!\n")),
)
case(
    CorruptPackage,
    "wanted a Debian package at p.deb, got a file truncated to 304 bytes: remove the file and fetch it again",
    _extract(package(tar({"a": b"x"}))[:-40]),
)
case(
    CorruptPackage,
    "wanted a Debian package at p.deb, got one without data.tar: remove the file and fetch it again",
    _extract(package(b"", "control.tar.xz")),
)
case(
    CorruptPackage,
    (
        "wanted a Debian package at p.deb, got an unreadable one (file could not be opened successfully): remove "
        "the file and fetch it again"
    ),
    _extract(package(b"no archive")),
)
case(
    CorruptPackage,
    (
        "wanted a Debian package at p.deb, got an unreadable one (unexpected end of data): remove the file and "
        "fetch it again"
    ),
    _extract(_short_member()),
)
case(
    CorruptPackage,
    "wanted a Debian package at p.deb, got one without boot/vmlinuz: remove the file and fetch it again",
    _extract(package(tar({"a": b"x"})), "a", "boot/vmlinuz"),
)
