"""The stub: one client at a time, its packets answered while the guest is stopped."""

from __future__ import annotations

from trapgate.debug.channels import Listener, SocketChannel
from trapgate.debug.gdb.commands import Commands
from trapgate.debug.gdb.packets import INTERRUPT, PacketReader, frame
from trapgate.debug.session import Session
from trapgate.debug.stops import Resume, Stop
from trapgate.debug.watching import Points

#: Packets that wait while the guest runs: a client that sends more without an answer is dropped.
MOST_PACKETS = 1024


class GdbServer:
    """Listens; the session (debug/session.py) asks it what to do."""

    def __init__(self, session: Session, listener: Listener) -> None:
        self._session, self._listener = session, listener
        self._client: SocketChannel | None = None
        self._reader = PacketReader()
        self._packets: list[bytes] = []
        self._last = b""
        #: The client has let the guest go on, and waits for a stop.
        self._waits = False
        self.points = Points(session.guest, session.look)
        self._commands = Commands(session, self.points, self.print)

    @property
    def attached(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    def filenos(self) -> list[int]:
        """What is to be waited at."""
        return [self._listener.fileno() if self._client is None else self._client.fileno()]

    def look(self) -> bool:
        """Take what has come; whether the guest is to be stopped for it."""
        if self._client is None:
            client = self._listener.accept()
            if client is None:
                return False
            self._client = client
            self._reader, self._packets, self._waits = PacketReader(), [], False
            self._commands.begin()
            self._session.pause(Stop("attached"))
        client = self._client
        self._packets += self._reader.feed(client.receive())
        if self._reader.answers:
            client.send(bytes(self._reader.answers))
            self._reader.answers.clear()
        if self._reader.wants_again and self._last:
            self._reader.wants_again = False
            client.send(frame(self._last))
        client.flush()
        if len(self._packets) > MOST_PACKETS:
            client.close()
        return bool(self._packets) or client.closed

    def serve(self) -> Resume | None:
        """The guest is stopped: answer what waits; what to do next when the client has said so."""
        client = self._client
        if client is None:
            return None
        while self._packets and not client.closed and not self._session.busy:
            packet = self._packets.pop(0)
            if packet == INTERRUPT:
                if self._waits:
                    self.report(Stop("interrupt"))
                    self._session.pause(Stop("interrupt"))
                continue
            if self._waits:
                # The guest has been stopped for a packet, which no client sends while it waits: it gets its answer.
                self._waits = packet[:1] in b"?" and self._waits
            answer = self._commands.answer(packet)
            if isinstance(answer, Resume):
                self._waits = True
                return answer
            self._send(answer)
            if self._commands.acknowledges != self._reader.acknowledges:
                self._reader.acknowledges = self._commands.acknowledges
            if self._commands.leaves:
                client.flush()
                client.close()
                self._gone()
                return Resume()
        if client.closed:
            # It has not said that the guest is to go on: what it has looked at stays.
            self._gone()
        return None

    def report(self, stop: Stop) -> None:
        """The guest that the client let go on has stopped."""
        self._commands.last_stop = stop
        if self._waits and self._client is not None:
            self._waits = False
            self._send(self._commands.describe(stop))

    def print(self, text: bytes) -> None:
        """Show text at the client's, while it waits for an answer."""
        if text:
            self._send(b"O" + text.hex().encode())

    def _send(self, data: bytes) -> None:
        self._last = data
        if self._client is not None:
            self._client.send(frame(data))

    def _gone(self) -> None:
        """The client has left: nothing of it stays."""
        self._client = None
        self._waits = False
        self._packets.clear()
        self.points.disarm()

    def close(self) -> None:
        """The run is over."""
        if self._client is not None:
            self._client.flush()
            self._client.close()
        self._listener.close()
