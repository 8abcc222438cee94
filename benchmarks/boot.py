"""Debian's kernel to its init, one command, and off: CPU time against QEMU's TCG on the same kernel and initramfs.

With `--first` each run is a guest's first: of what is kept from run to run it has compiled handlers and what is known
of instructions, in a folder of its own, and nothing of the guest's code.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from common import QEMU, TRAPGATE, Run, in_turn, parser, qemu, quiet, report

from trapgate.lab.debian import fetch_debian
from trapgate.lab.initramfs import build_initramfs

COMMAND = ["echo", "it has", "booted"]
#: What is kept of a guest's code.
OF_GUESTS = ("decoded-*", "region-*", "recipe-*", "samples-*")


def _check(run: Run) -> str | None:
    return None if run.status == 0 and b"it has booted" in run.output else "the command's output and status 0"


def main() -> None:
    """Run and report."""
    arguments = parser(__doc__ or "", runs=3)
    arguments.add_argument("--first", action="store_true", help="each run is the guest's first")
    options = arguments.parse_args()
    is_quiet = quiet()
    files = fetch_debian()
    with tempfile.TemporaryDirectory() as folder:
        initramfs = Path(folder) / "initramfs"
        initramfs.write_bytes(build_initramfs(files.busybox.read_bytes(), COMMAND))
        commands = {"trapgate": [*TRAPGATE, "run", "debian", "--", *COMMAND]}
        if QEMU:
            commands["qemu"] = qemu(files.kernel, initramfs)
        if options.first:
            os.environ["TRAPGATE_CACHE"] = str(Path(folder) / "cache")
            rows = {"first boot": in_turn(commands, options.runs, _check, before=_forget_guests)}
        else:
            rows = {"boot": in_turn(commands, options.runs, _check)}
    report("Debian: boot, one command, power-off (CPU time)", rows, options.json, is_quiet)


def _forget_guests() -> None:
    """Delete what is kept of guests' code."""
    for pattern in OF_GUESTS:
        for path in Path(os.environ["TRAPGATE_CACHE"]).glob(f"code/*/{pattern}"):
            path.unlink()


if __name__ == "__main__":
    main()
