"""Debian with disks: an unmodified kernel's drivers of IDE and virtio, on file systems that the host made.

The short test is one boot of the bare machine with a disk behind each interface and a CD. The long one, for each
interface and technique, wants TRAPGATE_DISKS=N: N megabytes are written, synced and read back (a quarter of it by PIO).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from trapgate.devices.disks.overlay import Overlay
from trapgate.lab.compare import CapturedConsole
from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.debian_modules import DISK_DRIVERS, fetch_modules
from trapgate.lab.options import DEBIAN, DriveOptions, RunOptions
from trapgate.lab.run import RunOutcome, run_guest
from trapgate.machine.block import MediumFull

pytestmark = [pytest.mark.engine, pytest.mark.debian]
MEGABYTES = int(os.environ.get("TRAPGATE_DISKS", "0"))
#: Writes COUNT blocks of 16 KB to a file on DEVICE, and reads them from the disk.
SCRIPT = """mkdir -p /mnt && mount -t ext4 DEVICE /mnt && cd /mnt &&
dd if=/dev/urandom of=data bs=16k count=COUNT 2>/dev/null && md5sum < data && sync && cd / && umount /mnt &&
echo 3 > /proc/sys/vm/drop_caches && mount -t ext4 DEVICE /mnt && md5sum < /mnt/data && umount /mnt && echo good
"""


def file_system(path: Path, megabytes: int) -> Path:
    """An image with an empty ext4 file system."""
    maker = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if maker is None:
        pytest.skip("e2fsprogs is not installed")
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([maker, "-q", "-F", path], check=True)
    return path


def run(
    script: str,
    *drives: DriveOptions,
    technique: str = "bare",
    append: str | None = None,
    devices: tuple[str, ...] = (),
) -> tuple[str, RunOutcome]:
    """What Debian says to a script."""
    try:
        fetch_modules(fetch_debian(), DISK_DRIVERS)
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")
    options = RunOptions(
        guest=DEBIAN, drives=drives, devices=devices, technique=technique, append=append, command=("sh", "-c", script),
        max_instructions=60_000_000_000,
    )  # fmt: skip
    console = CapturedConsole()
    outcome = run_guest(options, console)
    return bytes(console.data).decode(), outcome


def test_debian_uses_ide_and_virtio_disks_and_a_cd(tmp_path: Path) -> None:
    disk, other = file_system(tmp_path / "ide.img", 8), file_system(tmp_path / "virtio.img", 8)
    disc = tmp_path / "cd.iso"
    disc.write_bytes(bytes(range(256)) * 1024)
    before = disk.read_bytes(), other.read_bytes()
    script = "".join(SCRIPT.replace("DEVICE", name).replace("COUNT", "32") for name in ("/dev/sda", "/dev/vda"))
    console, outcome = run(
        f"{script}dd if=/dev/sr0 bs=2048 count=128 2>/dev/null | md5sum",
        DriveOptions(file=disk), DriveOptions(file=other, interface="virtio"), DriveOptions(file=disc, is_cd=True),
    )  # fmt: skip
    lines = [line.removesuffix("  -") for line in console.split("\n")]
    assert lines[2] == lines[5] == "good"
    assert lines[0] == lines[1] != lines[3] == lines[4]
    assert lines[6] == hashlib.md5(disc.read_bytes()).hexdigest()
    statistics = outcome.statistics
    for name in ("ide0.0", "virtio-blk0"):
        assert statistics.device_counts[name]["bytes_written"] >= 512 << 10
        assert statistics.device_counts[name]["bytes_read"] >= 512 << 10
        assert name not in statistics.device_faults
    assert (disk.read_bytes(), other.read_bytes()) == before


def test_debian_uses_virtio_without_pci(tmp_path: Path) -> None:
    """Virtio over MMIO, which the kernel finds by ACPI: a disk and random numbers, and no PCI bus."""
    disk = file_system(tmp_path / "mmio.img", 8)
    script = SCRIPT.replace("DEVICE", "/dev/vda").replace("COUNT", "32")
    console, outcome = run(
        f"{script}cat /sys/class/misc/hw_random/rng_current; ls /sys/bus/pci/devices; "
        "grep -c virtio /proc/interrupts; dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c",
        DriveOptions(file=disk, interface="virtio-mmio"), devices=("virtio-rng-device",),
    )  # fmt: skip
    lines = [line.removesuffix("  -") for line in console.split("\n")]
    assert lines[0] == lines[1]
    assert lines[2:] == ["good", "virtio_rng.0", "2", "16", ""]
    statistics = outcome.statistics
    assert statistics.device_counts["virtio-mmio-blk0"]["bytes_written"] >= 512 << 10
    assert not statistics.device_faults


def test_debian_survives_a_short_image_and_a_full_host_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 4 MB whose partition and file system have 8, and a host whose disk is full after 1 MB."""
    whole, short = file_system(tmp_path / "whole.img", 8), tmp_path / "short.img"
    start, sectors = 2048, (8 << 20) // 512
    entry = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x83, 0, 2, 0, start, sectors)
    table = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    short.write_bytes((table.ljust(start * 512, b"\0") + whole.read_bytes())[: 4 << 20])
    other = tmp_path / "full.img"
    other.write_bytes(bytes(8 << 20))
    write = Overlay.write

    def full(overlay: Overlay, offset: int, data: bytes | bytearray | memoryview) -> None:
        if offset + len(data) > 1 << 20:
            raise MediumFull(overlay.name, "no space left on device")
        write(overlay, offset, data)

    monkeypatch.setattr(Overlay, "write", full)
    script = (
        "cat /sys/block/sda/size /sys/block/sda/sda1/size; mkdir -p /mnt; mount -t ext4 /dev/sda1 /mnt 2>/dev/null; "
        "echo mounted $?; dd if=/dev/sda1 of=/dev/null bs=64k 2>&1 | grep -c 'records in'; "
        "dd if=/dev/zero of=/dev/vda bs=64k oflag=direct 2>&1 | grep -c rror; "
        "dd if=/dev/vda bs=64k count=1 2>/dev/null | wc -c; echo alive"
    )
    console, outcome = run(script, DriveOptions(file=short), DriveOptions(file=other, interface="virtio"))
    lines = console.split("\n")
    # Linux cuts a partition off at the end of its disk, and ext4 says that it is too large for it.
    assert lines[:3] == ["8192", str(8192 - start), "mounted 255"]
    assert lines[3:7] == ["1", "1", "65536", "alive"]
    assert outcome.reason == "power-off"
    assert outcome.statistics.device_faults == {"virtio-blk0": {"host disk full": 1}}


@pytest.mark.skipif(not MEGABYTES, reason="long: set TRAPGATE_DISKS to a number of megabytes to run it")
@pytest.mark.parametrize("technique", ["bare", "nested-tagged", "shadow-tagged", "software"])
@pytest.mark.parametrize("interface", ["pio", "dma", "virtio"])
def test_debian_reads_back_what_it_wrote(tmp_path: Path, interface: str, technique: str) -> None:
    blocks = MEGABYTES * 64 // (4 if interface == "pio" else 1)
    image = file_system(tmp_path / "disk.img", MEGABYTES + 32)
    drive = DriveOptions(file=image, interface="virtio" if interface == "virtio" else "ide")
    script = SCRIPT.replace("DEVICE", "/dev/vda" if interface == "virtio" else "/dev/sda")
    append = "libata.dma=0" if interface == "pio" else None
    console, outcome = run(script.replace("COUNT", str(blocks)), drive, technique=technique, append=append)
    lines = console.split("\n")
    assert lines[2] == "good"
    assert lines[0] == lines[1]
    assert not outcome.statistics.device_faults
