"""Time to the guest's first instruction and a whole first run, and the memory that Debian's boot takes."""

from __future__ import annotations

import statistics
import tempfile

from common import TRAPGATE, cpu_seconds, parser
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=5).parse_args()
    first = [*TRAPGATE, "run", "real-loop", "--max-instructions", "1"]
    debian = [*TRAPGATE, "run", "debian", "--memory", "128M", "--", "true"]
    cpu_seconds(first)
    warm = statistics.median(cpu_seconds(first)[0] for _ in range(options.runs))
    with tempfile.TemporaryDirectory() as folder:
        cold, _ = cpu_seconds(debian, {"TRAPGATE_CACHE": folder})
    again, memory = cpu_seconds(debian)
    table = Table(title="start-up")
    table.add_column("what")
    table.add_column("", justify="right")
    table.add_row("to the guest's first instruction, handlers cached", f"{warm:.2f} s")
    table.add_row("Debian's boot and power-off, nothing cached", f"{cold:.1f} s")
    table.add_row("Debian's boot and power-off, handlers cached", f"{again:.1f} s")
    table.add_row("peak memory of that run, 128 MB of it the guest's", f"{memory / 1024:.0f} MB")
    Console().print(table)


if __name__ == "__main__":
    main()
