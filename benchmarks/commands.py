"""Work in Debian, CPU time against QEMU's TCG on the same kernel and initramfs; what the boot takes is taken off."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import QEMU, TRAPGATE, Run, in_turn, parser, qemu, quiet, report

from trapgate.lab.debian import fetch_debian
from trapgate.lab.initramfs import build_initramfs

BOOT = "boot"
WORKS = {
    BOOT: "true",
    "200 fork+exec": "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done",
    "md5sum of 16 MB": "dd if=/dev/zero bs=1M count=16 2>/dev/null | md5sum",
    "20,000 turns of a shell loop": "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
}


def _check(run: Run) -> str | None:
    return None if run.status == 0 and b"it is done" in run.output else "the command's output and status 0"


def main() -> None:
    """Run and report."""
    arguments = parser(__doc__ or "", runs=3)
    arguments.add_argument("--warmup", type=int, default=2, help="turns that do not count before them (default 2)")
    options = arguments.parse_args()
    is_quiet = quiet()
    files = fetch_debian()
    commands = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (work, text) in enumerate(WORKS.items()):
            command = ["sh", "-c", f"{text}; echo it is done"]
            commands[work, "trapgate"] = [*TRAPGATE, "run", "debian", "--", *command]
            initramfs = Path(folder) / f"initramfs{number}"
            initramfs.write_bytes(build_initramfs(files.busybox.read_bytes(), command))
            if QEMU:
                commands[work, "qemu"] = qemu(files.kernel, initramfs)
        # Some turns before it counts: code that one run has found worth compiling is there in the next.
        times = in_turn(commands, options.runs, _check, warmup=options.warmup)
    rows = {work: {who: times[work, who] for other, who in times if other == work} for work in WORKS}
    for work in WORKS:
        if work != BOOT:
            for who, values in rows[work].items():
                rows[work][who] = [value - boot for value, boot in zip(values, rows[BOOT][who], strict=True)]
    report("Debian: work without the boot (CPU time)", rows, options.json, is_quiet)


if __name__ == "__main__":
    main()
