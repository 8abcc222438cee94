"""Who runs the loops of `trapgate bench`: trapgate itself in a process of its own, and other emulators."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trapgate.lab.errors import PeerMissing, UnknownPeer

#: The file beside the image in which trapgate leaves what it counted.
COUNTS = "counts.json"
#: What isa-debug-exit makes of the guest's 0.
_SUCCESS_OF_QEMU = 1


@dataclass(frozen=True, slots=True)
class Timed:
    """A process that has ended: CPU seconds (user and system, its children's included), exit status, standard output
    and behind it what went to standard error."""

    seconds: float
    status: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Peer:
    """An emulator: how it is started with the image and a command line for it, and its exit status of success."""

    name: str
    command: Callable[[Path, str], Sequence[str]]
    success: int


def _trapgate(image: Path, line: str) -> Sequence[str]:
    counts = str(image.with_name(COUNTS))
    return [sys.executable, "-m", "trapgate", "run", "bench", "--append", line, "--json", counts]


def _qemu(program: str) -> Callable[[Path, str], Sequence[str]]:
    def command(image: Path, line: str) -> Sequence[str]:
        return [
            program, "-accel", "tcg", "-cpu", "qemu64,+svm", "-m", "128", "-nographic", "-no-reboot", "-vga", "none",
            "-net", "none", "-kernel", str(image), "-append", line,
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ]  # fmt: skip

    return command


TRAPGATE = Peer("trapgate", _trapgate, 0)
#: Other emulators: name -> (program, Debian package, how to start it, exit status of success).
_OTHERS = {"qemu": ("qemu-system-x86_64", "qemu-system-x86", _qemu, _SUCCESS_OF_QEMU)}
NAMES = tuple(_OTHERS)


def find_peers(names: Sequence[str]) -> tuple[Peer, ...]:
    """The emulators to measure against. Raises UnknownPeer, or PeerMissing for one that is not installed."""
    peers = []
    for name in names:
        if name not in _OTHERS:
            raise UnknownPeer(name, NAMES)
        program, package, make, success = _OTHERS[name]
        path = shutil.which(program)
        if path is None:
            raise PeerMissing(program, package)
        peers.append(Peer(name, make(path), success))
    return tuple(peers)


def run_timed(command: Sequence[str]) -> Timed:
    """Run a process to its end, and take its CPU time from the kernel."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        return Timed(usage.ru_utime + usage.ru_stime, process.returncode, output.read() + errors.read())
