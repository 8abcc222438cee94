"""Debian's kernel to its init, one command, and off: CPU time against QEMU's TCG on the same kernel and initramfs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import QEMU, TRAPGATE, Run, in_turn, parser, qemu, quiet, report

from trapgate.lab.debian import fetch_debian
from trapgate.lab.initramfs import build_initramfs

COMMAND = ["echo", "it has", "booted"]


def _check(run: Run) -> str | None:
    return None if run.status == 0 and b"it has booted" in run.output else "the command's output and status 0"


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=3).parse_args()
    is_quiet = quiet()
    files = fetch_debian()
    with tempfile.TemporaryDirectory() as folder:
        initramfs = Path(folder) / "initramfs"
        initramfs.write_bytes(build_initramfs(files.busybox.read_bytes(), COMMAND))
        commands = {"trapgate": [*TRAPGATE, "run", "debian", "--", *COMMAND]}
        if QEMU:
            commands["qemu"] = qemu(files.kernel, initramfs)
        rows = {"boot": in_turn(commands, options.runs, _check)}
    report("Debian: boot, one command, power-off (CPU time)", rows, options.json, is_quiet)


if __name__ == "__main__":
    main()
