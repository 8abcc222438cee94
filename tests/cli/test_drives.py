"""-drive and -cdrom: what is taken, and a disk that boots through the BIOS from the back end it shares with IDE."""

from __future__ import annotations

from pathlib import Path

import pytest

from trapgate.cli.drives import parse_drive, parse_drives
from trapgate.cli.main import run_command
from trapgate.lab.options import DriveOptions


@pytest.mark.parametrize(
    ("text", "drive"),
    [
        ("file=a.img", DriveOptions(file=Path("a.img"))),
        ("file=a.img,if=virtio", DriveOptions(file=Path("a.img"), interface="virtio")),
        ("if=ide,file=a,,b.img,format=raw", DriveOptions(file=Path("a,b.img"), format="raw")),
        ("file=a=b,readonly=on", DriveOptions(file=Path("a=b"), read_only=True)),
        ("file=a.img,if=none,id=d", DriveOptions(file=Path("a.img"), interface="virtio-mmio")),
        ("file=a.iso,media=cdrom", DriveOptions(file=Path("a.iso"), is_cd=True)),
    ],
)
def test_drives(text: str, drive: DriveOptions) -> None:
    assert parse_drive(text, {"d": "virtio-mmio"}) == drive


def test_a_cd_is_the_last_drive() -> None:
    drives, _ = parse_drives(["file=a", "file=b"], "c.iso", None)
    assert [drive.is_cd for drive in drives] == [False, False, True]
    assert parse_drives(None, None, None) == ((), [])


def test_a_drive_is_behind_the_device_that_names_it() -> None:
    texts = ["file=a,if=none,id=x", "file=b,if=none,id=y"]
    drives, others = parse_drives(texts, None, ["virtio-blk-device,drive=y", "virtio-rng-pci", "ide-hd,drive=x"])
    assert [drive.interface for drive in drives] == ["ide", "virtio-mmio"]
    assert others == ["virtio-rng-pci"]


#: Writes its own boot sector to the second one through INT 13h, reads that by the IDE ports, exits with its first byte.
BOOT_CODE = bytes.fromhex(
    "b80103 b90200 ba8000 bb007c cd13"  # INT 13h AH=03h
    "baf601b0e0ee baf201b001ee baf301b001ee baf401b000ee baf501b000ee baf701b020ee"  # READ SECTORS of sector 1
    "eca80874fb"  # until DRQ
    "baf001ed e6f4 f4"
)


@pytest.mark.engine
@pytest.mark.parametrize("writes", [False, True])
def test_the_bios_and_the_ide_disk_share_a_back_end(tmp_path: Path, writes: bool) -> None:
    path = tmp_path / "disk.img"
    content = BOOT_CODE.ljust(510, b"\0") + b"\x55\xaa" + bytes(100 * 512)
    path.write_bytes(content)
    options = ["--serial", "none", "-drive", f"file={path}"]
    assert run_command(["run", *options, *(["--write"] if writes else [])]) == (BOOT_CODE[0] << 1 | 1) & 0xFF
    after = path.read_bytes()
    assert after[512:1024] == (content[:512] if writes else bytes(512))
    assert after[:512] == content[:512]
