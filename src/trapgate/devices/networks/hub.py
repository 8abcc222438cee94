"""A hub between guests of one user on one host: a folder with a UNIX datagram socket for each that is plugged in.

A frame goes to every other socket of the folder, as on a hub. The kernel keeps a few datagrams for each; what a member
has no room for waits here, MOST_UNSENT frames at most. A socket whose machine has gone without unplugging it goes, too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from trapgate.devices.networks.errors import NetworkError, reason
from trapgate.devices.networks.network import Network, receive_frames
from trapgate.machine.network import LONGEST

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
#: Frames that wait for a member without room; further ones are dropped.
MOST_UNSENT = 512
#: Seconds until they are tried again, while the guest sleeps.
UNSENT_TIMEOUT = 0.001
_numbers = itertools.count()


class HubUnusable(NetworkError):
    """No hub of that name can be had."""

    def __init__(self, hub: str, got: str) -> None:
        super().__init__(f"a hub {hub}", got, "choose another name with hub=, or another XDG_RUNTIME_DIR")


def hubs_folder() -> Path:
    """Where this user's hubs are."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "trapgate" if runtime else Path(tempfile.gettempdir()) / f"trapgate-{os.getuid()}"
    return base / "hubs"


class HubNetwork(Network):
    """A place at the hub `hub`. Raises HubUnusable."""

    def __init__(self, name: str, hub: str) -> None:
        super().__init__(name)
        if not NAME.fullmatch(hub):
            raise HubUnusable(hub, "a name with other characters than letters, digits, dots and dashes")
        self._folder = hubs_folder() / hub
        self._path = self._folder / f"{os.getpid()}-{next(_numbers)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            # Whoever owns one of these could put another hub in its place.
            for folder in (self._folder.parent.parent, self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if folder.lstat().st_uid != os.getuid():
                    raise HubUnusable(hub, f"{folder}, which is another user's")
            self._path.unlink(missing_ok=True)
            self._socket.bind(str(self._path))
        except OSError as error:
            self._socket.close()
            raise HubUnusable(hub, f"{self._folder} with {reason(error)}") from error
        except HubUnusable:
            self._socket.close()
            raise
        #: When the folder was last read, by its time of change; and who else was in it.
        self._read_at = -1
        self._members: list[str] = []
        self._unsent: dict[str, deque[bytes]] = {}

    @property
    def members(self) -> list[str]:
        """The sockets of the others."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
            if changed != self._read_at:
                names = sorted(os.listdir(self._folder))
                self._members = [str(self._folder / name) for name in names if name != self._path.name]
                self._read_at = changed
        except OSError as error:
            self.faults[f"host: {reason(error)}"] += 1
            self._members = []
        return self._members

    def transmit(self, frame: bytes) -> None:
        """To everybody else."""
        for member in self.members:
            waiting = self._unsent.get(member)
            if waiting or not self._send(member, frame):
                self._keep(member, frame)

    def _keep(self, member: str, frame: bytes) -> None:
        waiting = self._unsent.setdefault(member, deque())
        if len(waiting) >= MOST_UNSENT:
            self.faults["peer does not read"] += 1
        else:
            waiting.append(frame)

    def _send(self, member: str, frame: bytes) -> bool:
        """Whether `member` has taken a frame, or never will."""
        try:
            self._socket.sendto(frame, member)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(member)
            self.counts["members gone"] += 1
        except OSError as error:
            self.faults[f"host: {reason(error)}"] += 1
        return True

    def fetch(self) -> None:
        """Frames that have come; and those that could not be sent are tried again."""
        for member, waiting in list(self._unsent.items()):
            while waiting and self._send(member, waiting[0]):
                waiting.popleft()
            if not waiting:
                del self._unsent[member]
        receive_frames(self, lambda: self._socket.recv(LONGEST + 1))

    def watched(self) -> Sequence[int]:
        """The socket's."""
        return (self._socket.fileno(),)

    def timeout(self) -> float | None:
        """Soon again while there is something that could not be sent."""
        return UNSENT_TIMEOUT if self._unsent else None

    def release(self) -> None:
        """Unplug it; the last one removes the hub."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._folder.rmdir()
