"""Bare-metal loops of the `bench` image: CPU time against QEMU's TCG on the same image, start-up included."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import QEMU, TRAPGATE, in_turn, parser, report

from trapgate import guests

#: Turns that take QEMU about a second, so that start-up counts little.
TURNS = {
    "sieve": 200, "md5": 4_000_000, "list": 3000, "matrix": 1500, "quicksort": 100, "interpreter": 10_000_000,
}  # fmt: skip
#: Work where the processor's own machinery counts: kept apart from the integer loops.
SYSTEM_TURNS = {"out": 200_000, "syscall": 200_000, "pagefault": 100_000, "cr3": 200_000, "stride": 200}


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=3)
    options.add_argument("--system", action="store_true", help="system work instead of integer loops")
    options.add_argument("--only", help="one of them")
    chosen = options.parse_args()
    turns = SYSTEM_TURNS if chosen.system else TURNS
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "bench"
        image.write_bytes(guests.image("bench"))
        for name, n in turns.items():
            if chosen.only not in (None, name):
                continue
            line = f"bench={name} n={n}"
            commands = {"trapgate": [*TRAPGATE, "run", "bench", "--append", line]}
            if QEMU:
                commands["qemu"] = [
                    QEMU, "-accel", "tcg", "-m", "128", "-nographic", "-no-reboot", "-vga", "none", "-net", "none",
                    "-kernel", str(image), "-append", line, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
                ]  # fmt: skip
            rows[name] = in_turn(commands, chosen.runs)
    report("bare-metal loops", rows, chosen.json)


if __name__ == "__main__":
    main()
