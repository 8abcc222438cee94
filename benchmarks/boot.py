"""Debian's kernel to its init, one command, and off: CPU time against QEMU's TCG on the same kernel and initramfs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import QEMU, TRAPGATE, in_turn, parser, report

from trapgate.lab.debian import fetch_debian
from trapgate.lab.initramfs import build_initramfs

COMMAND = ["echo", "booted"]


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=5).parse_args()
    files = fetch_debian()
    with tempfile.TemporaryDirectory() as folder:
        initramfs = Path(folder) / "initramfs"
        initramfs.write_bytes(build_initramfs(files.busybox.read_bytes(), COMMAND))
        commands = {"trapgate": [*TRAPGATE, "run", "debian", "--", *COMMAND]}
        if QEMU:
            commands["qemu"] = [
                QEMU, "-accel", "tcg", "-M", "pc", "-m", "256", "-nographic", "-no-reboot", "-vga", "none",
                "-net", "none", "-kernel", str(files.kernel), "-initrd", str(initramfs), "-append", "console=ttyS0",
            ]  # fmt: skip
        report("Debian: boot, one command, power-off", {"boot": in_turn(commands, options.runs)}, options.json)


if __name__ == "__main__":
    main()
