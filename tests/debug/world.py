"""A guest of a few instructions with a stub in front of it, and a client that speaks gdb's protocol."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from trapgate.api.machine import native_code
from trapgate.arch.profiles import PROFILES
from trapgate.boards.host import HostMachine
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pc import PcConfig
from trapgate.debug.channels import Listener
from trapgate.debug.gdb.server import GdbServer
from trapgate.debug.guest import BareGuest, Guest
from trapgate.debug.monitor.commands import execute
from trapgate.debug.session import Session
from trapgate.debug.virtual import VirtualGuest
from trapgate.firmware.image import BootImage
from trapgate.lab.bare import run_supervised
from trapgate.lab.virtual import host_memory, software_host
from trapgate.lab.virtual import run_supervised as run_vm
from trapgate.machine.console import NullConsole
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

MEMORY = 16 << 20
#: Seconds: an answer that takes longer will not come.
PATIENCE = 60


class Client:
    """Speaks the protocol over a socket. Answers are the packets' data, acknowledgements left out."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.settimeout(PATIENCE)
        self._data = b""

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._socket.sendall(data)

    def ask(self, packet: str | bytes) -> str:
        """Send a packet; the answer."""
        data = packet.encode() if isinstance(packet, str) else packet
        self.send(b"$%b#%02x" % (data, sum(data) & 0xFF))
        return self.answer()

    def answer(self) -> str:
        """The next packet."""
        while True:
            start = self._data.find(b"$")
            end = self._data.find(b"#", start)
            if start >= 0 and 0 <= end <= len(self._data) - 3:
                packet, self._data = self._data[start + 1 : end], self._data[end + 3 :]
                with suppress(BrokenPipeError):  # D closes the connection
                    self.send(b"+")
                return packet.decode("latin-1")
            more = self._socket.recv(1 << 16)
            if not more:
                raise EOFError
            self._data += more

    def monitor(self, line: str) -> str:
        """A command of the monitor's; what it prints."""
        answer, text = self.ask(f"qRcmd,{line.encode().hex()}"), ""
        while answer.startswith("O") and answer != "OK":
            text += bytes.fromhex(answer[1:]).decode()
            answer = self.answer()
        assert answer == "OK"
        return text

    def register(self, number: int) -> int:
        """A register's value."""
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def close(self) -> None:
        """Go."""
        self._socket.close()


@dataclass
class World:
    """A guest whose run is supervised, on a thread of its own once `start` was called."""

    guest: Guest
    session: Session
    run: Callable[[], str]
    path: Path
    #: How the run has ended; exceptions of the run are raised by `finish`.
    ends: list[object] = field(default_factory=list)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Let the run begin."""

        def work() -> None:
            try:
                self.ends.append(self.run())
            except BaseException as error:
                self.ends.append(error)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def connect(self) -> Client:
        """A client; the guest stands still when it has been answered."""
        return Client(self.path)

    def finish(self) -> str:
        """Wait for the run's end; its reason."""
        assert self._thread is not None
        self._thread.join(PATIENCE)
        assert self.ends, "the run has not ended"
        end = self.ends[0]
        if isinstance(end, BaseException):
            raise end
        return str(end)


@contextmanager
def world(
    folder: Path, image: BootImage, technique: str = "bare", stopped: bool = True, cpu: str = "opteron-2007"
) -> Iterator[World]:
    """A supervised guest; its run is ended in the end, whatever has become of it."""
    path, profile = folder / "gdb", PROFILES[cpu]
    guest: Guest
    if technique == "bare":
        machine = BareMachine(MachineConfig(MEMORY, profile), NullConsole(), native_code())
        machine.load(image)
        guest = BareGuest(machine)
        session = Session(guest, stopped)

        def run() -> str:
            try:
                return run_supervised(machine, session, None).reason
            finally:
                session.close()

    else:
        kind = TECHNIQUES[technique]
        host = HostMachine(profile if kind.needs_amd_v else software_host(profile), host_memory(MEMORY), native_code())
        vm = VirtualMachine(host, MEMORY, profile, kind, NullConsole(), PcConfig())
        vm.load(image)
        guest = VirtualGuest(host, vm)
        session = Session(guest, stopped)

        def run() -> str:
            try:
                return run_vm(host, vm, session)
            finally:
                session.close()

    session.add(GdbServer(session, Listener("--gdb", f"unix:{path}").open()))
    session.command = lambda line: execute(session, line)
    found = World(guest, session, run, path)
    try:
        yield found
    finally:
        if found._thread is not None and not found.ends:
            session.quit()
            found._thread.join(PATIENCE)
        elif found._thread is None:
            session.close()
