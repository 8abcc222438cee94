"""What 4 KB of a disk cost by IDE's PIO, IDE's DMA and virtio, under each technique: the table in docs/io.md.

    python scripts/disk_exits.py [--blocks N] [--techniques A,B,...]

Debian reads and writes N blocks one by one past its cache (dd iflag=direct); what the same boot costs without them is
taken off. All figures but the time it takes are modelled, and so the same every time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Literal

from trapgate.arch.cpuid import PROFILES
from trapgate.lab.compare import CapturedConsole, busy
from trapgate.lab.options import DEBIAN, DEFAULT_PROCESSOR, DriveOptions, RunOptions
from trapgate.lab.run import run_guest
from trapgate.lab.statistics import Statistics

BLOCK = 4096
INTERFACES = ("pio", "dma", "virtio")
DEVICES = ("ide", "ide-dma", "virtio-blk0", "virtio-blk0-msix")
COMMANDS = {
    "": "true",
    "read": "dd if=DEVICE of=/dev/null bs=4k count=COUNT iflag=direct",
    "write": "dd if=/dev/zero of=DEVICE bs=4k count=COUNT oflag=direct",
}


def measure(image: Path, interface: str, technique: str, command: str) -> Statistics:
    """One boot. Ends the script when Debian's command has failed."""
    kind: Literal["ide", "virtio"] = "virtio" if interface == "virtio" else "ide"
    options = RunOptions(
        guest=DEBIAN,
        drives=(DriveOptions(file=image, interface=kind),),
        technique=technique,
        command=("sh", "-c", command.replace("DEVICE", "/dev/vda" if kind == "virtio" else "/dev/sda")),
        append="libata.dma=0" if interface == "pio" else None,
    )
    outcome = run_guest(options, CapturedConsole())
    if outcome.status or outcome.statistics.device_faults:
        raise SystemExit(f"{interface} under {technique}: status {outcome.status}, {outcome.statistics.device_faults}")
    return outcome.statistics


def row(name: str, technique: str, what: str, blocks: int, run: Statistics, base: Statistics) -> str:
    """A line of the table."""

    def accesses(statistics: Statistics) -> int:
        counts = {**statistics.port_accesses, **statistics.memory_accesses}
        return sum(counts.get(device, 0) for device in DEVICES)

    def exits(statistics: Statistics) -> int:
        return sum(count.samples for count in statistics.exits.values())

    def place(statistics: Statistics, name: str) -> int:
        return statistics.cycles_by_place[name]

    cycles = busy(run) - busy(base)
    switches = place(run, "world_switches") - place(base, "world_switches")
    seconds = (run.cycles - base.cycles) / PROFILES[DEFAULT_PROCESSOR].frequency
    cells = (
        technique, what, name, f"{(accesses(run) - accesses(base)) / blocks:,.1f}",
        f"{(exits(run) - exits(base)) / blocks:,.1f}", f"{cycles / blocks:,.0f}", f"{cycles / blocks / BLOCK:,.1f}",
        f"{100 * switches / cycles:.0f}%", f"{blocks * BLOCK / seconds / 1e6:.1f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--techniques", default="bare,nested-tagged,shadow-tagged,software")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        with image.open("wb") as file:
            file.truncate(max(arguments.blocks * BLOCK, 1 << 20))
        for technique in arguments.techniques.split(","):
            runs = {
                (interface, what): measure(image, interface, technique, command.replace("COUNT", str(arguments.blocks)))
                for interface in INTERFACES
                for what, command in COMMANDS.items()
            }
            for what in ("read", "write"):
                for interface in INTERFACES:
                    run, base = runs[interface, what], runs[interface, ""]
                    print(row(interface, technique, what, arguments.blocks, run, base), flush=True)


if __name__ == "__main__":
    main()
