"""The initramfs: a well-formed, deterministic archive with what the guest needs."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from trapgate.lab.initramfs import REQUIRED_APPLETS, NotBusybox, applet_names, build_initramfs, output_token

APPLETS = sorted(["[", "[[", "awk", "busybox", "ls", *REQUIRED_APPLETS])
BUSYBOX = b"\x7fELF" + bytes(100) + b"text\0" + b"\0".join(name.encode() for name in APPLETS) + b"\0\0more\0"


def entries(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, ...]]]:
    """The archive read by the format's document: name to mode, content, and the 13 fields."""
    found: dict[str, tuple[int, bytes, tuple[int, ...]]] = {}
    position = 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = tuple(int(archive[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13))
        start = position + 110
        name = archive[start : start + fields[11] - 1].decode()
        start = (start + fields[11] + 3) // 4 * 4
        position = (start + fields[6] + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert position == len(archive)
            return found
        assert name not in found
        found[name] = (fields[1], archive[start : start + fields[6]], fields)


def test_applets_are_read_from_the_program() -> None:
    assert applet_names(BUSYBOX) == APPLETS
    assert applet_names(b"\x7fELF nothing") == []
    assert applet_names(b"\0[\0[[\0abc") == ["[", "[["]


def test_contents() -> None:
    found = entries(build_initramfs(BUSYBOX))
    assert found["bin/busybox"][1] == BUSYBOX
    assert stat.S_IMODE(found["init"][0]) & 0o111
    assert found["init"][1].startswith(b"#!/bin/sh\n")
    for name in APPLETS:
        if name != "busybox":
            assert stat.S_ISLNK(found[f"bin/{name}"][0])
            assert found[f"bin/{name}"][1] == b"busybox"
    console = found["dev/console"]
    assert stat.S_ISCHR(console[0])
    assert console[2][9:11] == (5, 1)
    assert "trapgate/command" not in found
    for name, (_, _, fields) in found.items():
        assert fields[5] == 0, "no file has a time"
        assert fields[2:4] == (0, 0)
        parent = name.rpartition("/")[0]
        assert not parent or stat.S_ISDIR(found[parent][0]), "folders come before their files"
    assert list(found).index("bin") < list(found).index("bin/busybox")


def test_command_is_quoted() -> None:
    found = entries(build_initramfs(BUSYBOX, ["sh", "-c", "echo 'a b' $HOME\nexit 3", "*"]))
    script = found["trapgate/command"][1].decode()
    assert script.startswith("exec ")
    check = "set -- " + script.removeprefix("exec ").rstrip("\n") + "; printf '%s\\0' \"$@\""
    words = subprocess.run(["sh", "-c", check], capture_output=True, check=True)
    assert words.stdout == b"sh\0-c\0echo 'a b' $HOME\nexit 3\0*\0"
    assert found["trapgate/token"][1].decode().strip() == output_token(["sh", "-c", "echo 'a b' $HOME\nexit 3", "*"])


def test_token_depends_on_every_word() -> None:
    tokens = {output_token(words) for words in (["a", "b"], ["ab"], ["a b"], ["a", "b", ""], ["b", "a"])}
    assert len(tokens) == 5


def test_same_input_same_bytes() -> None:
    files = {"opt/x/y": b"1", "data": b"2"}
    first = build_initramfs(BUSYBOX, ["true"], files)
    assert first == build_initramfs(BUSYBOX, ["true"], dict(reversed(files.items())))
    found = entries(first)
    assert stat.S_ISDIR(found["opt/x"][0])
    assert found["opt/x/y"][1] == b"1"
    assert found["data"][1] == b"2"


@pytest.mark.parametrize(
    ("program", "got"),
    [(b"", "0 bytes that are no busybox"), (BUSYBOX.replace(b"poweroff", b"powerxxx"), "one without poweroff")],
)
def test_wrong_busybox(program: bytes, got: str) -> None:
    with pytest.raises(NotBusybox, match=f"got {got}: install Debian's busybox-static"):
        build_initramfs(program)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_it(tmp_path: Path) -> None:
    listing = subprocess.run(
        ["cpio", "-t", "--quiet"], input=build_initramfs(BUSYBOX), capture_output=True, check=True, cwd=tmp_path
    )
    assert "bin/busybox" in listing.stdout.decode().split()
    assert not listing.stderr
