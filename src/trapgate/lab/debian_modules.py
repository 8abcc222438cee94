"""Kernel modules of Debian's kernels: the drivers of the devices that a run is given, in the order of loading.

The cloud kernel is the usual one: it starts quicker. The generic kernel of the same version has drivers for what no
cloud has, such as Intel's e1000.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from trapgate.lab.debian import KERNEL_PATH, DebianGuest, DebianUnavailable, Progress, fetch_debian
from trapgate.lab.debian_files import fetch_files
from trapgate.lab.options import DriveOptions

#: All that a run may need, so that one download is enough.
MODULES = (
    "scsi_common", "scsi_mod", "libata", "ata_piix", "sd_mod", "cdrom", "sr_mod", "isofs", "virtio", "virtio_ring",
    "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "virtio-rng", "virtio_console",
    "failover", "net_failover", "virtio_net", "virtio_mmio",
)  # fmt: skip
#: Those that the generic kernel alone has: the cloud kernel lacks 9p, the card's and the parallel port's, and has ext4
#: built in.
GENERIC_MODULES = (
    "e1000", "crc16", "crc32c_generic", "mbcache", "jbd2", "ext4", "crc64", "crc64-rocksoft", "crct10dif_common",
    "crc-t10dif", "t10-pi", "fscache", "netfs", "9pnet", "9pnet_virtio", "9p", "parport", "parport_pc", "lp",
)  # fmt: skip
DISK_DRIVERS = ("sd_mod", "ata_piix")
CD_DRIVERS = ("sr_mod", "isofs", "ata_piix")
VIRTIO_DRIVERS = ("virtio_pci", "virtio_blk")
#: A card's drivers, by its model.
NIC_DRIVERS = {"virtio": ("virtio_pci", "virtio_net"), "e1000": ("e1000",)}
#: Cards that the cloud kernel knows nothing of.
GENERIC_NICS = ("e1000",)
#: Of a folder of the host's, and of the parallel port, which the cloud kernel does not know either.
FOLDER_DRIVERS = ("virtio_pci", "9pnet_virtio", "9p")
PARALLEL_DRIVERS = ("parport_pc", "lp")
#: What a file system on a disk needs of the generic kernel.
FILE_SYSTEMS = ("crc32c_generic", "ext4")
GENERIC_KERNEL = "vmlinuz"
MMIO_DRIVERS = ("virtio_mmio", "virtio_blk")
DEVICE_DRIVERS = {
    "virtio-rng-pci": ("virtio_pci", "virtio-rng"), "virtio-serial-pci": ("virtio_pci", "virtio_console"),
    "virtio-rng-device": ("virtio_mmio", "virtio-rng"), "virtio-serial-device": ("virtio_mmio", "virtio_console"),
}  # fmt: skip
XZ_MAGIC = b"\xfd7zXZ\0"
#: A module's own statement of what it needs, in its section .modinfo.
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def needed_modules(
    drives: Sequence[DriveOptions],
    devices: Sequence[str] = (),
    nics: Sequence[str] = (),
    is_generic: bool = False,
    folders: bool = False,
    parallel: bool = False,
) -> tuple[str, ...]:
    """The drivers for `drives`, `devices`, network cards of models `nics`, folders of the host and a parallel port,
    without what they depend on."""
    names: list[str] = [*FILE_SYSTEMS] if is_generic and drives else []
    names += FOLDER_DRIVERS if folders else ()
    names += PARALLEL_DRIVERS if parallel else ()
    for device in devices:
        names += DEVICE_DRIVERS.get(device, ())
    for drive in drives:
        names += _drive_drivers(drive)
    for model in nics:
        names += NIC_DRIVERS.get(model, ())
    return tuple(dict.fromkeys(names))


def _drive_drivers(drive: DriveOptions) -> tuple[str, ...]:
    if drive.interface == "ide":
        return CD_DRIVERS if drive.is_cd else DISK_DRIVERS
    # Linux has no driver for a disk behind hypercalls.
    return {"virtio": VIRTIO_DRIVERS, "virtio-mmio": MMIO_DRIVERS}.get(drive.interface, ())


def fetch_modules(
    guest: DebianGuest, names: Iterable[str], progress: Progress | None = None
) -> tuple[DebianGuest, dict[str, bytes]]:
    """The modules `names` with all that they depend on, in the order of loading, and the kernel that they are for.

    That is `guest`, or Debian's present one where the mirror no longer has the package of `guest`. Raises
    DebianUnavailable, CorruptPackage.
    """
    wanted = {f"{name}.ko": rf"(usr/)?lib/modules/.*/{re.escape(name)}\.ko(\.xz)?" for name in MODULES}
    try:
        files = fetch_files(guest.version.split()[0], wanted, progress)
    except DebianUnavailable:
        guest = fetch_debian(progress, refresh=True)
        files = fetch_files(guest.version.split()[0], wanted, progress)
    contents = {name: _content(files.paths[f"{name}.ko"].read_bytes()) for name in MODULES}
    return guest, in_order(contents, names)


def fetch_generic(
    guest: DebianGuest, names: Iterable[str], progress: Progress | None = None
) -> tuple[DebianGuest, dict[str, bytes]]:
    """The generic kernel beside the cloud kernel of `guest`, and its modules as `fetch_modules` has them.

    Raises DebianUnavailable, CorruptPackage.
    """
    modules = (*MODULES, *GENERIC_MODULES)
    wanted = {f"{name}.ko": rf"(usr/)?lib/modules/.*/{re.escape(name)}\.ko(\.xz)?" for name in modules}
    wanted[GENERIC_KERNEL] = KERNEL_PATH
    try:
        files = fetch_files(generic_package(guest), wanted, progress)
    except DebianUnavailable:
        guest = fetch_debian(progress, refresh=True)
        files = fetch_files(generic_package(guest), wanted, progress)
    contents = {name: _content(files.paths[f"{name}.ko"].read_bytes()) for name in modules}
    generic = replace(guest, kernel=files.paths[GENERIC_KERNEL], version=files.version)
    return generic, in_order(contents, names)


def generic_package(guest: DebianGuest) -> str:
    """The package of the generic kernel of the same version."""
    return guest.version.split()[0].replace("-cloud-", "-")


def _content(data: bytes) -> bytes:
    return lzma.decompress(data) if data.startswith(XZ_MAGIC) else data


def in_order(contents: Mapping[str, bytes], names: Iterable[str]) -> dict[str, bytes]:
    """Of all modules `contents`, `names` and what they depend on, each behind what it depends on."""
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name not in contents:
            return
        match = DEPENDS.search(contents[name])
        for needed in match[1].decode().split(",") if match is not None else ():
            add(needed)
        ordered[name] = contents[name]

    for name in names:
        add(name)
    return ordered
