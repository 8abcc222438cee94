"""What can be wrong with a command line. Each message is one line: what was wanted, what was got, what to do."""

from __future__ import annotations

from collections.abc import Sequence


class CommandLineError(Exception):
    """Base of what the user can get wrong on the command line itself."""

    def __init__(self, wanted: str, got: str, remedy: str) -> None:
        super().__init__(f"wanted {wanted}, got {got}: {remedy}")


class UnknownCommand(CommandLineError):
    """The first word is no subcommand."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"a command ({', '.join(known)})", name, "see trapgate --help")


class UnknownOption(CommandLineError):
    """The subcommand has no such option."""

    def __init__(self, command: str, option: str, similar: Sequence[str]) -> None:
        remedy = f"did you mean {' or '.join(similar)}?" if similar else f"see {command} --help"
        super().__init__(f"an option that {command} has", option, remedy)


class InvalidMemory(CommandLineError):
    """--memory is not a size as QEMU writes it."""

    def __init__(self, text: str) -> None:
        super().__init__("a memory size such as 256M, 1G or 512 (megabytes)", repr(text), "correct --memory")


class InvalidCount(CommandLineError):
    """--max-instructions or another number of instructions is not a positive whole number."""

    def __init__(self, text: str, option: str) -> None:
        super().__init__("a whole number of instructions above 0", repr(text), f"correct {option}")


class InvalidUnits(CommandLineError):
    """--units is not a positive whole number."""

    def __init__(self, text: str) -> None:
        super().__init__("a whole number of frames, blocks and lines above 0", repr(text), "correct --units")


class InvalidCodeSize(CommandLineError):
    """--tb-size is not a number of megabytes."""

    def __init__(self, text: str, most: int) -> None:
        super().__init__(f"a whole number of megabytes, from 1 to {most}", repr(text), "correct --tb-size")


class InvalidJobs(CommandLineError):
    """--jobs is not a number of processes."""

    def __init__(self, text: str, most: int) -> None:
        super().__init__(f"a whole number of runs at a time, from 1 to {most}", repr(text), "correct --jobs")


class CannotWrite(CommandLineError):
    """An output file that the user named cannot be written."""

    def __init__(self, option: str, path: str, got: str) -> None:
        super().__init__(f"a file that can be written at {path}", got, f"name another file with {option}")


class OutputUnwritable(CommandLineError):
    """There is no room for what a command writes."""

    def __init__(self, got: str) -> None:
        super().__init__("room for what trapgate writes", got, "make room, or send it elsewhere")


class ConsoleUnwritable(CommandLineError):
    """The serial console's output takes no more bytes."""

    def __init__(self, got: str) -> None:
        super().__init__("to write what the guest sends", got, "make room, or choose another --serial")
