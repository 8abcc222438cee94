"""Finds out what kind of image a file's bytes are, and makes the matching BootImage."""

from __future__ import annotations

from collections.abc import Sequence

from trapgate.firmware.bios.disk_image import disk_image, has_signature, is_iso
from trapgate.firmware.bios.drives import SECTOR, diskette_format
from trapgate.firmware.errors import NotAKernel, NotBootable
from trapgate.firmware.image import BootImage
from trapgate.firmware.linux import LinuxImage, is_bzimage
from trapgate.firmware.multiboot import MultibootImage, is_multiboot
from trapgate.firmware.pvh import PvhImage, is_elf
from trapgate.firmware.raw import RawImage, is_boot_sector


def recognise(data: bytes, command_line: str = "", modules: Sequence[bytes] = (), name: str = "kernel") -> BootImage:
    """The image in `data`; the first of `modules` is Linux's initrd. Raises FirmwareError, NotAKernel if unknown."""
    initrd = modules[0] if modules else b""
    if is_bzimage(data):
        return LinuxImage(data, initrd, command_line, name)
    if is_multiboot(data):
        return MultibootImage(data, command_line, modules, name)
    if is_elf(data):
        return PvhImage(data, initrd, command_line, name)
    if is_boot_sector(data):
        return RawImage(data, name=name)
    if is_iso(data) or has_signature(data):
        return disk_image(data, name)
    if diskette_format(len(data)) is not None and len(data) % SECTOR == 0:
        raise NotBootable(name, data[SECTOR - 2 : SECTOR])
    raise NotAKernel(name, f"{len(data)} bytes of another kind")
