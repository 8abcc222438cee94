"""An apt that tests play: packages are files in a folder."""

from __future__ import annotations

import io
import stat
import sys
import tarfile
from pathlib import Path

KERNEL = b"kernel" * 1000
BUSYBOX = b"busybox" * 1000

FAKE_APT = r'''#!{python}
"""Plays apt-get and apt-cache for a test: packages are files in a folder, lists may be missing or the mirror gone."""
import hashlib, os, pathlib, shutil, sys
folder = pathlib.Path("{folder}")
with (folder / "log").open("a") as log:
    print(os.path.basename(sys.argv[0]), *sys.argv[1:], file=log)
words = [word for index, word in enumerate(sys.argv[1:], 1) if word[0] != "-" and sys.argv[index - 1] != "-o"]
private = any(word.startswith("Dir::State::lists=") for word in sys.argv)
if words[0] == "update":
    if (folder / "offline").exists():
        print("W: Failed to fetch somewhere  Could not resolve host", file=sys.stderr)
        sys.exit(0)
    (folder / "updated").touch()
if words[0] == "show":
    name = words[1]
    if (folder / "no-lists").exists() and not (private and (folder / "updated").exists()):
        sys.exit("E: No packages found")
    if name == "linux-image-cloud-amd64":
        print("Package: x\nVersion: 9\nDepends: linux-image-9-cloud-amd64 (= 9)\nSHA256: 0")
        sys.exit(0)
    path = folder / (name + ".deb")
    if not path.exists():
        sys.exit("E: No packages found")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    print(f"Package: {{name}}\nVersion: 9\nSize: {{len(data)}}\nSHA256: {{digest}}\n\nVersion: 8")
if words[0] == "download":
    if (folder / "offline").exists():
        sys.exit("E: Failed to fetch somewhere  Could not resolve host")
    name, version = words[1].split("=")
    assert version == "9"
    print("dlstatus:1:0.0000:Retrieving file 1 of 1")
    print("dlstatus:1:50.0000:Retrieving file 1 of 1")
    data = (folder / (name + ".deb")).read_bytes()
    if (folder / "truncate").exists():
        data = data[:-10]
    pathlib.Path(name + "_9_amd64.deb").write_bytes(data)
'''


def tar(files: dict[str, bytes], mode: str = "w:xz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def package(data: bytes, name: str = "data.tar.xz") -> bytes:
    """A .deb around a data archive, with members of odd length before it."""
    result = b"!<arch>\n"
    for member, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data)):
        result += f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        result += b"\n" * (len(content) % 2)
    return result


PACKAGES = {
    "linux-image-9-cloud-amd64": package(tar({"./boot/config-9": b"", "./boot/vmlinuz-9-cloud-amd64": KERNEL})),
    "busybox-static": package(tar({"./bin/busybox": BUSYBOX})),
}


def install_apt(folder: Path) -> None:
    """Put programs that play apt-get and apt-cache, and the packages that they offer, into a new folder."""
    folder.mkdir()
    for name in ("apt-get", "apt-cache"):
        script = folder / name
        script.write_text(FAKE_APT.format(python=sys.executable, folder=folder))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    for name, data in PACKAGES.items():
        (folder / f"{name}.deb").write_bytes(data)
