"""Errors of compare --io."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.cli.errors import CannotWrite, InvalidUnits
from trapgate.cli.io_tables import write_io_csv
from trapgate.lab.errors import ConflictingOptions, IoNotDone, UnknownIo, UnknownTechnique
from trapgate.lab.io_compare import IoComparison, IoJob, measure
from trapgate.lab.options import RunOptions

from .cases import World, case


def _compare(*arguments: str) -> Callable[[World], object]:
    return lambda world: world.cli("compare", *arguments)


case(
    UnknownIo,
    "wanted a kind of devices (emulated, paravirtual, virtio, hypercall), got 'frob': choose one with --io",
    _compare("io", "--io", "emulated,frob"),
)
case(
    UnknownIo,
    "wanted a kind of devices (emulated, pio, paravirtual, virtio), got 'hypercall': choose one with --io",
    _compare("debian", "--io", "hypercall"),
)
case(
    ConflictingOptions,
    "wanted the guest debian or io with --io, got 'embedded': use trapgate compare debian --io ...",
    _compare("--io", "emulated"),
)
case(
    ConflictingOptions,
    (
        "wanted --io without a command, --append, drives or network cards, got one of them: "
        "leave it out: the comparison brings its own"
    ),
    _compare("debian", "--io", "emulated", "--", "true"),
)
case(
    InvalidUnits,
    "wanted a whole number of frames, blocks and lines above 0, got '0': correct --units",
    _compare("io", "--io", "emulated", "--units", "0"),
)
case(
    IoNotDone,
    (
        "wanted a guest that works with hypercall devices, got status 3 and 'io: FAILED: no disk for hypercall': "
        "run it by itself, with --serial stdio"
    ),
    lambda world: measure(IoJob(RunOptions(guest="io"), "hypercall", 1)),
)
case(
    UnknownTechnique,
    (
        "wanted a technique that trapgate has (bare, software, shadow, shadow-tagged, nested, nested-tagged), "
        "got 'frob': choose one of these"
    ),
    _compare("io", "--io", "emulated", "--techniques", "frob"),
)
case(
    CannotWrite,
    (
        "wanted a file that can be written at missing/table.csv, got No such file or directory: "
        "name another file with --csv"
    ),
    lambda world: write_io_csv("missing/table.csv", IoComparison(RunOptions(), "", ())),
)
