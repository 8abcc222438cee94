"""What a program can get wrong in its use of the API. Each message: what was wanted, what was got, what to do."""

from __future__ import annotations

from collections.abc import Sequence

from trapgate.machine.errors import MachineError


class ApiError(MachineError):
    """Base of the errors of `trapgate.api`."""

    def __init__(self, wanted: str, got: str, remedy: str) -> None:
        super().__init__(f"wanted {wanted}, got {got}: {remedy}")


class InvalidArgument(ApiError):
    """An argument of the API has a value that it cannot have."""


class InvalidSize(ApiError):
    """A memory size is neither a number of bytes nor a text such as 128M."""

    def __init__(self, got: object) -> None:
        super().__init__("a memory size in bytes or a text such as '128M' or '1G'", repr(got), "correct memory=")


class UnknownCpu(ApiError):
    """No processor profile has this name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"a processor that trapgate has ({', '.join(known)})", repr(name), "correct cpu=")


class NotBooted(ApiError):
    """The machine was to run and has no guest."""

    def __init__(self) -> None:
        super().__init__("a machine with a guest", "one without", "call boot() first")


class AlreadyBooted(ApiError):
    """A second guest was to be loaded into a machine."""

    def __init__(self) -> None:
        super().__init__("a machine that has no guest yet", "one that has", "make another Machine")


class NoGuest(ApiError):
    """boot() was called with nothing to boot, or with too much."""

    def __init__(self, given: Sequence[str]) -> None:
        got = " and ".join(given) or "nothing"
        super().__init__("exactly one of guest, kernel= and image= to boot", got, "name one guest")


class NotMapped(ApiError):
    """A virtual address leads to no RAM."""

    def __init__(self, address: int) -> None:
        super().__init__(
            f"virtual address {address:#x} to lead to RAM",
            "one that the guest's page tables do not map there",
            "look at machine.virtual.is_mapped(address) first",
        )
        self.address = address


class InvalidRegister(ApiError):
    """A register was to get a value that it cannot hold."""

    def __init__(self, name: str, bits: int, value: object) -> None:
        got = f"{value:#x}" if isinstance(value, int) else repr(value)
        super().__init__(f"an unsigned number of at most {bits} bits for {name}", got, "mask it to the register's size")


class UnknownRegister(ApiError, AttributeError):
    """A register was to be read or written that there is not, or that cannot be written so."""

    def __init__(self, name: str, names: Sequence[str], remedy: str) -> None:
        super().__init__(f"a register ({', '.join(names)})", repr(name), remedy)


class UnknownMsr(ApiError):
    """The processor has no such model-specific register."""

    def __init__(self, number: int) -> None:
        super().__init__("an MSR that the processor has", f"{number:#x}", "choose another one, or another cpu=")


class ForbiddenValue(ApiError):
    """The processor itself refuses a value for a control register."""

    def __init__(self, name: str, value: int, exception: str) -> None:
        super().__init__(
            f"a value that the processor takes for {name}",
            f"{value:#x}, for which it raises {exception}",
            "see the manual for what the register may hold",
        )


class UnknownSymbol(ApiError):
    """An address was named by a symbol that there is not."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(
            f"a symbol called {name!r}", f"{count} others" if count else "no symbols", "see load_symbols()"
        )


class InvalidRange(ApiError):
    """Memory was to be indexed by something other than an address or a range of them."""

    def __init__(self, got: object) -> None:
        super().__init__("memory[address] or memory[start:stop]", repr(got), "name both ends, without a step")


class InvalidBytes(ApiError):
    """A range of memory was to be set to something that does not fill it."""

    def __init__(self, start: int, length: int, got: object) -> None:
        what = f"{len(got)} bytes" if isinstance(got, bytes | bytearray | memoryview) else repr(got)
        wanted = (
            f"a number from 0 to 255 for the byte at {start:#x}" if length < 0 else f"{length} bytes from {start:#x} on"
        )
        super().__init__(wanted, what, "assign exactly as much as the range holds")


class UnknownInstruction(ApiError):
    """No class of hookable instructions has this name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"a class of instructions that can be hooked ({', '.join(known)})",
            repr(name),
            "choose one of them, or set a breakpoint",
        )


class InvalidAnswer(ApiError):
    """A device or a hook written in Python gave something that is no number."""

    def __init__(self, name: str, answer: object) -> None:
        super().__init__(f"an int from {name}", repr(answer), "return the value that the guest is to read")


class InvalidDeadline(ApiError):
    """A run was to end in the past."""

    def __init__(self, name: str, kind: str, value: object) -> None:
        super().__init__(f"{kind} above 0 for {name}=", repr(value), "give the run some time")


class UnexpectedEnd(ApiError):
    """expect() did not see its text on the console."""

    def __init__(self, pattern: str, end: str, last: str) -> None:
        super().__init__(
            f"{pattern} on the console",
            f"a run that ended otherwise ({end}) after {last!r}",
            "look at machine.report()",
        )
