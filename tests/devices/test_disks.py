"""Back ends: raw images, the overlay, locks, a full host disk, a short image, images of other emulators."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from trapgate.devices.disks.foreign import FOREIGN, ForeignImage, NotThatFormat, ReaderMissing, recognise_format
from trapgate.devices.disks.overlay import CLUSTER, Overlay
from trapgate.devices.disks.raw_image import ImageInUse, RawImage
from trapgate.machine.block import MediumFull, MediumReadOnly, MediumTooShort

CONTENT = bytes(range(256)) * 2048  # 512 KB, eight clusters


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


def test_the_overlay_keeps_writes_beside_the_image(image: Path) -> None:
    disk = Overlay(RawImage(image))
    expected = bytearray(CONTENT)
    for offset, data in (
        (512, b"a" * 512), (CLUSTER - 512, b"b" * 1024), (2 * CLUSTER, b"c" * CLUSTER),
        (3 * CLUSTER + 512, b"d" * 200_000), (len(CONTENT) - 512, b"e" * 512), (512, b"f" * 1024),
    ):  # fmt: skip
        disk.write(offset, data)
        expected[offset : offset + len(data)] = data
    assert disk.read(0, len(CONTENT)) == expected
    for offset in range(0, len(CONTENT) - 70_000, 30_000):
        assert disk.read(offset, 70_000) == expected[offset : offset + 70_000]
    disk.flush()
    disk.close()
    assert image.read_bytes() == CONTENT


def test_writes_go_into_the_image_when_asked_for(image: Path) -> None:
    disk = RawImage(image, writes=True)
    disk.write(1024, b"x" * 512)
    disk.flush()
    disk.close()
    assert image.read_bytes()[1024:1536] == b"x" * 512


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_an_image_that_is_written_is_locked(image: Path, first: bool, second: bool) -> None:
    disk = RawImage(image, writes=first)
    with pytest.raises(ImageInUse):
        RawImage(image, writes=second)
    disk.close()
    RawImage(image, writes=second).close()


def test_readers_share(image: Path) -> None:
    first, second = RawImage(image), RawImage(image)
    assert first.read(0, 512) == second.read(0, 512)
    first.close()
    second.close()
    with pytest.raises(MediumReadOnly):
        first.write(0, b"x")


def test_an_image_that_becomes_shorter(image: Path) -> None:
    disk = Overlay(RawImage(image))
    os.truncate(image, 1000)
    with pytest.raises(MediumTooShort):
        disk.read(512, 1024)
    # Copying the rest of the cluster fails, and nothing is half written.
    with pytest.raises(MediumTooShort):
        disk.write(512, b"x" * 512)
    assert disk.read(0, 512) == CONTENT[:512]
    disk.close()


def test_a_full_host_disk(image: Path) -> None:
    """The largest file that the process may make stands for a disk without room."""
    disk = Overlay(RawImage(image))
    disk.write(0, b"a" * CLUSTER)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * CLUSTER, before[1]))
    try:
        disk.write(CLUSTER, b"b" * CLUSTER)
        with pytest.raises(MediumFull):
            disk.write(2 * CLUSTER, b"c" * CLUSTER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert disk.read(0, 3 * CLUSTER) == b"a" * CLUSTER + b"b" * CLUSTER + CONTENT[2 * CLUSTER : 3 * CLUSTER]
    disk.close()


def test_formats_are_known_by_their_first_bytes(image: Path) -> None:
    assert recognise_format(image) == "raw"
    for name, form in FOREIGN.items():
        image.write_bytes(bytes(form.place) + form.magic + bytes(600))
        assert recognise_format(image) == name


@pytest.mark.skipif(importlib.util.find_spec("dissect") is not None, reason="dissect.hypervisor is installed")
def test_without_the_reader_the_error_says_what_to_install(image: Path) -> None:
    with pytest.raises(ReaderMissing, match=r"pip install 'trapgate\[images\]'"):
        ForeignImage(image, "qcow2")


@pytest.mark.skipif(importlib.util.find_spec("dissect") is None, reason="dissect.hypervisor is not installed")
@pytest.mark.parametrize("form", list(FOREIGN))
def test_images_of_other_emulators(image: Path, form: str) -> None:
    qemu_img = shutil.which("qemu-img")
    if qemu_img is None:
        pytest.skip("qemu-img is not installed")
    path = image.with_suffix(f".{form}")
    subprocess.run([qemu_img, "convert", "-O", form, image, path], check=True)
    assert recognise_format(path) == form
    foreign = ForeignImage(path, form)
    assert foreign.size >= len(CONTENT)
    disk = Overlay(foreign)
    disk.write(100_000, b"new")
    expected = CONTENT[:100_000] + b"new" + CONTENT[100_003:]
    assert disk.read(0, len(CONTENT)) == expected
    with pytest.raises(MediumReadOnly):
        foreign.write(0, b"x")
    disk.close()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(NotThatFormat):
        ForeignImage(path, form)


def test_the_overlay_goes_back_to_what_it_was(image: Path) -> None:
    disk = Overlay(RawImage(image))
    disk.write(100, b"first")
    disk.write(3 * CLUSTER, b"gone" * 1000)
    stamps = disk.stamps()
    kept = {number: (stamp, disk.cluster(number)) for number, stamp in stamps.items()}
    content = disk.read(0, len(CONTENT))
    disk.write(102, b"second")
    disk.write(5 * CLUSTER, b"later")
    changed = disk.stamps()
    assert changed[3] == stamps[3]
    assert changed[0] != stamps[0]
    disk.replace(kept)
    assert disk.read(0, len(CONTENT)) == content
    assert disk.stamps() == stamps
    other = Overlay(RawImage(image))
    other.replace({number: (0, data) for number, (_, data) in kept.items()})
    assert other.read(0, len(CONTENT)) == content
    assert set(other.stamps()) == set(stamps)
    assert not set(other.stamps().values()) & set(stamps.values())


def test_an_overlay_without_room_for_a_state_stays_as_it_is(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trapgate.devices.disks import overlay

    disk = Overlay(RawImage(image))
    disk.write(0, b"mine")
    content, stamps = disk.read(0, len(CONTENT)), disk.stamps()
    real = overlay.write_fully

    def full(descriptor: int, name: str, offset: int, data: bytes) -> None:
        if offset >= CLUSTER:
            raise MediumFull(name, "no space left on device")
        real(descriptor, name, offset, data)

    monkeypatch.setattr(overlay, "write_fully", full)
    with pytest.raises(MediumFull):
        disk.replace({0: (0, bytes(CLUSTER)), 4: (0, bytes(CLUSTER))})
    assert disk.read(0, len(CONTENT)) == content
    assert disk.stamps() == stamps
