"""Kernel modules: which a run needs, and in which order."""

from __future__ import annotations

from pathlib import Path

from trapgate.lab.debian_modules import in_order, needed_modules
from trapgate.lab.initramfs import LOAD_MODULES, REQUIRED_APPLETS, build_initramfs
from trapgate.lab.options import DriveOptions


def _module(*needs: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0retpoline=Y\0"


def test_modules_come_behind_what_they_depend_on() -> None:
    contents = {
        "ata_piix": _module("libata"), "libata": _module("scsi_mod", "scsi_common"), "scsi_common": _module(),
        "scsi_mod": _module("scsi_common"), "sd_mod": _module("scsi_mod", "built_in"), "other": _module(),
    }  # fmt: skip
    assert list(in_order(contents, ("sd_mod", "ata_piix"))) == [
        "scsi_common",
        "scsi_mod",
        "sd_mod",
        "libata",
        "ata_piix",
    ]


def test_each_interface_needs_its_drivers() -> None:
    disk, cd = DriveOptions(file=Path("a")), DriveOptions(file=Path("b"), is_cd=True)
    virtio = DriveOptions(file=Path("c"), interface="virtio")
    assert needed_modules(()) == ()
    assert needed_modules((disk, disk)) == ("sd_mod", "ata_piix")
    assert needed_modules((cd, disk)) == ("sr_mod", "isofs", "ata_piix", "sd_mod")
    assert needed_modules((virtio,)) == ("virtio_pci", "virtio_blk")


def test_the_initramfs_loads_them_and_is_as_ever_without() -> None:
    applets = b"\0[\0[[\0" + b"\0".join(name.encode() for name in sorted(REQUIRED_APPLETS)) + b"\0\0"
    busybox = b"\x7fELF" + applets
    plain, with_modules = build_initramfs(busybox), build_initramfs(busybox, modules={"b": b"BBBB", "a": b"AAAA"})
    assert b"insmod" not in plain
    assert b"@MODULES@" not in plain + with_modules
    assert LOAD_MODULES.encode() in with_modules
    assert b"trapgate/modules\0" in with_modules
    assert b"b\na\n" in with_modules
    assert b"lib/modules/a.ko\0" in with_modules
