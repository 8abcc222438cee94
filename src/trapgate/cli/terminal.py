"""The console on this process's standard input and output.

On a terminal the input is put into raw mode, so that every key, Ctrl-C among them, goes to the guest; Ctrl-A is the
escape, as in QEMU's `-nographic`. The mode is put back on every way out: normal ends, exceptions, SIGTERM, SIGHUP. A
pipe or file works as plain input until its end; Ctrl-C then ends the run.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import termios
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from trapgate.cli import status
from trapgate.cli.errors import ConsoleUnwritable

ESCAPE = 0x01
HELP = (
    b"\r\n"
    b"C-a h    print this help\r\n"
    b"C-a x    end the run\r\n"
    b"C-a c    the monitor, and back to the guest\r\n"
    b"C-a C-a  send C-a\r\n"
)  # fmt: skip
READ_SIZE = 4096
FLUSH_SIZE = 4096


class KeyTaker(Protocol):
    """Takes the keys instead of the guest, between Ctrl-A C and Ctrl-A C: a monitor."""

    def enter(self) -> None:
        """The keys come here from now on."""

    def leave(self) -> None:
        """They go to the guest again."""

    def feed(self, data: bytes) -> None:
        """Take keys."""


class EscapeFilter:
    """Takes Ctrl-A and the key after it out of what the user types. `on_quit` and `on_help` are called for x and h;
    with a `monitor` c switches between it and the guest."""

    def __init__(self, on_quit: Callable[[], None], on_help: Callable[[], None]) -> None:
        self._on_quit = on_quit
        self._on_help = on_help
        self._escaped = False
        self.monitor: KeyTaker | None = None
        self._in_monitor = False

    def feed(self, data: bytes) -> bytes:
        """The bytes of `data` that go to the guest."""
        if ESCAPE not in data and not self._escaped:
            return self._pass_on(data)
        guest, kept = b"", bytearray()
        for byte in data:
            if not self._escaped:
                if byte == ESCAPE:
                    self._escaped = True
                else:
                    kept.append(byte)
                continue
            self._escaped = False
            if byte in b"xX":
                self._on_quit()
                break
            if byte in b"hH?":
                self._on_help()
            elif byte in b"cC" and self.monitor is not None:
                guest += self._pass_on(bytes(kept))
                kept.clear()
                self._in_monitor = not self._in_monitor
                if self._in_monitor:
                    self.monitor.enter()
                else:
                    self.monitor.leave()
            elif byte == ESCAPE:
                kept.append(byte)
        return guest + self._pass_on(bytes(kept))

    def _pass_on(self, data: bytes) -> bytes:
        """Hand keys to the monitor while it has them; what is left for the guest."""
        if not self._in_monitor or self.monitor is None:
            return data
        if data:
            self.monitor.feed(data)
        return b""


class ProcessConsole:
    """The guest's serial console on file descriptors. A context manager: it owns the terminal's mode and the signals.

    `input` and `output` are descriptors or None: without input nothing is read and no terminal is touched, without
    output what the guest sends is dropped. `on_quit` is called when the user asks for the end of the run; `quit_status`
    then says which exit status that has. `at_line_start` is False while an unfinished line of the guest is shown.
    Raises ConsoleUnwritable when the output takes no more bytes (a full disk).
    """

    def __init__(self, input: int | None, output: int | None) -> None:
        self.on_quit: Callable[[], None] = lambda: None
        self.quit_status: int | None = None
        self.at_line_start = True
        self._input = input
        self._output = output
        self._pending = bytearray()
        self._saved_mode: list[Any] | None = None
        self._saved_handlers: dict[int, Any] = {}
        self._filter: EscapeFilter | None = None
        #: What was typed for the guest while it was stopped.
        self._kept = b""

    def give_monitor(self, monitor: KeyTaker) -> None:
        """Have Ctrl-A C lead to a monitor; on a terminal."""
        if self._filter is not None:
            self._filter.monitor = monitor

    @property
    def has_input(self) -> bool:
        """False when nothing will ever come: there is no input, or it has ended."""
        return self._input is not None

    @property
    def is_interactive(self) -> bool:
        """True when a person types: the input is a terminal."""
        return self._filter is not None and self._input is not None

    def __enter__(self) -> Self:
        handlers = {
            signal.SIGINT: self._interrupt,
            signal.SIGTERM: self._terminate,
            signal.SIGHUP: self._terminate,
            signal.SIGCONT: self._resume,
        }
        for number, handler in handlers.items():
            self._saved_handlers[number] = signal.signal(number, handler)
        if self._input is not None and os.isatty(self._input):
            self._filter = EscapeFilter(lambda: self._quit(status.SUCCESS), lambda: self._print(HELP))
            self._saved_mode = termios.tcgetattr(self._input)
            self._set_raw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        finally:
            self._restore_mode()
            for number, handler in self._saved_handlers.items():
                signal.signal(number, handler)
            self._saved_handlers.clear()

    def write(self, data: bytes) -> None:
        """Show what the guest sent. Whole lines and larger pieces go out at once, the rest with the next poll."""
        self._pending += data
        if data.endswith(b"\n") or len(self._pending) >= FLUSH_SIZE:
            self.flush()

    def show(self, data: bytes) -> None:
        """Print what is not the guest's: a monitor's."""
        self.flush()
        self._print(data)

    def flush(self) -> None:
        """Put everything out that was written."""
        if self._pending:
            data = bytes(self._pending)
            self._pending.clear()
            self.at_line_start = data.endswith(b"\n")
            self._print(data)

    def poll(self) -> bytes:
        """The bytes that the user typed since the last call, perhaps none; never waits."""
        kept, self._kept = self._kept, b""
        return kept + self._read(0)

    def look(self) -> None:
        """Take keys while the guest is stopped: what is for it waits for the next `poll`."""
        if len(self._kept) < READ_SIZE:
            self._kept += self._read(0)

    def descriptors(self) -> tuple[int, ...]:
        """The input's, until it has ended."""
        return () if self._input is None else (self._input,)

    def wait(self, seconds: float) -> bytes:
        """Wait for input, at most `seconds` of host time; returns what came, perhaps nothing."""
        return self._read(seconds)

    def _read(self, seconds: float) -> bytes:
        self.flush()
        if self._input is None:
            if seconds > 0:
                select.select([], [], [], seconds)
            return b""
        try:
            ready, _, _ = select.select([self._input], [], [], seconds)
            if not ready:
                return b""
            data = os.read(self._input, READ_SIZE)
        except BlockingIOError:
            return b""
        except OSError:
            # The terminal went away (EIO): the same as its end.
            data = b""
        if not data:
            self._input_ended()
        return self._filter.feed(data) if self._filter is not None else data

    def _input_ended(self) -> None:
        self._restore_mode()
        self._input = None

    def _print(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._output is not None:
            try:
                view = view[os.write(self._output, view) :]
            except BlockingIOError:
                select.select([], [self._output], [])
            except OSError as error:
                self._output = None
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise ConsoleUnwritable(error.strerror or "an error") from error
                # Nobody reads any more: drop the rest, and end the run as SIGPIPE would.
                self._quit(status.BROKEN_PIPE)

    def _quit(self, exit_status: int) -> None:
        if self.quit_status is None:
            self.quit_status = exit_status
        self.on_quit()

    def _set_raw(self) -> None:
        """Raw in both directions: the guest's own terminal driver sends carriage returns."""
        if self._input is None or self._saved_mode is None:
            return
        mode = [*self._saved_mode[:6], list(self._saved_mode[6])]
        mode[0] &= ~(
            termios.BRKINT
            | termios.ICRNL
            | termios.IGNBRK
            | termios.IGNCR
            | termios.INLCR
            | termios.ISTRIP
            | termios.IXON
            | termios.PARMRK
        )
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(self._input, termios.TCSANOW, mode)

    def _restore_mode(self) -> None:
        if self._input is not None and self._saved_mode is not None:
            saved, self._saved_mode = self._saved_mode, None
            try:
                termios.tcsetattr(self._input, termios.TCSADRAIN, saved)
            except termios.error:
                # The terminal was closed: there is no mode left to put back.
                return

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.quit_status is not None:
            # The first one was not heeded yet: leave at once.
            raise KeyboardInterrupt
        self._quit(status.INTERRUPTED)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _resume(self, number: int, frame: FrameType | None) -> None:
        # Whoever stopped us (kill -STOP, the shell) has set the mode it likes.
        self._set_raw()


def descriptor(stream: Any) -> int | None:
    """The file descriptor under a stream such as sys.stdin; None when it was closed or is none of the system's."""
    try:
        number: int = stream.fileno()
        os.fstat(number)
    except (AttributeError, OSError, ValueError):
        return None
    return number
