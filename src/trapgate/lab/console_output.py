"""Takes the output of the guest's command out of the console's bytes, as the initramfs frames it."""

from __future__ import annotations

import re

from trapgate.lab.initramfs import MARKER_PREFIX

#: The longest end marker after its fixed part: a status of up to three digits, perhaps a carriage return, a newline.
STATUS = re.compile(rb"([0-9]{1,3})\r?\n")
STATUS_ROOM = 5


class ConsoleSplitter:
    """Give it console bytes as they come; it gives back those that the command wrote, no more and no less.

    `token` is `initramfs.output_token(command)`. `status` is None until the end marker has come, then the command's
    exit status, 0 to 255. Bytes before the start marker are kept in `preamble` (at most `preamble_limit` bytes, the
    last ones), to show when a guest never gets as far as its command.
    """

    def __init__(self, token: str, preamble_limit: int = 1 << 20) -> None:
        self._start = MARKER_PREFIX + token.encode() + b":start"
        self._end = MARKER_PREFIX + token.encode() + b":status:"
        self._pending = b""
        self._preamble_limit = preamble_limit
        self._preamble = bytearray()
        self.started = False
        self.status: int | None = None

    @property
    def preamble(self) -> bytes:
        """What came before the start marker."""
        return bytes(self._preamble[-self._preamble_limit :])

    def feed(self, data: bytes) -> bytes:
        """Take the next console bytes; return the command's output that is certain by now."""
        if self.status is not None:
            return b""
        if not self.started and not self._pending and self._start[0] not in data:
            self._keep_preamble(data)
            return b""
        self._pending += data
        if not self.started and not self._skip_to_start():
            return b""
        output = bytearray()
        while self.status is None:
            position = self._pending.find(self._end)
            if position < 0:
                keep = _partial_match(self._pending, self._end)
                output += self._pending[: len(self._pending) - keep]
                self._pending = self._pending[len(self._pending) - keep :]
                break
            output += self._pending[:position]
            self._pending = self._pending[position:]
            rest = self._pending[len(self._end) :]
            match = STATUS.match(rest)
            if match is not None and int(match[1]) < 256:
                self.status = int(match[1])
                self._pending = b""
            elif len(rest) >= STATUS_ROOM or (match is None and not re.fullmatch(rb"[0-9]{0,3}\r?", rest)):
                # Looks like a marker and is none: the command wrote it.
                output += self._pending[:1]
                self._pending = self._pending[1:]
            else:
                break
        return bytes(output)

    def finish(self) -> bytes:
        """The console is closed: what was held back as a possible marker was output after all."""
        rest, self._pending = self._pending, b""
        return rest if self.started and self.status is None else b""

    def _skip_to_start(self) -> bool:
        position = self._pending.find(self._start)
        end = self._pending.find(b"\n", position) if position >= 0 else -1
        if end >= 0:
            self._keep_preamble(self._pending[:position])
            self._pending = self._pending[end + 1 :]
            self.started = True
            return True
        if position < 0:
            keep = _partial_match(self._pending, self._start)
            self._keep_preamble(self._pending[: len(self._pending) - keep])
            self._pending = self._pending[len(self._pending) - keep :]
        return False

    def _keep_preamble(self, data: bytes) -> None:
        self._preamble += data
        if len(self._preamble) > 2 * self._preamble_limit:
            del self._preamble[: -self._preamble_limit]


def _partial_match(data: bytes, marker: bytes) -> int:
    """How many bytes at the end of `data` are a beginning of `marker`."""
    for length in range(min(len(marker) - 1, len(data)), 0, -1):
        if data.endswith(marker[:length]):
            return length
    return 0
