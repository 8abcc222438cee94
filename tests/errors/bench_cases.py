"""Errors of `trapgate bench`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from trapgate.lab import bench
from trapgate.lab.bench_peers import Peer, Timed
from trapgate.lab.bench_works import WORKS
from trapgate.lab.errors import PeerMissing, UnknownPeer, UnknownWork, WorkNotDone

from .cases import World, case


def _without_programs(world: World) -> None:
    world.monkeypatch.setattr(shutil, "which", lambda program: None)
    world.cli("bench", "--against", "qemu")


def _two_emulators_that_say(first: bytes, second: bytes, status: int = 0) -> None:
    """A turn of the start-up's loop on trapgate and on another emulator."""
    peer = Peer("qemu", lambda image, line: ["qemu"], 0)

    def run(command: Sequence[str]) -> Timed:
        assert isinstance(command[0], str)
        is_other = Path(command[0]).name == "qemu"
        return Timed(1.0, status if is_other else 0, second if is_other else first)

    bench.measure([], [peer], 1, run=run)


def _another_checksum(world: World) -> None:
    _two_emulators_that_say(b"bench=count n=1 checksum=01\n", b"bench=count n=1 checksum=02\n")


def _failed(world: World) -> None:
    _two_emulators_that_say(b"bench=count n=1 checksum=01\n", b"no\nguest\n", 3)


_NAMES = ", ".join(("integer", "floating", "system", *(work.name for work in WORKS)))
_MEANS = "the time of such a run means nothing, run it by hand"
case(
    UnknownWork,
    f"wanted work that trapgate has ({_NAMES}), got 'fib': choose some of these, or none",
    lambda world: world.cli("bench", "fib"),
)
case(
    UnknownPeer,
    "wanted an emulator to measure against (qemu), got 'vice': choose one of these",
    lambda world: world.cli("bench", "--against", "vice"),
)
case(
    PeerMissing,
    "wanted the program qemu-system-x86_64, got none: install it (Debian package qemu-system-x86), or leave it out",
    _without_programs,
)
case(
    WorkNotDone,
    "wanted 'bench=count n=1 checksum=01' from qemu, got 'bench=count n=1 checksum=02': " + _MEANS,
    _another_checksum,
)
case(
    WorkNotDone,
    "wanted the line of 'bench=count n=1' from qemu, got status 3 and 'no | guest': " + _MEANS,
    _failed,
)
