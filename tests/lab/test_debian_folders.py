"""Debian with a folder of the host's and a parallel port: the generic kernel's own drivers of 9p, parport and lp."""

from __future__ import annotations

from pathlib import Path

import pytest

from trapgate.lab.compare import CapturedConsole
from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.debian_modules import FOLDER_DRIVERS, PARALLEL_DRIVERS, fetch_generic
from trapgate.lab.options import DEBIAN, CharacterOptions, FolderOptions, RunOptions
from trapgate.lab.run import run_guest

pytestmark = [pytest.mark.engine, pytest.mark.debian]
SCRIPT = """mkdir /mnt; mount -t 9p -o trans=virtio,version=9p2000.L host /mnt && cat /mnt/greeting &&
seq 20000 > /mnt/reply && md5sum < /mnt/reply && umount /mnt; echo on paper > /dev/lp0; echo good"""


def test_debian_mounts_a_folder_and_prints(tmp_path: Path) -> None:
    try:
        fetch_generic(fetch_debian(), (*FOLDER_DRIVERS, *PARALLEL_DRIVERS))
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")
    folder, paper = tmp_path / "shared", tmp_path / "paper"
    folder.mkdir()
    (folder / "greeting").write_text("hello from the host\n")
    options = RunOptions(
        guest=DEBIAN, folders=(FolderOptions(path=folder, tag="host"),),
        parallel=CharacterOptions(kind="file", path=str(paper)), command=("sh", "-c", SCRIPT),
        max_instructions=20_000_000_000,
    )  # fmt: skip
    console = CapturedConsole()
    outcome = run_guest(options, console)
    lines = bytes(console.data).decode().split()
    assert outcome.status == 0
    assert lines[:4] == ["hello", "from", "the", "host"]
    assert lines[-1] == "good"
    assert (folder / "reply").read_text() == "".join(f"{number}\n" for number in range(1, 20001))
    assert paper.read_bytes() == b"on paper\n"
