"""`trapgate doctor`: what this host offers, and what is missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from trapgate.cli import status

if TYPE_CHECKING:
    from pathlib import Path

    from trapgate.lab.host import HostReport


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Show what this host offers: processor, LLVM, caches, apt, KVM, other emulators."""
    from dataclasses import asdict

    from trapgate.lab.host import examine_host

    report = examine_host(_cache_folder(), _llvm_version())
    if json:
        from json import dumps

        print(dumps(asdict(report), indent=2))
    else:
        _print_table(report)
    return status.UNFIT_HOST if report.problems else status.SUCCESS


def _cache_folder() -> Path:
    from pathlib import Path

    from platformdirs import user_cache_path

    chosen = os.environ.get("TRAPGATE_CACHE")
    return Path(chosen) if chosen else user_cache_path("trapgate")


def _llvm_version() -> str | None:
    """LLVM's version as the engine sees it; None when it cannot be loaded."""
    try:
        from trapgate.engine import compile as native
    except (ImportError, OSError):
        return None
    return ".".join(map(str, native.llvm.llvm_version_info))  # type: ignore[attr-defined]


def _print_table(report: HostReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "processor": f"{report.processor}, {report.processors} usable",
        "features": " ".join(report.features) or "not known",
        "Python": report.python,
        "LLVM": f"{report.llvm or 'not loaded'} (llvmlite {report.llvmlite or 'not installed'})",
        "cache": f"{report.cache_folder}, {report.cache_bytes / (1 << 20):.1f} MB",
        "apt": report.apt or "not found: 'trapgate run debian' needs apt-get",
        "/dev/kvm": report.kvm,
        **{peer: found or "not found (only tests and benchmarks use it)" for peer, found in report.peers.items()},
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console = Console(highlight=False)
    console.print(table)
    for problem in report.problems:
        console.print(Text(f"problem: {problem}"))
