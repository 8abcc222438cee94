"""The `trapgate` command: picks the subcommand, and turns every end into an exit status and at most one line.

Typer is imported here and rich nowhere: what a subcommand needs is imported when it runs, because a run should reach
its guest quickly.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
import tempfile
import traceback
from typing import Annotated, Any, NoReturn

import typer

from trapgate import __version__
from trapgate.cli import bench, compare, doctor, lockstep, run, status, trace
from trapgate.cli.errors import CommandLineError, OutputUnwritable, UnknownCommand, UnknownOption
from trapgate.cli.guest_options import EPILOG
from trapgate.machine.errors import MachineError, UnimplementedDevice
from trapgate.vmm.errors import EntryRefused, UnexpectedExit, VmmError
from trapgate.vmm.memory.errors import VmmMemoryError

COMMANDS = ("run", "compare", "trace", "lockstep", "bench", "doctor")
#: Those that take a command for the guest after --.
WITH_GUEST = ("trapgate run", "trapgate compare", "trapgate trace", "trapgate lockstep")
DEBUG = "--debug"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An x86-64 machine in Python: run a guest on it, and see what it costs.",
    epilog="Exit statuses: docs/cli.md.",
)
app.command("run", epilog=EPILOG)(run.run)
app.command("compare", epilog=EPILOG)(compare.compare)
app.command("trace", epilog=EPILOG)(trace.trace)
app.command("lockstep", epilog=EPILOG)(lockstep.lockstep)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an internal error.")] = False,
) -> None:
    """An x86-64 machine in Python: run a guest on it, and see what it costs."""
    if version:
        print(f"trapgate {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> NoReturn:
    """The entry point: runs the command line of this process and exits."""
    result = run_command(sys.argv[1:])
    try:
        # None when it was closed before this process began.
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            result = result or status.BROKEN_PIPE
        elif result == status.SUCCESS:
            result = report_error(OutputUnwritable(error.strerror or "an error"))
    sys.exit(result)


def entry() -> NoReturn:
    """`main` for a process of its own.

    It ends without the interpreter's own end, which frees every decoded instruction one by one: half a second after a
    boot. A single run leaves no garbage in cycles that would be worth looking for.
    """
    if sys.argv[1:2] == ["run"]:
        gc.disable()
    try:
        main()
    except SystemExit as end:
        result = end.code
    atexit._run_exitfuncs()
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(result if isinstance(result, int) else 0)


def run_command(arguments: list[str]) -> int:
    """Run one command line (without the program's name) and return its exit status. Prints errors to stderr."""
    own, guest_command = split_command(arguments)
    debug = DEBUG in own
    own = [argument for argument in own if argument != DEBUG]
    try:
        return _dispatch(own, guest_command)
    except (CommandLineError, MachineError, VmmError, VmmMemoryError) as error:
        return report_error(error)
    except KeyboardInterrupt:
        return status.INTERRUPTED
    except BrokenPipeError:
        return status.BROKEN_PIPE
    except OSError as error:
        if error.errno not in DISK_FULL:
            return report_bug(error, debug)
        return report_error(OutputUnwritable(error.strerror or "an error"))
    except Exception as error:
        return report_bug(error, debug)


def split_command(arguments: list[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """Arguments before the first `--`, and the guest's command after it (None without a `--`)."""
    if "--" not in arguments:
        return arguments, None
    position = arguments.index("--")
    return arguments[:position], tuple(arguments[position + 1 :])


def _dispatch(arguments: list[str], guest_command: tuple[str, ...] | None) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise UnknownCommand(arguments[0], COMMANDS)
    command = typer.main.get_command(app)
    name = f"trapgate {arguments[0]}" if arguments and arguments[0] in COMMANDS else "trapgate"
    if guest_command is not None and name not in WITH_GUEST:
        raise CommandLineError("-- only after trapgate run or trapgate trace", f"it after {name}", f"see {name} --help")
    try:
        result: Any = command.main(arguments, prog_name="trapgate", standalone_mode=False, obj=guest_command)
    except typer.TyperException as error:
        raise describe_usage(error, name) from error
    except SystemExit as error:
        # Typer's own answer to a reader of stdout that has gone away; a signal's handler has other statuses.
        if error.code != 1:
            raise
        return status.BROKEN_PIPE
    return result if isinstance(result, int) else status.SUCCESS


def describe_usage(error: typer.TyperException, name: str) -> CommandLineError:
    """Typer's complaint about a command line in trapgate's form. Typer hides the classes, so their names must do."""
    kind = type(error).__name__
    option = getattr(error, "option_name", "")
    if kind == "NoSuchOption":
        return UnknownOption(name, option, getattr(error, "possibilities", None) or [])
    if kind == "BadOptionUsage" and "requires" in error.message:
        return CommandLineError(f"a value after {option}", "none", f"see {name} --help")
    if kind == "BadOptionUsage":
        return CommandLineError(f"{option} without a value", "one", f"see {name} --help")
    if "unexpected extra argument" in error.message:
        extra = error.message.rpartition("(")[2].rstrip(")")
        remedy = "put a command for the guest after --" if name in WITH_GUEST else f"see {name} --help"
        wanted = "at most one guest" if name in WITH_GUEST else "no argument"
        return CommandLineError(wanted, f"also {extra}", remedy)
    return CommandLineError("a complete command line", error.format_message().rstrip("."), f"see {name} --help")


def report_error(error: Exception) -> int:
    """Print a typed error as one line; returns the exit status."""
    print(f"trapgate: error: {one_line(str(error))}", file=sys.stderr)
    if isinstance(error, EntryRefused | UnexpectedExit):
        return status.INTERNAL_ERROR
    return status.UNIMPLEMENTED if isinstance(error, UnimplementedDevice) else status.BAD_INPUT


def one_line(text: str) -> str:
    """`text` with everything that could move the cursor escaped: file names may hold any character."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def report_bug(error: Exception, debug: bool) -> int:
    """Say that an exception is trapgate's own fault, and where its traceback is; returns the exit status."""
    trace = "".join(traceback.format_exception(error))
    summary = one_line(f"{type(error).__name__}: {error}")
    print(f"trapgate: this is a bug in trapgate: {summary}", file=sys.stderr)
    if debug:
        print(trace, file=sys.stderr, end="")
        return status.INTERNAL_ERROR
    try:
        with tempfile.NamedTemporaryFile("w", prefix="trapgate-", suffix=".traceback", delete=False) as file:
            file.write(f"trapgate {__version__}, Python {sys.version}\narguments: {sys.argv[1:]!r}\n{trace}")
    except OSError:
        print(f"trapgate: run it again with {DEBUG} to see where", file=sys.stderr)
    else:
        print(f"trapgate: please report it with the traceback in {file.name}", file=sys.stderr)
    return status.INTERNAL_ERROR
