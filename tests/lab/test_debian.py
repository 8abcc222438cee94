"""Getting Debian's packages: through an apt that the test plays, and through the real one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import zstandard

from lab.played_apt import BUSYBOX, KERNEL, install_apt, package, tar
from trapgate.lab import debian
from trapgate.lab.debian import (
    AptMissing,
    DebianUnavailable,
    DownloadFailed,
    PackageNotFound,
    cached_guest,
    fetch_debian,
)
from trapgate.lab.debian_package import CorruptPackage, extract


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a played apt that is the only one on PATH."""
    folder = tmp_path / "apt"
    install_apt(folder)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def calls(apt: Path, word: str) -> int:
    path = apt / "log"
    return sum(word in line.split() for line in path.read_text().splitlines()) if path.exists() else 0


def test_fetch_then_cache(apt: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    guest = fetch_debian(lambda what, share: seen.append((what, share)), tmp_path / "cache")
    assert guest.kernel.read_bytes() == KERNEL
    assert guest.busybox.read_bytes() == BUSYBOX
    assert guest.version == "linux-image-9-cloud-amd64 9"
    assert calls(apt, "update") == 0
    shares = [share for what, share in seen if what.startswith("downloading linux-image-9-cloud-amd64")]
    assert shares == [0.0, 0.0, 0.5, 1.0]
    before = (apt / "log").read_text()
    assert fetch_debian(cache=tmp_path / "cache") == guest
    assert (apt / "log").read_text() == before, "a whole cache asks nobody"
    assert fetch_debian(cache=tmp_path / "cache", refresh=True) == guest
    assert calls(apt, "download") == 2, "what is there is not downloaded again"
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"current", guest.kernel.parent.name}


@pytest.mark.parametrize("name", ["vmlinuz", "busybox", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_cache_is_fetched_again(apt: Path, tmp_path: Path, name: str, damage: str) -> None:
    guest = fetch_debian(cache=tmp_path / "cache")
    path = guest.kernel.parent / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    assert cached_guest(tmp_path / "cache") is None
    assert fetch_debian(cache=tmp_path / "cache") == guest
    assert guest.kernel.read_bytes() == KERNEL
    assert guest.busybox.read_bytes() == BUSYBOX


def test_missing_lists_are_fetched_privately(apt: Path, tmp_path: Path) -> None:
    (apt / "no-lists").touch()
    guest = fetch_debian(cache=tmp_path / "cache")
    assert guest.kernel.read_bytes() == KERNEL
    assert calls(apt, "update") == 1
    assert f"Dir::State::lists={tmp_path}/cache/apt/state/lists" in (apt / "log").read_text()


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = (
        "wanted apt-get to get Debian's kernel, got a host without it: "
        "run on Debian, or name files with --kernel and --initrd"
    )
    with pytest.raises(AptMissing, match=f"^{re.escape(message)}$"):
        fetch_debian(cache=tmp_path / "cache")


def test_no_network(apt: Path, tmp_path: Path) -> None:
    (apt / "offline").touch()
    with pytest.raises(DownloadFailed, match=r"Failed to fetch somewhere .*Could not resolve host: check the network"):
        fetch_debian(cache=tmp_path / "cache")
    (apt / "no-lists").touch()
    with pytest.raises(DownloadFailed, match="wanted to download Debian's package lists through apt, got Failed to"):
        fetch_debian(cache=tmp_path / "cache")
    assert cached_guest(tmp_path / "cache") is None


def test_no_such_package(apt: Path, tmp_path: Path) -> None:
    (apt / "busybox-static.deb").unlink()
    with pytest.raises(PackageNotFound, match="wanted the package busybox-static from apt's sources, got no such"):
        fetch_debian(cache=tmp_path / "cache")


def test_truncated_download_is_noticed(apt: Path, tmp_path: Path) -> None:
    (apt / "truncate").touch()
    with pytest.raises(DownloadFailed, match="got a file with SHA-256 "):
        fetch_debian(cache=tmp_path / "cache")


@pytest.mark.parametrize("pointer", ["", "../..", ".x", "nothing", "\x00"])
def test_odd_pointer_in_the_cache(tmp_path: Path, pointer: str) -> None:
    (tmp_path / "current").write_text(pointer)
    assert cached_guest(tmp_path) is None


def test_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert debian.default_cache() == tmp_path / "trapgate" / "debian"


@pytest.mark.parametrize("compression", ["xz", "gz", "zst", ""])
def test_packages_of_every_compression(tmp_path: Path, compression: str) -> None:
    files = {"./a/one": b"1" * 5000, "./a/two": b"2"}
    if compression == "zst":
        data = zstandard.ZstdCompressor().compress(tar(files, "w"))
    else:
        data = tar(files, f"w:{compression}" if compression else "w")
    path = tmp_path / "p.deb"
    path.write_bytes(package(data, f"data.tar.{compression}".rstrip(".")))
    assert extract(path, [r"a/tw.", r"a/one"]) == [("a/two", b"2"), ("a/one", b"1" * 5000)]
    with pytest.raises(CorruptPackage, match="got one without b/none: remove the file"):
        extract(path, ["a/one", "b/none"])


@pytest.mark.parametrize("compression", ["xz", "gz", "zst"])
def test_truncated_or_wrong_packages(tmp_path: Path, compression: str) -> None:
    content = hashlib.shake_256(b"x").digest(3000)
    data = tar({"./a": content}, "w" if compression == "zst" else f"w:{compression}")
    if compression == "zst":
        data = zstandard.ZstdCompressor().compress(data)
    whole = package(data, f"data.tar.{compression}")
    path = tmp_path / "p.deb"
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptPackage):
            extract(path, ["a"])
    # The archive inside is short, while the outer one is whole.
    for length in range(0, len(data) // 2, 11):
        path.write_bytes(package(data[:length], f"data.tar.{compression}"))
        with pytest.raises(CorruptPackage):
            extract(path, ["a"])


@pytest.mark.debian
def test_real_packages() -> None:
    try:
        guest = fetch_debian()
    except DebianUnavailable as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")
    assert guest.kernel.read_bytes()[0x202:0x206] == b"HdrS"
    assert guest.busybox.read_bytes().startswith(b"\x7fELF")
    assert guest.version.startswith("linux-image-")
