"""Errors of runs under the hypervisor, and of comparisons."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lab.played_apt import install_apt
from trapgate.cli.compare_tables import write_csv
from trapgate.cli.errors import CannotWrite, InvalidCodeSize, InvalidJobs
from trapgate.lab import debian_files
from trapgate.lab.compare import Comparison
from trapgate.lab.debian import DownloadFailed
from trapgate.lab.errors import (
    ConflictingOptions,
    UnknownCosts,
    UnknownModel,
    UnknownProcessor,
    UnknownTechnique,
    WorkerDied,
)
from trapgate.lab.options import RunOptions
from trapgate.lab.parallel import run_parallel
from trapgate.machine.errors import AddressOutsideMemory
from trapgate.machine.memory import PhysicalMemory
from trapgate.vmm.memory.frames import FrameAllocator
from trapgate.vmm.memory.guest import GuestMemory

from .cases import World, case

MB = 1 << 20


def _cli(*arguments: str) -> Callable[[World], object]:
    return lambda world: world.cli(*arguments)


def _changing_files(world: World) -> None:
    folder = world.folder / "apt"
    install_apt(folder)
    world.monkeypatch.setenv("PATH", str(folder))
    world.monkeypatch.setattr(debian_files, "_read", lambda folder, wanted: None)
    debian_files.fetch_files("busybox-static", {"busybox": "bin/busybox"}, cache=Path("cache"))


def _outside_guest_memory(world: World) -> None:
    host = PhysicalMemory(8 * MB)
    GuestMemory(FrameAllocator(host), 2 * MB, "guest").read(2 * MB - 1, 2)


case(
    UnknownTechnique,
    (
        "wanted a technique that trapgate has (bare, software, shadow, shadow-tagged, nested, nested-tagged), "
        "got 'frob': choose one of these"
    ),
    _cli("run", "--technique", "frob"),
)
case(
    UnknownTechnique,
    (
        "wanted a technique that trapgate has (bare, software, shadow, shadow-tagged, nested, nested-tagged), "
        "got '': choose one of these"
    ),
    _cli("compare", "--techniques", "bare,"),
)
case(
    ConflictingOptions,
    "wanted each technique once, got bare twice: leave one out of --techniques",
    _cli("compare", "--techniques", "bare,nested,bare"),
)
case(
    UnknownProcessor,
    (
        "wanted a processor that trapgate has (opteron-2007, opteron-2006, pentium3, pentium, 486), got 'z80': "
        "choose one with --cpu"
    ),
    _cli("compare", "--cpu", "z80"),
)
case(
    UnknownCosts,
    (
        "wanted a cost profile that trapgate has (core2-2006, opteron-2006, opteron-2007, "
        "opteron-2007-plain, pentium4-2005), got 'free': "
        "choose one with --costs"
    ),
    _cli("run", "--costs", "free"),
)
case(UnknownModel, "wanted one of full, none, got 'half': choose one with --model", _cli("run", "--model", "half"))
case(
    InvalidJobs,
    "wanted a whole number of runs at a time, from 1 to 64, got '0': correct --jobs",
    _cli("compare", "--jobs", "0"),
)
case(
    InvalidCodeSize,
    "wanted a whole number of megabytes, from 1 to 1024, got '0': correct --tb-size",
    _cli("run", "--tb-size", "0"),
)
case(
    CannotWrite,
    (
        "wanted a file that can be written at missing/table.csv, got No such file or directory: "
        "name another file with --csv"
    ),
    lambda w: write_csv("missing/table.csv", Comparison(RunOptions(), ())),
)
case(
    WorkerDied,
    "wanted each run to report how it ended, got a process that ended with exit status 3: try --jobs 1",
    lambda w: run_parallel(os._exit, [3], 1, lambda number, done: None),
)
case(
    DownloadFailed,
    (
        "wanted to download busybox-static through apt, got files in cache/busybox-static that changed while they were "
        "written: check the network, or name files with --kernel and --initrd"
    ),
    _changing_files,
)
case(
    AddressOutsideMemory,
    (
        "wanted RAM at guest-physical 0x1fffff to 0x200000, got a machine with 2 MB: give it more memory or use "
        "lower addresses"
    ),
    _outside_guest_memory,
)
