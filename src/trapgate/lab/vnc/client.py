"""One viewer: the protocol's states, what it asks for, and what is on its way to it.

A viewer can send anything. What is kept of it is bounded: at most MOST_INPUT bytes that are no whole message yet, and
one update that it has not read. Whatever breaks the protocol closes the connection.

Source: RFC 6143, chapter 7.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from trapgate.devices.vga.picture import Picture
from trapgate.lab.vnc import encodings, password
from trapgate.lab.vnc.pixels import OWN_FORMAT, PixelFormat, Rectangle, UnusableFormat, differences

VERSION = b"RFB 003.008\n"
NO_SECURITY, VNC_SECURITY = 1, 2
SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST, KEY, POINTER, CUT_TEXT = 0, 2, 3, 4, 5, 6
#: Bytes that are read at once, and that may wait for the rest of their message.
MOST_READ = 65536
MOST_INPUT = 1 << 18
#: Encodings of one message that are looked at, and bytes of a viewer's clipboard: both are skipped.
MOST_ENCODINGS = 0xFFFF
MOST_CUT_TEXT = 1 << 24
NAME = b"trapgate"


class Refused(Exception):
    """A viewer has broken the protocol, or has gone."""


@dataclass(frozen=True, slots=True)
class Events:
    """Who is told what a viewer's user does."""

    key: Callable[[int, bool], None]
    #: The viewer, whether it sends movements, buttons, and a place or a movement.
    pointer: Callable[[object, bool, int, int, int], None]


class Client:
    """A connection. `current` gives the screen as it is now; `secret` is the password, if there is one."""

    def __init__(
        self, connection: socket.socket, events: Events, current: Callable[[], Picture], secret: str | None,
        random: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        connection.setblocking(False)
        self.connection = connection
        self._events, self._current, self._secret, self._random = events, current, secret, random
        self._input = bytearray()
        self._output = bytearray(VERSION)
        self._skip = 0
        self._state: Callable[[], bool] = self._take_version
        self._minor = 8
        self._challenge = b""
        self._pixels = PixelFormat(OWN_FORMAT)
        self._encodings: list[int] = []
        self._stream = zlib.compressobj(6)
        #: What the viewer has, and the size that it knows.
        self._shown: Picture | None = None
        self._size = (0, 0)
        #: The part of the screen that it has asked for.
        self._wanted: Rectangle | None = None
        self.ready = False
        #: Whether it sends movements of its pointer, and no places.
        self.sends_movements = False

    # Bytes

    @property
    def is_writing(self) -> bool:
        """Whether bytes wait for the viewer to take them."""
        return bool(self._output)

    def receive(self) -> None:
        """Take what the viewer has sent. Raises Refused."""
        try:
            data = self.connection.recv(MOST_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise Refused(str(error)) from error
        if not data:
            raise Refused("the viewer has gone")
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._input += data[skipped:]
        while self._input and not self._skip and self._state():
            pass
        if len(self._input) > MOST_INPUT:
            raise Refused("more than a message holds")

    def send(self) -> None:
        """Give the viewer what it takes. Raises Refused."""
        while self._output:
            try:
                sent = self.connection.send(memoryview(self._output)[:MOST_READ])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise Refused(str(error)) from error
            del self._output[:sent]

    def _take(self, count: int) -> bytes | None:
        """The next `count` bytes, if they have come."""
        if len(self._input) < count:
            return None
        data = bytes(self._input[:count])
        del self._input[:count]
        return data

    # The handshake (7.1 to 7.3)

    def _take_version(self) -> bool:
        data = self._take(len(VERSION))
        if data is None:
            return False
        if not data.startswith(b"RFB 003.") or not data[8:11].isdigit():
            raise Refused(f"version {data!r}")
        minor = int(data[8:11])
        self._minor = 8 if minor >= 8 else 7 if minor == 7 else 3
        kind = NO_SECURITY if self._secret is None else VNC_SECURITY
        if self._minor == 3:
            self._output += struct.pack(">I", kind)
            self._begin_security(kind)
        else:
            self._output += bytes((1, kind))
            self._state = self._take_security
        return True

    def _take_security(self) -> bool:
        data = self._take(1)
        if data is None:
            return False
        if data[0] != (NO_SECURITY if self._secret is None else VNC_SECURITY):
            raise Refused(f"security type {data[0]}")
        self._begin_security(data[0])
        return True

    def _begin_security(self, kind: int) -> None:
        if kind == VNC_SECURITY:
            self._challenge = self._random(password.CHALLENGE_SIZE)
            self._output += self._challenge
            self._state = self._take_response
            return
        if self._minor == 8:
            self._output += struct.pack(">I", 0)
        self._state = self._take_init

    def _take_response(self) -> bool:
        data = self._take(password.CHALLENGE_SIZE)
        if data is None:
            return False
        if data != password.response(self._secret or "", self._challenge):
            reason = b"wrong password"
            self._output += struct.pack(">I", 1)
            if self._minor == 8:
                self._output += struct.pack(">I", len(reason)) + reason
            self.send()
            raise Refused("wrong password")
        self._output += struct.pack(">I", 0)
        self._state = self._take_init
        return True

    def _take_init(self) -> bool:
        if self._take(1) is None:  # whether it shares: everybody does
            return False
        picture = self._current()
        self._size = picture.width, picture.height
        self._output += struct.pack(">HH", *self._size) + OWN_FORMAT + struct.pack(">I", len(NAME)) + NAME
        self._state = self._take_message
        self.ready = True
        return True

    # Messages (7.5)

    def _take_message(self) -> bool:
        kind, data = self._input[0], self._input
        lengths = {SET_PIXEL_FORMAT: 20, SET_ENCODINGS: 4, UPDATE_REQUEST: 10, KEY: 8, POINTER: 6, CUT_TEXT: 8}
        length = lengths.get(kind)
        if length is None:
            raise Refused(f"message {kind}")
        if len(data) < length:
            return False
        if kind == SET_ENCODINGS:
            length += 4 * int.from_bytes(data[2:4], "big")
        message = self._take(length)
        if message is None:
            return False
        if kind == SET_PIXEL_FORMAT:
            try:
                self._pixels = PixelFormat(message[4:20])
            except UnusableFormat as error:
                raise Refused(f"pixel format {error}") from error
        elif kind == SET_ENCODINGS:
            self._encodings = [n for (n,) in struct.iter_unpack(">i", message[4:])]
            if encodings.POINTER_CHANGE in self._encodings and not self.sends_movements:
                self.sends_movements = True
                self._output += struct.pack(">BxH", 0, 1) + encodings.relative_pointer(*self._size)
        elif kind == UPDATE_REQUEST:
            self._take_request(*struct.unpack(">BHHHH", message[1:]))
        elif kind == KEY:
            down, keysym = struct.unpack(">B2xI", message[1:])
            self._events.key(keysym, bool(down))
        elif kind == POINTER:
            self._events.pointer(self, self.sends_movements, *struct.unpack(">BHH", message[1:]))
        else:
            length = int.from_bytes(message[4:8], "big")
            if length > MOST_CUT_TEXT:
                raise Refused(f"{length} bytes of clipboard")
            gone = min(length, len(self._input))
            del self._input[:gone]
            self._skip = length - gone
        return True

    def _take_request(self, incremental: int, x: int, y: int, width: int, height: int) -> None:
        most_x, most_y = self._size
        area = Rectangle(min(x, most_x), min(y, most_y), min(width, most_x - min(x, most_x)),
                         min(height, most_y - min(y, most_y)))  # fmt: skip
        if not incremental:
            self._shown = None
        if self._wanted is not None:
            # Two requests: what holds both.
            other = self._wanted
            left, top = min(area.x, other.x), min(area.y, other.y)
            right = max(area.x + area.width, other.x + other.width)
            bottom = max(area.y + area.height, other.y + other.height)
            area = Rectangle(left, top, right - left, bottom - top)
        self._wanted = area

    # Updates (7.6.1)

    @property
    def wants_update(self) -> bool:
        """Whether it has asked for what is new, and has read all that it was sent."""
        return self._wanted is not None and not self._output

    def update(self, picture: Picture) -> None:
        """Send what is new in the part that was asked for, if anything is."""
        area = self._wanted
        if area is None:
            return
        rectangles: list[bytes] = []
        if (picture.width, picture.height) != self._size:
            self._shown = None
            if encodings.DESKTOP_SIZE in self._encodings:
                self._size = picture.width, picture.height
                self._wanted = None
                # It asks again, for the new size.
                self._output += struct.pack(">BxH", 0, 1) + encodings.desktop_size(*self._size)
                return
        for part in differences(self._shown, picture, area):
            if not part.width or not part.height:
                continue
            if encodings.ZRLE in self._encodings:
                rectangles.append(encodings.zrle(picture, part, self._pixels, self._stream))
            else:
                rectangles.append(encodings.raw(picture, part, self._pixels))
        whole = area == Rectangle(0, 0, *self._size)
        if rectangles:
            self._output += struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)
            self._wanted = None
        if whole and (picture.width, picture.height) == self._size:
            self._shown = picture
        elif rectangles:
            self._shown = None
