"""Bare-metal loops of the `bench` image: CPU time against QEMU's TCG on the same image, start-up included.

Both must print the same checksum.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from common import QEMU, TRAPGATE, Run, in_turn, parser, quiet, report

from trapgate import guests

#: Turns that take QEMU about a second, so that start-up counts little.
TURNS = {
    "sieve": 200, "md5": 4_000_000, "list": 3000, "matrix": 1500, "quicksort": 100, "interpreter": 10_000_000,
}  # fmt: skip
#: Work where the processor's own machinery counts: kept apart from the integer loops.
SYSTEM_TURNS = {"out": 200_000, "syscall": 200_000, "pagefault": 100_000, "cr3": 200_000, "stride": 200}
#: What isa-debug-exit makes of the guest's 0.
SUCCESS = 1


class _SameLine:
    """Each run prints one line, the same for all of them, and ends well."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.line: bytes | None = None

    def __call__(self, run: Run) -> str | None:
        lines = re.findall(rb"bench=%b n=\d+ checksum=\w+" % self.name.encode(), run.output)
        if run.status not in (0, SUCCESS) or not lines:
            return f"one line about {self.name!r}, and success"
        if self.line is None:
            self.line = lines[-1]
        return None if lines[-1] == self.line else f"the same line as before, {self.line.decode(errors='replace')!r}"


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=3)
    options.add_argument("--system", action="store_true", help="system work instead of integer loops")
    options.add_argument("--only", choices=[*TURNS, *SYSTEM_TURNS], help="one of them")
    options.add_argument("--percent", type=int, default=100, help="of the usual number of turns (default 100)")
    chosen = options.parse_args()
    is_quiet = quiet()
    turns = SYSTEM_TURNS if chosen.system else TURNS
    if chosen.only:
        turns = {chosen.only: (TURNS | SYSTEM_TURNS)[chosen.only]}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "bench"
        image.write_bytes(guests.image("bench"))
        for name, usual in turns.items():
            line = f"bench={name} n={max(usual * chosen.percent // 100, 1)}"
            commands = {"trapgate": [*TRAPGATE, "run", "bench", "--append", line]}
            if QEMU:
                commands["qemu"] = [
                    QEMU, "-accel", "tcg", "-m", "128", "-nographic", "-no-reboot", "-vga", "none", "-net", "none",
                    "-kernel", str(image), "-append", line, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
                ]  # fmt: skip
            rows[name] = in_turn(commands, chosen.runs, _SameLine(name))
    title = "system work" if chosen.system else "integer loops"
    report(f"bare metal: {title} (CPU time)", rows, chosen.json, is_quiet)


if __name__ == "__main__":
    main()
