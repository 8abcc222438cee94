"""Time to the guest's first instruction, a first run with nothing cached, and the memory that Debian's boot takes."""

from __future__ import annotations

import statistics
import tempfile

from common import CONSOLE, TRAPGATE, BenchmarkFailed, Run, parser, quiet, run, write_json
from rich.table import Table

#: Exit status of a run that --max-instructions ended (docs/cli.md).
LIMIT_STATUS = 124
GUEST_MEGABYTES = 128
FIRST = [*TRAPGATE, "run", "real-loop", "--max-instructions", "1"]
DEBIAN = [*TRAPGATE, "run", "debian", "--memory", f"{GUEST_MEGABYTES}M", "--", "true"]


def _ended(command: list[str], status: int, environment: dict[str, str] | None = None) -> Run:
    done = run(command, environment)
    if done.status != status:
        raise BenchmarkFailed(command, f"status {status}", done)
    return done


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=5).parse_args()
    is_quiet = quiet()
    _ended(FIRST, LIMIT_STATUS)
    warm = statistics.median(_ended(FIRST, LIMIT_STATUS).seconds for _ in range(options.runs))
    with tempfile.TemporaryDirectory() as folder:
        first_cold = _ended(FIRST, LIMIT_STATUS, {"TRAPGATE_CACHE": folder}).seconds
    _ended(DEBIAN, 0)  # fetches the packages, if need be
    with tempfile.TemporaryDirectory() as folder:
        cold = _ended(DEBIAN, 0, {"TRAPGATE_CACHE": folder}).seconds
    again = _ended(DEBIAN, 0)
    figures = {
        "first_instruction_warm_cpu_seconds": round(warm, 3),
        "first_instruction_cold_cpu_seconds": round(first_cold, 3),
        "debian_cold_cpu_seconds": round(cold, 3),
        "debian_warm_cpu_seconds": round(again.seconds, 3),
        "debian_peak_megabytes": again.memory // 1024,
        "guest_megabytes": GUEST_MEGABYTES,
    }
    table = Table(title="start-up (CPU time)")
    table.add_column("what")
    table.add_column("", justify="right")
    table.add_row("to the guest's first instruction, handlers cached", f"{warm:.2f} s")
    table.add_row("the same, nothing cached", f"{first_cold:.1f} s")
    table.add_row("Debian's boot and power-off, nothing cached", f"{cold:.1f} s")
    table.add_row("Debian's boot and power-off, handlers cached", f"{again.seconds:.1f} s")
    table.add_row(f"peak memory of that run, {GUEST_MEGABYTES} MB of it the guest's", f"{again.memory / 1024:.0f} MB")
    CONSOLE.print(table)
    write_json(options.json, {"quiet": is_quiet, **figures})


if __name__ == "__main__":
    main()
