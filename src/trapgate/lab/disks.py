"""Opens the disks that a run is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from trapgate.boards.pci import IDE_DRIVES, VIRTIO_SLOTS, DiskConfig
from trapgate.boards.virtio_mmio import MOST_DEVICES
from trapgate.devices.disks.foreign import ForeignImage, recognise_format
from trapgate.devices.disks.overlay import Overlay
from trapgate.devices.disks.raw_image import RawImage
from trapgate.lab.errors import ConflictingOptions
from trapgate.lab.options import DriveOptions, RunOptions
from trapgate.machine.block import BlockBackend

RAW = "raw"


def check_drives(options: RunOptions) -> None:
    """Raises ConflictingOptions for drives that cannot be had together."""
    if sum(drive.interface == "ide" for drive in options.drives) > IDE_DRIVES:
        wanted = f"at most {IDE_DRIVES} drives with if=ide"
        raise ConflictingOptions(wanted, "more", "give some of them if=virtio")
    if sum(drive.interface == "virtio" for drive in options.drives) > VIRTIO_SLOTS:
        raise ConflictingOptions(f"at most {VIRTIO_SLOTS} drives with if=virtio", "more", "leave some of them out")
    in_memory = sum(drive.interface == "virtio-mmio" for drive in options.drives)
    if in_memory + sum(name.endswith("-device") for name in options.devices) > MOST_DEVICES:
        wanted = f"at most {MOST_DEVICES} virtio devices without PCI"
        raise ConflictingOptions(wanted, "more", "give some of them a device that ends in -pci")


@contextmanager
def open_disks(options: RunOptions) -> Iterator[tuple[DiskConfig, ...]]:
    """The drives of a run, in their order; closed in the end. Raises ImageError, RunError."""
    check_drives(options)
    with ExitStack() as stack:
        disks = []
        for drive in options.drives:
            medium = open_medium(drive, options.write)
            stack.callback(medium.close)
            disks.append(DiskConfig(medium, drive.interface, drive.is_cd))
        yield tuple(disks)


def open_medium(drive: DriveOptions, write: bool) -> BlockBackend:
    """The medium of one drive: a CD or a read-only disk as it is, else under an overlay unless `write`."""
    read_only = drive.read_only or drive.is_cd
    form = drive.format or recognise_format(drive.file)
    if form == RAW:
        image: BlockBackend = RawImage(drive.file, writes=write and not read_only)
    elif write and not read_only:
        wanted, remedy = "a raw image with --write", "convert it with qemu-img convert -O raw, or leave --write out"
        raise ConflictingOptions(wanted, f"the {form} image {drive.file}", remedy)
    else:
        image = ForeignImage(drive.file, form)
    return image if read_only or write else Overlay(image)
