"""The monitor's commands: names, parameters and one line of help as QEMU has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from trapgate import __version__
from trapgate.debug.channels import Listener
from trapgate.debug.errors import CommandError, GuestUnreachable
from trapgate.debug.gdb.server import GdbServer
from trapgate.debug.monitor import devices, examine, translations
from trapgate.debug.monitor.keys import combination
from trapgate.debug.monitor.registers import registers
from trapgate.debug.session import Session
from trapgate.debug.stops import Stop
from trapgate.lab import snapshots
from trapgate.lab.errors import FileUnusable
from trapgate.machine.control import Reset
from trapgate.machine.errors import MachineError

#: A command's function gets the session and the arguments, and gives what is printed.
Run = Callable[[Session, str], str]
DEFAULT_GDB = "tcp::1234"


@dataclass(frozen=True, slots=True)
class Command:
    """`names` are its own and its short forms."""

    names: tuple[str, ...]
    parameters: str
    help: str
    run: Run

    @property
    def line(self) -> str:
        """Its line of help."""
        return f"{'|'.join(self.names)} {self.parameters} -- {self.help}\n"


def _plain(text: Callable[[], str]) -> Run:
    def run(session: Session, arguments: str) -> str:
        _nothing(arguments)
        return text()

    return run


def _nothing(arguments: str) -> None:
    if arguments:
        raise CommandError("extraneous characters at the end of line")


def _about(function: Callable[..., str]) -> Run:
    """`info` of the guest, without arguments."""

    def run(session: Session, arguments: str) -> str:
        _nothing(arguments)
        return function(session.guest)

    return run


# -- running


def _stop(session: Session, arguments: str) -> str:
    _nothing(arguments)
    if session.running:
        session.pause(Stop("interrupt"))
        session.tell(Stop("interrupt"))
    return ""


def _continue(session: Session, arguments: str) -> str:
    _nothing(arguments)
    session.go_on()
    return ""


def _quit(session: Session, arguments: str) -> str:
    _nothing(arguments)
    session.quit()
    return ""


def _reset(session: Session, arguments: str) -> str:
    _nothing(arguments)
    session.guest.end(Reset())
    return ""


def _power_down(session: Session, arguments: str) -> str:
    _nothing(arguments)
    session.deliver("power-button", b"\1")
    return ""


def _send_key(session: Session, arguments: str) -> str:
    keys, _, hold = arguments.partition(" ")
    if not keys:
        raise CommandError("wanted keys such as ctrl-alt-f1")
    if hold and not (hold.isascii() and hold.isdecimal()):
        raise CommandError(f"wanted milliseconds, got {hold!r}")
    session.deliver("keyboard", combination(keys))
    return ""


# -- states and pictures


def _save(session: Session, arguments: str) -> str:
    path = _file(arguments)

    answers: list[str] = []
    late = False

    def save() -> None:
        try:
            state = replace(session.guest.take(None), run=session.describe())
            snapshots.write(state, path)
        except MachineError as error:
            answers.append(f"Error: {error}\n")
        else:
            session.saved[str(path)] = (state.instructions, state.cycle)
            answers.append("")
        if late:
            session.announce(answers[0])

    session.when_at_top(save)
    late = not answers
    return answers[0] if answers else "the state is saved at the guest's next exit\n"


def _load(session: Session, arguments: str) -> str:
    session.load(snapshots.read(_file(arguments)))
    return ""


def _snapshots(session: Session, arguments: str) -> str:
    _nothing(arguments)
    if not session.saved:
        return "There is no snapshot available.\n"
    lines = [f"{'TAG':<40} {'INSTRUCTIONS':>16} {'CYCLES':>16}\n"]
    lines += [f"{name:<40} {count:>16} {cycle:>16}\n" for name, (count, cycle) in session.saved.items()]
    return "".join(["List of snapshots saved in this run:\n", *lines])


def _screen_dump(session: Session, arguments: str) -> str:
    path = _file(arguments)
    if session.screenshot is None:
        raise CommandError("there is no display adapter")
    try:
        session.screenshot(path)
    except FileUnusable as error:
        raise CommandError(str(error)) from error
    return ""


def _file(arguments: str) -> Path:
    if not arguments:
        raise CommandError("wanted the name of a file")
    return Path(arguments)


# -- looking


def _status(session: Session, arguments: str) -> str:
    _nothing(arguments)
    return f"VM status: {'running' if session.running else 'paused'}\n"


def _cpus(session: Session, arguments: str) -> str:
    _nothing(arguments)
    return f"* CPU #0: pc=0x{session.guest.linear_rip:016x}{' (halted)' if session.guest.halted else ''}\n"


def _counts(session: Session, arguments: str) -> str:
    _nothing(arguments)
    guest = session.guest
    return f"technique: {guest.technique}\ninstructions: {guest.instructions}\ncycles: {guest.clock.now}\n"


INFO = (
    Command(("block",), "", "show info of all block devices", _about(devices.disks)),
    Command(("counts",), "", "show the technique, and instructions and modelled cycles so far", _counts),
    Command(("cpus",), "", "show infos for each CPU", _cpus),
    Command(("irq",), "", "show the interrupts statistics", _about(devices.interrupt_counts)),
    Command(("mem",), "", "show the active virtual memory mappings", _about(translations.ranges)),
    Command(("modelled-tlb",), "", "show what the processor's modelled TLB holds", _about(translations.modelled)),
    Command(("network",), "", "show the network state", _about(devices.networks)),
    Command(("pci",), "", "show PCI info", _about(devices.pci)),
    Command(("pic",), "", "show PIC state", _about(devices.interrupt_controllers)),
    Command(("snapshots",), "", "show the currently saved VM snapshots", _snapshots),
    Command(("registers",), "", "show the cpu registers", _about(registers)),
    Command(("status",), "", "show the current VM status (running|paused)", _status),
    Command(("tlb",), "", "show virtual to physical memory mappings", _about(translations.mappings)),
    Command(("version",), "", "show the version of trapgate", _plain(lambda: f"{__version__}\n")),
)


def _find(commands: tuple[Command, ...], name: str) -> Command | None:
    return next((command for command in commands if name in command.names), None)


def _info(session: Session, arguments: str) -> str:
    name, _, rest = arguments.partition(" ")
    if not name:
        return "".join(f"info {command.line}" for command in INFO)
    command = _find(INFO, name)
    if command is None:
        raise CommandError(f"unknown command: 'info {name}'")
    return command.run(session, rest.strip())


def _x(session: Session, arguments: str) -> str:
    return examine.show(session.guest, arguments, physical=False)


def _xp(session: Session, arguments: str) -> str:
    return examine.show(session.guest, arguments, physical=True)


def _print(session: Session, arguments: str) -> str:
    return examine.print_value(session.guest, arguments)


# -- others


def _gdb_server(session: Session, arguments: str) -> str:
    for client in [client for client in session.clients if isinstance(client, GdbServer)]:
        session.remove(client)
    if arguments == "none":
        return "Disabled gdbserver\n"
    place = arguments or DEFAULT_GDB
    session.add(GdbServer(session, Listener("gdbserver", place).open()))
    return f"Waiting for gdb connection on device '{place}'\n"


def _help(session: Session, arguments: str) -> str:
    if arguments:
        command = _find(COMMANDS, arguments.split()[0])
        if command is not None and "info" in command.names:
            return _info(session, "")
        return "" if command is None else command.line
    return "".join(command.line for command in COMMANDS)


COMMANDS = (
    Command(("cont", "c"), "", "resume emulation", _continue),
    Command(("gdbserver",), "[device]", "start gdbserver on given device (default 'tcp::1234'), stop with 'none'",
            _gdb_server),
    Command(("help", "?"), "[cmd]", "show the help", _help),
    Command(("info",), "[subcommand]", "show various information about the system state", _info),
    Command(("loadvm",), "file", "restore a VM snapshot from a file", _load),
    Command(("print", "p"), "/fmt expr", "print expression value (use $reg for CPU register access)", _print),
    Command(("quit", "q"), "", "quit the emulator", _quit),
    Command(("savevm",), "file", "save a VM snapshot to a file", _save),
    Command(("screendump",), "file", "save the screen as a PNG file", _screen_dump),
    Command(("sendkey",), "keys [hold_ms]", "send keys to the VM (e.g. 'sendkey ctrl-alt-f1')", _send_key),
    Command(("stop", "s"), "", "stop emulation", _stop),
    Command(("system_powerdown",), "", "send system power down event", _power_down),
    Command(("system_reset",), "", "reset the system: the run ends, as after any reset", _reset),
    Command(("x",), "/fmt addr", "virtual memory dump starting at 'addr'", _x),
    Command(("xp",), "/fmt addr", "physical memory dump starting at 'addr'", _xp),
)  # fmt: skip


def execute(session: Session, line: str) -> str:
    """Carry out one line; what it prints, an error as one line."""
    name, _, arguments = line.strip().partition(" ")
    if "/" in name:  # x/4i is x /4i
        name, _, form = name.partition("/")
        arguments = f"/{form} {arguments}"
    if not name:
        return ""
    command = _find(COMMANDS, name)
    if command is None:
        return f"unknown command: '{name}'\n"
    try:
        return command.run(session, arguments.strip())
    except CommandError as error:
        return f'{error}\nTry "help {name}" for more information\n'
    except (MachineError, GuestUnreachable) as error:
        return f"Error: {error}\n"
