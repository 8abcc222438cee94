"""A small RFB 3.8 viewer (RFC 6143) for tests: it talks to a server that is polled in the same thread."""

from __future__ import annotations

import socket
import struct
import time
import zlib
from collections.abc import Callable

from trapgate.lab.vnc.password import response

RAW, ZRLE, DESKTOP_SIZE = 0, 16, -223


class Viewer:
    """Connects, shakes hands, and keeps the screen as (red, green, blue) of 32-bit dots."""

    def __init__(self, path: str | tuple[str, int], poll: Callable[[], None]) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(path, str) else socket.AF_INET)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.poll = poll
        self.data = bytearray()
        self.width = self.height = 0
        self.rgb = bytearray()
        self.inflate = zlib.decompressobj()
        self.updates = 0

    def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                self.poll()

    def take(self, count: int) -> bytes:
        """The next `count` bytes; ConnectionError when the server hangs up, TimeoutError after a while."""
        end = time.monotonic() + 20
        while len(self.data) < count:
            self.poll()
            try:
                got = self.socket.recv(1 << 20)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{len(self.data)} of {count} bytes") from None
                time.sleep(0.001)
                continue
            if not got:
                raise ConnectionError("the server has hung up")
            self.data += got
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken

    def shake_hands(self, password: str | None = None, version: bytes = b"RFB 003.008\n") -> None:
        assert self.take(12) == b"RFB 003.008\n"
        self.send(version)
        kind = 1 if password is None else 2
        if version == b"RFB 003.003\n":
            assert self.take(4) == struct.pack(">I", kind)
        else:
            assert self.take(2) == bytes((1, kind))
            self.send(bytes((kind,)))
        if password is not None:
            self.send(response(password, self.take(16)))
        if password is not None or version == b"RFB 003.008\n":
            assert self.take(4) == bytes(4), self.data
        self.send(b"\x01")
        self.width, self.height = struct.unpack(">HH", self.take(4))
        assert struct.unpack(">BBBBHHHBBB3x", self.take(16)) == (32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
        (length,) = struct.unpack(">I", self.take(4))
        assert self.take(length) == b"trapgate"
        self.rgb = bytearray(3 * self.width * self.height)

    def encodings(self, *numbers: int) -> None:
        self.send(struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers))

    def request(self, incremental: bool = True) -> None:
        self.send(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    def key(self, keysym: int, down: bool) -> None:
        self.send(struct.pack(">BBxxI", 4, down, keysym))

    def pointer(self, x: int, y: int, buttons: int = 0) -> None:
        self.send(struct.pack(">BBHH", 5, buttons, x, y))

    def update(self) -> list[tuple[int, int, int, int, int]]:
        """Take one update; its rectangles as (x, y, width, height, encoding)."""
        kind, count = struct.unpack(">BxH", self.take(4))
        assert kind == 0
        self.updates += 1
        rectangles = []
        for _ in range(count):
            x, y, width, height, encoding = rectangle = struct.unpack(">HHHHi", self.take(12))
            rectangles.append(rectangle)
            if encoding == DESKTOP_SIZE:
                self.width, self.height = width, height
                self.rgb = bytearray(3 * width * height)
            elif encoding == RAW:
                self._draw(x, y, width, height, self.take(4 * width * height), 4)
            else:
                assert encoding == ZRLE
                (length,) = struct.unpack(">I", self.take(4))
                self._draw_tiles(x, y, width, height, self.inflate.decompress(self.take(length)))
        return rectangles

    def _draw(self, x: int, y: int, width: int, height: int, dots: bytes, size: int) -> None:
        for row in range(height):
            line = dots[size * width * row : size * width * (row + 1)]
            start = 3 * ((y + row) * self.width + x)
            for part in range(3):
                self.rgb[start + part : start + 3 * width + part : 3] = line[2 - part :: size]

    def _draw_tiles(self, x: int, y: int, width: int, height: int, data: bytes) -> None:
        at = 0
        for top in range(y, y + height, 64):
            for left in range(x, x + width, 64):
                w, h = min(64, x + width - left), min(64, y + height - top)
                kind, at = data[at], at + 1
                assert kind <= 16
                colours = [data[at + 3 * n : at + 3 * n + 3] for n in range(kind)]
                at += 3 * kind
                if kind == 0:
                    dots, at = data[at : at + 3 * w * h], at + 3 * w * h
                elif kind == 1:
                    dots = colours[0] * (w * h)
                else:
                    bits = 1 if kind == 2 else 2 if kind <= 4 else 4
                    dots, line = b"", (w * bits + 7) // 8
                    for _ in range(h):
                        row, at = data[at : at + line], at + line
                        for n in range(w):
                            shift = 8 - bits - n * bits % 8
                            dots += colours[row[n * bits // 8] >> shift & (1 << bits) - 1]
                self._draw(left, top, w, h, dots, 3)
        assert at == len(data)
