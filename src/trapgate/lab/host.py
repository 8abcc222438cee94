"""What this host offers to trapgate: its processor, Python and LLVM, caches, apt, KVM, other emulators."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
KVM = Path("/dev/kvm")
#: Features that the native code of SIMD and x87 instructions uses, or that matter for its speed; Linux's names.
FEATURES = (
    "sse2",
    "pni",
    "ssse3",
    "sse4_1",
    "sse4_2",
    "sse4a",
    "avx",
    "avx2",
    "avx512f",
    "bmi2",
    "svm",
    "vmx",
    "npt",
    "ept",
)
#: Programs that tests and benchmarks use when they are there, and how each is asked for its version.
PEERS = {
    "qemu-system-x86_64": ["--version"],
    "bochs": ["--help"],
    "nasm": ["-v"],
}
PEER_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class HostReport:
    """What `trapgate doctor` found. `problems` is empty when trapgate can run."""

    processor: str
    processors: int
    features: tuple[str, ...]
    python: str
    llvmlite: str | None
    llvm: str | None
    cache_folder: str
    cache_bytes: int
    apt: str | None
    kvm: str
    peers: dict[str, str | None]
    problems: tuple[str, ...]


def examine_host(cache_folder: Path, llvm: str | None) -> HostReport:
    """Look at this host; `llvm` is the version that the engine reports, None when it cannot be loaded."""
    name, features = _processor()
    problems = []
    if platform.machine() not in ("x86_64", "AMD64"):
        problems.append(f"wanted an x86-64 host, got {platform.machine()}: SIMD and x87 run on the host's own units")
    if sys.platform != "linux":
        problems.append(f"wanted Linux, got {sys.platform}: run trapgate on Linux")
    if llvm is None:
        problems.append("wanted llvmlite, got an import error: reinstall trapgate with pip")
    return HostReport(
        processor=name,
        processors=len(os.sched_getaffinity(0)),
        features=features,
        python=platform.python_version(),
        llvmlite=_package("llvmlite"),
        llvm=llvm,
        cache_folder=str(cache_folder),
        cache_bytes=folder_size(cache_folder),
        apt=shutil.which("apt-get"),
        kvm=_kvm(),
        peers={peer: _peer_version(peer, arguments) for peer, arguments in PEERS.items()},
        problems=tuple(problems),
    )


def folder_size(folder: Path) -> int:
    """Bytes of all regular files under `folder`; 0 when there is none."""
    total = 0
    for directory, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(directory, file)).st_size
            except OSError:
                # Another run has just replaced it.
                continue
    return total


def _processor() -> tuple[str, tuple[str, ...]]:
    """The host processor's name and those of FEATURES that it has."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), ()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = set(fields.get("flags", "").split())
    return fields.get("model name", platform.machine()), tuple(name for name in FEATURES if name in flags)


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _kvm() -> str:
    """`usable`, or why /dev/kvm cannot be opened."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"not usable: {error.strerror}"
    return "usable"


def _peer_version(program: str, arguments: list[str]) -> str | None:
    """The first line of what `program` says of its version, or None when it is not installed."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        answer = subprocess.run(
            [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=PEER_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "found, but does not start"
    lines = [line.strip(" =\t") for line in (answer.stdout + answer.stderr).decode(errors="replace").splitlines()]
    return next((line for line in lines if line), "found")
