"""The VNC server, with a viewer of the test's making. Source of each rule: RFC 6143."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from trapgate.boards.places import InputPlaces
from trapgate.devices.i8042 import MOVEMENT
from trapgate.lab.vnc import client as client_module
from trapgate.lab.vnc import server as server_module
from trapgate.lab.vnc.keys import scan_codes
from trapgate.lab.vnc.password import encrypt_block
from trapgate.lab.vnc.server import MOST_CLIENTS, VncServer

from .rfb import DESKTOP_SIZE, RAW, ZRLE, Viewer
from .world import LINEAR, World


class Rig:
    """A screen, its server, and what its viewers' users do. Time passes by itself: 20 ms with each look."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        self.world = World()
        self.world.mode(3)
        self.keys: list[bytes] = []
        self.moves: list[tuple[int, ...]] = []
        self.now = 0.0
        places = InputPlaces(self.keys.append, lambda data: self.moves.append(MOVEMENT.unpack(data)))
        self.path = str(folder / "vnc")
        self.server = VncServer((self.path, None), password, lambda: self.world.vga, places, lambda: self.now)

    def poll(self) -> None:
        self.now += 0.02
        self.server.poll()

    def viewer(self, *encodings: int, password: str | None = None) -> Viewer:
        viewer = Viewer(self.path, self.poll)
        viewer.shake_hands(password)
        if encodings:
            viewer.encodings(*encodings)
        return viewer

    def text(self, text: str, row: int = 0) -> None:
        for n, character in enumerate(text):
            self.world.store(0xB8000 + 160 * row + 2 * n, 0x1E00 | ord(character), 2)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.server.close()


@pytest.mark.parametrize("encoding", [RAW, ZRLE])
@pytest.mark.parametrize("mode", ["text", "planes", "linear"])
def test_a_viewer_sees_the_screen(rig: Rig, encoding: int, mode: str) -> None:
    world = rig.world
    if mode == "planes":
        world.mode(0x12)
        for n in range(3000):
            world.store(0xA0000 + 7 * n, n & 0xFF)
    elif mode == "linear":
        world.linear_mode(200, 100, 32)
        for n in range(0, 80000, 52):
            world.store(LINEAR + n, n * 0x12345 & 0xFF_FFFF, 4)
    else:
        rig.text("Hello, viewer!", 3)
    viewer = rig.viewer(encoding)
    viewer.request(incremental=False)
    assert viewer.update() == [(0, 0, viewer.width, viewer.height, encoding)]
    shown = world.picture()
    assert (viewer.width, viewer.height) == (shown.width, shown.height)
    assert viewer.rgb == shown.rgb


def test_only_what_changes_is_sent(rig: Rig) -> None:
    viewer = rig.viewer(ZRLE)
    viewer.request(incremental=False)
    viewer.update()
    viewer.request()
    for _ in range(10):
        rig.poll()
    with pytest.raises(BlockingIOError):
        viewer.socket.recv(1)  # nothing is new
    rig.text("x", 10)
    rectangles = viewer.update()
    assert rectangles == [(0, 160, 64, 16, ZRLE)]
    assert viewer.rgb == rig.world.picture().rgb


def test_another_size(rig: Rig) -> None:
    knowing, unknowing = rig.viewer(ZRLE, DESKTOP_SIZE), rig.viewer(RAW)
    for viewer in (knowing, unknowing):
        viewer.request(incremental=False)
        viewer.update()
        viewer.request()
    rig.world.mode(0x12)
    rig.world.store(0xA0000, 0xFF)
    assert knowing.update() == [(0, 0, 640, 480, DESKTOP_SIZE)]
    knowing.request()
    knowing.update()
    assert knowing.rgb == rig.world.picture().rgb
    # Who knows no other size gets the part that fits, and black beside it.
    unknowing.update()
    shown = rig.world.picture()
    assert unknowing.rgb[: 3 * 640] == shown.rgb[: 3 * 640]
    assert not any(unknowing.rgb[3 * 640 : 3 * 720])


@pytest.mark.parametrize(
    ("layout", "dot"),
    [((16, 16, 0, 1, 31, 63, 31, 11, 5, 0), b"\x08\x84"), ((16, 16, 1, 1, 31, 63, 31, 11, 5, 0), b"\x84\x08"),
     ((8, 8, 0, 1, 7, 7, 3, 0, 3, 6), b"\x64"), ((32, 24, 1, 1, 255, 255, 255, 0, 8, 16), b"\0\x40\x80\x80")],
)  # fmt: skip
def test_pixel_formats(rig: Rig, layout: tuple[int, ...], dot: bytes) -> None:
    rig.world.linear_mode(64, 64, 32)
    rig.world.store(LINEAR, 0x80_8040, 4)
    viewer = rig.viewer()
    viewer.send(b"\x00\0\0\0" + struct.pack(">BBBBHHHBBB3x", *layout))
    viewer.request(incremental=False)
    assert viewer.take(4) == b"\0\0\0\x01"
    viewer.take(12)
    assert viewer.take(64 * 64 * len(dot)) == dot.ljust(64 * 64 * len(dot), b"\0")


@pytest.mark.parametrize("version", [b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n", b"RFB 003.889\n"])
@pytest.mark.parametrize("password", [None, "secret"])
def test_versions_and_passwords(tmp_path: Path, version: bytes, password: str | None) -> None:
    rig = Rig(tmp_path, password)
    viewer = Viewer(rig.path, rig.poll)
    if version != b"RFB 003.889\n":
        viewer.shake_hands(password, version)
        viewer.request(incremental=False)
        viewer.update()
    else:  # Apple's: it is 3.8
        viewer.take(12)
        viewer.send(version)
        assert viewer.take(1) == b"\x01"
    rig.server.close()


def test_a_wrong_password(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "secret")
    viewer = Viewer(rig.path, rig.poll)
    viewer.take(12)
    viewer.send(b"RFB 003.008\n")
    assert viewer.take(2) == b"\x01\x02"
    viewer.send(b"\x02")
    viewer.take(16)
    viewer.send(bytes(16))
    assert viewer.take(8 + 14) == b"\0\0\0\x01\0\0\0\x0ewrong password"
    with pytest.raises((ConnectionError, OSError)):
        viewer.take(1)
    rig.server.close()


def test_des_is_that_of_the_standard() -> None:
    """The worked example of the literature, and a weak key: encrypting twice gives the block again."""
    assert (
        encrypt_block(bytes.fromhex("133457799bbcdff1"), bytes.fromhex("0123456789abcdef")).hex() == "85e813540f0ab405"
    )
    once = encrypt_block(b"\x01" * 8, b"trapgate")
    assert once != b"trapgate"
    assert encrypt_block(b"\x01" * 8, once) == b"trapgate"


def test_keys(rig: Rig) -> None:
    viewer = rig.viewer()
    for keysym in (ord("a"), ord("A"), ord("!"), 0xFF52, 0xFFBE, 0xFF8D, 0x1234_5678):
        viewer.key(keysym, True)
        viewer.key(keysym, False)
    for _ in range(5):
        rig.poll()
    up = bytes.fromhex
    assert rig.keys == [
        up("1c"), up("f01c"), up("1c"), up("f01c"), up("16"), up("f016"), up("e075"), up("e0f075"),
        up("05"), up("f005"), up("e05a"), up("e0f05a"),
    ]  # fmt: skip
    assert scan_codes(0xFF13, True) == up("e11477e1f014f077")


def test_what_is_held_is_released_when_the_last_viewer_goes(rig: Rig) -> None:
    viewer = rig.viewer()
    viewer.key(0xFFE1, True)
    viewer.pointer(10, 10, 1)
    for _ in range(5):
        rig.poll()
    viewer.socket.close()
    for _ in range(5):
        rig.poll()
    assert rig.keys == [bytes.fromhex("12"), bytes.fromhex("f012")]
    assert rig.moves == [(0, 0, 0, 1), (0, 0, 0, 0)]


def test_pointer_movements_buttons_and_wheel(rig: Rig) -> None:
    viewer = rig.viewer()
    for x, y, buttons in (
        (100, 100, 0),
        (103, 98, 0),
        (103, 98, 1),
        (103, 98, 4),
        (103, 98, 2),
        (103, 98, 8),
        (103, 98, 16),
    ):
        viewer.pointer(x, y, buttons)
    for _ in range(5):
        rig.poll()
    assert rig.moves == [(3, -2, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 0, 4), (0, 0, -1, 0), (0, 0, 1, 0)]


def test_a_viewer_that_can_sends_movements(rig: Rig) -> None:
    """QEMU's pointer motion change: a rectangle of encoding -257 with x = 0, then movements around 7FFFh."""
    viewer = rig.viewer(RAW, -257)
    assert viewer.take(16) == struct.pack(">BxHHHHHi", 0, 1, 0, 0, 720, 400, -257)
    for x, y, buttons in ((5, -3, 0), (0, 0, 1), (-1, 1, 1)):
        viewer.pointer(0x7FFF + x, 0x7FFF + y, buttons)
    for _ in range(5):
        rig.poll()
    assert rig.moves == [(5, -3, 0, 0), (0, 0, 0, 1), (-1, 1, 0, 1)]


def test_the_clipboard_is_skipped(rig: Rig) -> None:
    viewer = rig.viewer()
    viewer.send(struct.pack(">BxxxI", 6, 300_000) + bytes(300_000))
    viewer.key(ord("b"), True)
    for _ in range(20):
        rig.poll()
    assert rig.keys == [bytes.fromhex("32")]


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.0\r\n\r\n", b"RFB 003.008\n\x07", b"RFB 003.008\n\x01\x01\xff",
     b"RFB 003.008\n\x01\x01" + b"\x00" * 20,
     b"RFB 003.008\n\x01\x01\x06\0\0\0\xff\xff\xff\xff", b"RFB 00x.yyy\n"],
)  # fmt: skip
def test_hostile_viewers_are_dropped_and_others_stay(rig: Rig, garbage: bytes) -> None:
    good = rig.viewer()
    bad = Viewer(rig.path, rig.poll)
    bad.send(garbage)
    with pytest.raises((ConnectionError, OSError)):
        bad.take(1000)
    good.request(incremental=False)
    good.update()


def test_a_viewer_that_reads_nothing_holds_up_nobody_and_is_kept_small(rig: Rig) -> None:
    rig.world.linear_mode(1024, 768, 32)
    slow, good = rig.viewer(), rig.viewer()
    for n in range(12):
        slow.request(incremental=False)
        rig.world.store(LINEAR + 4 * n, 0xFFFFFF, 4)
        good.request(incremental=False)
        good.update()
    assert good.rgb == rig.world.picture().rgb
    waiting = [client for client in rig.server._clients if client.is_writing]
    assert len(waiting) == 1
    assert len(waiting[0]._output) < 2 * 1024 * 768 * 4
    assert rig.server.timeout() is not None


def test_a_flood_of_messages_that_never_end_is_bounded(rig: Rig) -> None:
    viewer = rig.viewer()
    viewer.send(struct.pack(">BxH", 2, 0xFFFF) + bytes(1000))
    for _ in range(10):
        rig.poll()
    (client,) = rig.server._clients
    assert len(client._input) <= client_module.MOST_INPUT
    viewer.send(bytes(4 * 0xFFFF - 1000))
    viewer.request(incremental=False)
    viewer.update()


def test_viewers_that_never_shake_hands_are_let_go(rig: Rig) -> None:
    waiting = [Viewer(rig.path, rig.poll) for _ in range(3)]
    for _ in range(5):
        rig.poll()
    assert len(rig.server._clients) == 3
    rig.now += server_module.HANDSHAKE_TIME
    rig.poll()
    assert not rig.server._clients
    del waiting


def test_no_more_viewers_than_there_is_room_for(rig: Rig) -> None:
    viewers = [rig.viewer() for _ in range(MOST_CLIENTS)]
    late = Viewer(rig.path, rig.poll)
    with pytest.raises((ConnectionError, OSError)):
        late.take(1)
    assert len(rig.server._clients) == len(viewers)


def test_tcp_and_the_end(tmp_path: Path) -> None:
    world = World()
    for number in range(40, 90):
        try:
            server = VncServer(("", number), None, lambda: world.vga, InputPlaces(lambda d: None, lambda d: None))
            break
        except server_module.CannotListen:
            continue
    assert server.port == 5900 + number
    viewer = Viewer(("127.0.0.1", server.port), server.poll)
    viewer.shake_hands()
    server.close()
    with pytest.raises((ConnectionError, OSError)):
        viewer.take(1)


def test_the_socket_file_goes_with_the_server(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert Path(rig.path).is_socket()
    rig.server.close()
    assert not Path(rig.path).exists()
    with pytest.raises(OSError, match="No such file"):
        socket.socket(socket.AF_UNIX).connect(rig.path)
