"""Disks in Debian, CPU time against QEMU's TCG on the same kernel, initramfs and image; the boot is taken off.

Half the throughput of QEMU's is a ratio of 2.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import QEMU, TRAPGATE, Run, in_turn, parser, qemu, quiet, report

from trapgate.lab.debian import fetch_debian
from trapgate.lab.debian_modules import DISK_DRIVERS, VIRTIO_DRIVERS, fetch_modules
from trapgate.lab.initramfs import build_initramfs

MEGABYTES = 256
BOOT = "boot"
#: Past the guest's cache in requests of 128 KB; and as files are read, through the cache and read ahead.
WORKS = {
    BOOT: "true",
    "direct": f"dd if=DEVICE of=/dev/null bs=128k count={8 * MEGABYTES} iflag=direct 2>/dev/null",
    "cached": f"dd if=DEVICE of=/dev/null bs=64k count={16 * MEGABYTES} 2>/dev/null",
}
INTERFACES = {"ide": ("/dev/sda", DISK_DRIVERS), "virtio": ("/dev/vda", VIRTIO_DRIVERS)}


def _check(run: Run) -> str | None:
    return None if run.status == 0 and b"it is done" in run.output else "the command's output and status 0"


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=3).parse_args()
    is_quiet = quiet()
    commands = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        with image.open("wb") as file:
            for _ in range(MEGABYTES):
                file.write(bytes(range(256)) * 4096)
        for interface, (device, drivers) in INTERFACES.items():
            files, modules = fetch_modules(fetch_debian(), drivers)
            for work, text in WORKS.items():
                command = ["sh", "-c", f"{text.replace('DEVICE', device)}; echo it is done"]
                drive = f"file={image},format=raw,if={interface}"
                commands[f"{interface} {work}", "trapgate"] = [
                    *TRAPGATE, "run", "debian", "-drive", drive, "--", *command
                ]  # fmt: skip
                initramfs = Path(folder) / f"initramfs-{interface}-{work}"
                initramfs.write_bytes(build_initramfs(files.busybox.read_bytes(), command, modules=modules))
                if QEMU:
                    commands[f"{interface} {work}", "qemu"] = qemu(
                        files.kernel, initramfs, "-net", "none", "-drive", f"{drive},snapshot=on"
                    )
        # Twice before it counts: code that one run has found worth compiling is there in the next.
        times = in_turn(commands, options.runs, _check, warmup=2)
    rows: dict[str, dict[str, list[float]]] = {}
    for (name, who), values in times.items():
        interface, work = name.split()
        if work != BOOT:
            boots = times[f"{interface} {BOOT}", who]
            title = f"{interface}: {MEGABYTES} MB {work}"
            rows.setdefault(title, {})[who] = [value - boot for value, boot in zip(values, boots, strict=True)]
    report("Debian reads a disk (CPU time)", rows, options.json, is_quiet)


if __name__ == "__main__":
    main()
