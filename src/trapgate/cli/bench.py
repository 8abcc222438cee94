"""`trapgate bench`: parses, measures, prints. What is measured is lab/bench.py's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trapgate.lab.bench import Bench, Row


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAMES]", help="Work or groups; all by default.")
    ] = None,
    against: Annotated[str, typer.Option(metavar="A,B,...", help="Other emulators, in turn: qemu.")] = "",
    runs: Annotated[str, typer.Option(metavar="N", help="Runs of each; medians are shown.")] = "3",
    percent: Annotated[str, typer.Option(metavar="N", help="Of the usual number of turns.")] = "100",
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write every figure to FILE.")] = None,
) -> int:
    """Time bare-metal loops: guest MIPS and ns of each operation, beside other emulators."""
    from trapgate.cli import console, sizes, status

    count, share = sizes.parse_count(runs), sizes.parse_count(percent)
    if json is not None:
        console.check_writable("--json", json)
    with console.open_console("none", False) as nobody, console.progress(nobody) as show:
        from trapgate.lab.bare import usual_handlers
        from trapgate.lab.bench import measure
        from trapgate.lab.bench_peers import find_peers
        from trapgate.lab.bench_works import choose

        works, peers = choose(names or ()), find_peers([name for name in against.split(",") if name])
        usual_handlers(show)
        result = measure(works, peers, count, share, lambda what, done, total: show("measuring", done, total))
    print_bench(result, [peer.name for peer in peers])
    if json is not None:
        console.write_json(json, {"runs": count, "percent": share, **result.report()})
    return status.SUCCESS


def print_bench(result: Bench, peers: list[str]) -> None:
    """Print the table to stdout: one line for each work."""
    header = ["", "MIPS", "ns each"]
    for peer in peers:
        header += [peer, "ns each", "ratio", "whole"]
    table = [header, *(_cells(result, row, peers) for row in result.rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    for line in table:
        cells = "".join("  " + cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        print((line[0].ljust(widths[0]) + cells).rstrip())
    start = result.start
    print("start-up: " + ", ".join(f"{peer} {start.median(peer):.2f} s" for peer in start.seconds))
    if peers:
        print("ratio: trapgate's CPU time to the other's, without start-up; whole: with it; below 1 trapgate is faster")


def _cells(result: Bench, row: Row, peers: list[str]) -> list[str]:
    cells = [row.work.name, _number(result.mips(row, "trapgate")), _number(result.each(row, "trapgate"))]
    for peer in peers:
        cells += [_number(result.mips(row, peer)), _number(result.each(row, peer))]
        cells += [_number(result.net_ratio(row, peer)), f"{row.ratio(peer):.2f}"]
    return cells


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
