"""`trapgate trace`: parses, traces, prints. What a trace has is api/trace.py's business."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.cli.guest_options import Serial, refuse_devices, takes_guest
from trapgate.lab.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from trapgate.api.results import Result
    from trapgate.api.trace import TraceOptions

SHOWN = "in_asm,int,mem"


class InvalidTraceOption(CommandLineError):
    """An option of `trapgate trace` has a value that it cannot have."""

    def __init__(self, option: str, wanted: str, got: str) -> None:
        super().__init__(f"{wanted} after {option}", repr(got), f"correct {option}")


@takes_guest
def trace(
    options: RunOptions,
    serial: Serial = "none",
    start: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Only from this linear address on.")] = None,
    end: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Only below this linear address.")] = None,
    cpl: Annotated[str | None, typer.Option(metavar="0..3", help="Only at this privilege level.")] = None,
    skip: Annotated[str | None, typer.Option(metavar="N", help="Leave the first N instructions out.")] = None,
    count: Annotated[str | None, typer.Option(metavar="N", help="End the run after N traced instructions.")] = None,
    show: Annotated[str, typer.Option("--show", "-d", metavar="ITEMS", help="Of in_asm,int,cpu,mem.")] = SHOWN,
    json: Annotated[bool, typer.Option("--json", help="Write JSON, one object a line.")] = False,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Not to stdout.")] = None,
) -> int:
    """Run a guest and print every instruction, access, exception and interrupt."""
    from trapgate.api.trace import PARTS, TraceOptions
    from trapgate.cli import console

    parts = frozenset(show.split(","))
    if not parts <= set(PARTS):
        raise InvalidTraceOption("--show", f"some of {','.join(PARTS)}", show)
    if cpl is not None and cpl not in ("0", "1", "2", "3"):
        raise InvalidTraceOption("--cpl", "a privilege level from 0 to 3", cpl)
    if start is not None and end is not None and parse_address("--end", end) <= parse_address("--start", start):
        raise InvalidTraceOption("--end", "an address above --start", end)
    traced = TraceOptions(
        start=None if start is None else parse_address("--start", start),
        end=None if end is None else parse_address("--end", end),
        cpl=None if cpl is None else int(cpl),
        skip=0 if skip is None else parse_number("--skip", skip),
        count=None if count is None else parse_number("--count", count),
        parts=parts,
        as_json=json,
    )
    refuse_devices(options, "trace")
    if options.displays or options.vga == "std":
        raise CommandLineError("--display and --vga after trapgate run", "one after trapgate trace", "leave it out")
    if output is not None:
        console.check_writable("--output", output)
    return _trace(options, traced, serial, output)


def parse_address(option: str, text: str) -> int:
    """A linear address in hexadecimal, with or without 0x. Raises InvalidTraceOption."""
    if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,16}", text) is None:
        raise InvalidTraceOption(option, "a hexadecimal address of at most 64 bits", text)
    return int(text, 16)


def parse_number(option: str, text: str) -> int:
    """A number of instructions above 0; underscores may separate digits. Raises InvalidTraceOption."""
    if re.fullmatch(r"[0-9][0-9_]{0,23}", text, re.ASCII) is None or text.endswith("_") or not int(text):
        raise InvalidTraceOption(option, "a whole number of instructions above 0", text)
    return int(text)


def _trace(options: RunOptions, traced: TraceOptions, serial: str, output: str | None) -> int:
    import sys

    from trapgate.api.machine import Machine, native_code
    from trapgate.api.results import GuestExited, PoweredOff, StepsDone, TripleFault, Unimplemented
    from trapgate.cli import console
    from trapgate.lab.guest import find_guest

    with console.open_console(serial, False) as terminal, console.progress(terminal) as show:
        guest = find_guest(options, show)
        native_code(lambda stage, done, total: show(f"building {stage}", done, total))
        machine = Machine(options.memory_size, options.processor)
        machine.boot(image=guest.image)
        machine.console.on_output = terminal.write
        with terminal, _open(output) as write:
            result = machine.trace(traced, write)
    if not isinstance(result, GuestExited | PoweredOff | StepsDone):
        print(f"trapgate: the run ended: {result}", file=sys.stderr)
        if isinstance(result, TripleFault | Unimplemented):
            print(machine.report(), file=sys.stderr)
    return _status(result, guest.success_status)


def _open(output: str | None) -> AbstractContextManager[Callable[[str], None]]:
    from contextlib import contextmanager

    @contextmanager
    def opened() -> Iterator[Callable[[str], None]]:
        import sys

        if output is None:
            yield lambda text: print(text, file=sys.stdout)
            return
        with open(output, "w") as file:
            yield lambda text: print(text, file=file)

    return opened()


def _status(result: Result, success: int | None) -> int:
    """The exit status, as `trapgate run` has it."""
    from trapgate.api.results import GuestExited, TripleFault, Unimplemented
    from trapgate.lab.run import TRIPLE_FAULT_STATUS, UNIMPLEMENTED_STATUS

    match result:
        case TripleFault():
            return TRIPLE_FAULT_STATUS
        case Unimplemented():
            return UNIMPLEMENTED_STATUS
        case GuestExited(status) if status != success:
            return status & 0xFF
    return 0
