"""Keeps what passes on a cable in a pcap file, for Wireshark and tcpdump. Times are modelled, from 0 at power-on.

Source: draft-ietf-opsawg-pcap (PCAP Capture File Format), 4 and 5: magic A1B23C4Dh is that of nanoseconds.
"""

from __future__ import annotations

import struct
from pathlib import Path

from trapgate.devices.networks.errors import NetworkError, reason
from trapgate.machine.network import LONGEST

MAGIC = 0xA1B2_3C4D
VERSION = (2, 4)
#: LINKTYPE_ETHERNET.
ETHERNET = 1
FILE_HEADER = struct.Struct("<IHHiIII")
RECORD_HEADER = struct.Struct("<IIII")
SECOND = 1_000_000_000


class CaptureUnusable(NetworkError):
    """pcap= names a file that cannot be written."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"to write a capture to {path}", got, "name another file with pcap=")


class PcapFile:
    """A new file at `path`. Raises CaptureUnusable. A file that can no more be written ends early; the run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Why it ended early.
        self.failure: str | None = None
        try:
            self._file = path.open("wb")
            self._file.write(FILE_HEADER.pack(MAGIC, *VERSION, 0, 0, LONGEST, ETHERNET))
            self._file.flush()
        except (OSError, ValueError) as error:
            got = reason(error) if isinstance(error, OSError) else "no valid name"
            raise CaptureUnusable(path, got) from error

    def write(self, nanoseconds: int, frame: bytes) -> None:
        """A record."""
        if self.failure is not None:
            return
        seconds, rest = divmod(nanoseconds, SECOND)
        try:
            self._file.write(RECORD_HEADER.pack(seconds & 0xFFFF_FFFF, rest, len(frame), len(frame)) + frame)
        except OSError as error:
            self.failure = reason(error)

    def close(self) -> None:
        """All that was kept is in the file."""
        try:
            self._file.close()
        except OSError as error:
            self.failure = reason(error)
