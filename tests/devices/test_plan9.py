"""A folder of the host by 9P2000.L: what it does, and that a guest gets nothing outside it."""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from trapgate.devices.plan9 import messages as m
from trapgate.devices.plan9 import server as plan9
from trapgate.devices.plan9.folder import Folder
from trapgate.devices.plan9.server import Plan9Server
from trapgate.devices.virtio.plan9 import VirtioPlan9
from trapgate.machine.memory import PhysicalMemory

ROOT, OTHER, FILE = 0, 1, 2
RDONLY, WRONLY, RDWR = 0, 1, 2


def text(name: str | bytes) -> bytes:
    return m.string(name if isinstance(name, bytes) else name.encode())


class Client:
    """A guest that has mounted a folder as fid ROOT."""

    def __init__(self, path: Path, read_only: bool = False, mapped: bool = False) -> None:
        self.server = Plan9Server(Folder(path, read_only, mapped))
        assert self.call(m.VERSION, "<I", 8192, b"9P2000.L") == struct.pack("<I", 8192) + text("9P2000.L")
        self.call(m.ATTACH, "<II", ROOT, 0xFFFF_FFFF, b"root", b"", 1000)

    def raw(self, kind: int, body: bytes) -> tuple[int, bytes]:
        answer = self.server.answer(m.message(kind, 7, body))
        size, found, tag = m.HEADER.unpack_from(answer)
        assert (size, tag) == (len(answer), 7)
        return found, answer[m.HEADER.size :]

    def call(self, kind: int, form: str, *values: int | bytes) -> bytes:
        """The body of the answer. `form` packs the first integers; then bytes are strings, integers have 32 bits."""
        count = len(form) - 1
        body = struct.pack(form, *values[:count])
        for value in values[count:]:
            body += text(value) if isinstance(value, bytes) else struct.pack("<I", value)
        found, answer = self.raw(kind, body)
        if found == m.LERROR + 1:
            raise OSError(int.from_bytes(answer, "little"), "from the server")
        assert found == kind + 1
        return answer

    def walk(self, fid: int, *names: str, start: int = ROOT) -> int:
        """How many names were walked."""
        body = struct.pack("<IIH", start, fid, len(names)) + b"".join(map(text, names))
        found, answer = self.raw(m.WALK, body)
        if found == m.LERROR + 1:
            raise OSError(int.from_bytes(answer, "little"), "walk")
        return int.from_bytes(answer[:2], "little")

    def open(self, fid: int, *names: str, flags: int = RDONLY) -> None:
        self.walk(fid, *names)
        self.call(m.LOPEN, "<II", fid, flags)

    def create(self, fid: int, *names: str, mode: int = 0o644, flags: int = RDWR) -> None:
        self.walk(fid, *names[:-1])
        self.raw_create(fid, names[-1], mode, flags)

    def raw_create(self, fid: int, name: str, mode: int = 0o644, flags: int = RDWR) -> None:
        self.call(m.LCREATE, "<I", fid, name.encode(), flags, mode, 50)

    def read(self, fid: int, offset: int, count: int) -> bytes:
        answer = self.call(m.READ, "<IQI", fid, offset, count)
        return answer[4:]

    def write(self, fid: int, offset: int, data: bytes) -> int:
        found, answer = self.raw(m.WRITE, struct.pack("<IQI", fid, offset, len(data)) + data)
        if found == m.LERROR + 1:
            raise OSError(int.from_bytes(answer, "little"), "write")
        return int.from_bytes(answer, "little")

    def clunk(self, fid: int) -> None:
        self.call(m.CLUNK, "<I", fid)

    def names(self, fid: int, count: int = 8000) -> list[bytes]:
        found, offset = [], 0
        while data := self.call(m.READDIR, "<IQI", fid, offset, count)[4:]:
            fields = m.Fields(data)
            place = 0
            while place < len(data):
                fields.take(13)
                offset, _ = fields.u64(), fields.u8()
                found.append(fields.string())
                place += 24 + len(found[-1])
        return found

    def attributes(self, fid: int) -> tuple[int, int, int, int]:
        """Mode, user, group, size."""
        answer = self.call(m.GETATTR, "<IQ", fid, 0x7FF)
        mode, user, group, _, _, size = struct.unpack_from("<IIIQQQ", answer, 8 + 13)
        return mode, user, group, size

    def set(
        self, fid: int, valid: int, mode: int = 0, user: int = 0, group: int = 0, size: int = 0, *times: int
    ) -> None:
        self.call(m.SETATTR, "<IIIIIQQQQQ", fid, valid, mode, user, group, size, *(*times, 0, 0, 0, 0)[:4])


def fails(number: int) -> AbstractContextManager[object]:
    return pytest.raises(OSError, match=f"\\[Errno {number}\\]")


@pytest.fixture
def client(tmp_path: Path) -> Client:
    (tmp_path / "outside").write_bytes(b"secret")
    folder = tmp_path / "shared"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_bytes(bytes(range(256)) * 100)
    os.symlink("../outside", folder / "leak")
    os.symlink("/", folder / "top")
    os.symlink(tmp_path, folder / "up")
    return Client(folder)


def test_files_are_read_and_written(client: Client, tmp_path: Path) -> None:
    client.open(FILE, "file")
    assert client.read(FILE, 255, 3) == b"\xff\x00\x01"
    assert client.read(FILE, 25600, 10) == b""
    assert len(client.read(FILE, 0, 100_000)) == 8192 - 11
    with fails(errno.EBADF):
        client.write(FILE, 0, b"x")
    client.create(3, "sub", "new", mode=0o4755)
    assert client.write(3, 5, b"hello") == 5
    client.call(m.FSYNC, "<II", 3, 0)
    new = tmp_path / "shared" / "sub" / "new"
    assert new.read_bytes() == bytes(5) + b"hello"
    assert stat.S_IMODE(new.stat().st_mode) == 0o755
    client.clunk(3)
    with fails(errno.EEXIST):
        client.create(4, "sub", "new", flags=RDWR | os.O_EXCL)
    client.raw_create(4, "new", flags=RDWR | os.O_TRUNC)
    assert new.read_bytes() == b""


def test_folders_are_listed_in_order(client: Client, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "shared" / "sub" / f"name{number:03}").touch()
    client.open(OTHER, "sub")
    wanted = [b".", b"..", *(b"name%03d" % number for number in range(300))]
    assert client.names(OTHER) == wanted
    assert client.names(OTHER, count=100) == wanted
    client.call(m.MKDIR, "<I", ROOT, b"made", 0o750, 0)
    assert stat.S_IMODE((tmp_path / "shared" / "made").stat().st_mode) == 0o750
    client.call(m.UNLINKAT, "<I", ROOT, b"made", 0x200)
    assert not (tmp_path / "shared" / "made").exists()
    with fails(errno.ENOTEMPTY):
        client.call(m.UNLINKAT, "<I", ROOT, b"sub", 0x200)


def test_nothing_outside_is_reached(client: Client, tmp_path: Path) -> None:
    # Upwards is the folder's own top.
    assert client.walk(OTHER, "..", "..", "sub", "..", "..") == 5
    assert client.attributes(OTHER)[3] == (tmp_path / "shared").stat().st_size
    client.clunk(OTHER)
    for names in (("top", "etc"), ("up", "outside"), ("leak", "x")):
        assert client.walk(OTHER, *names) == 1  # the link itself, and nothing behind it
        with fails(errno.EBADF):
            client.clunk(OTHER)
    for name in ("../outside", "/etc/passwd", "sub/..", "", ".", "a\0b"):
        with fails(errno.EINVAL):
            client.walk(OTHER, name)
        with fails(errno.EINVAL):
            client.call(m.UNLINKAT, "<I", ROOT, name.encode(), 0)
    for link in ("leak", "top", "up"):
        client.walk(FILE, link)
        with fails(errno.ELOOP):
            client.call(m.LOPEN, "<II", FILE, RDONLY)
        with fails(errno.EINVAL):
            client.set(FILE, 8, size=0)
        client.clunk(FILE)
        with fails(errno.EEXIST):
            client.create(FILE, link, flags=RDWR | os.O_EXCL)
        with fails(errno.ELOOP):
            client.raw_create(FILE, link)
        client.clunk(FILE)
    assert (tmp_path / "outside").read_bytes() == b"secret"


def test_a_folder_that_becomes_a_link_meanwhile(client: Client, tmp_path: Path) -> None:
    """Somebody on the host swaps a folder for a link: what stood for a place in it reaches nothing."""
    shared = tmp_path / "shared"
    (shared / "sub" / "inner").write_bytes(b"inside")
    (tmp_path / "inner").write_bytes(b"outside")
    client.walk(FILE, "sub", "inner")
    (shared / "sub").rename(shared / "gone")
    os.symlink("..", shared / "sub")
    with fails(errno.ENOTDIR):
        client.call(m.LOPEN, "<II", FILE, RDONLY)


def test_devices_and_sockets_of_the_host_are_not_opened(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shared" / "pipe")
    client.walk(FILE, "pipe")
    with fails(errno.ENXIO):
        client.call(m.LOPEN, "<II", FILE, RDONLY)
    with fails(errno.EPERM):
        client.call(m.MKNOD, "<I", ROOT, b"mem", stat.S_IFCHR | 0o600, 1, 1, 0)
    client.call(m.MKNOD, "<I", ROOT, b"fifo", stat.S_IFIFO | 0o600, 0, 0, 0)
    assert stat.S_ISFIFO((tmp_path / "shared" / "fifo").stat().st_mode)


def test_links(client: Client, tmp_path: Path) -> None:
    client.walk(OTHER, "leak")
    assert client.call(m.READLINK, "<I", OTHER) == text("../outside")
    assert stat.S_ISLNK(client.attributes(OTHER)[0])
    client.call(m.SYMLINK, "<I", ROOT, b"new", b"sub/x", 0)
    assert os.readlink(tmp_path / "shared" / "new") == "sub/x"
    client.walk(FILE, "file")
    client.call(m.LINK, "<II", ROOT, FILE, b"second")
    assert (tmp_path / "shared" / "second").stat().st_nlink == 2
    with fails(errno.EINVAL):
        client.call(m.READLINK, "<I", FILE)


def test_fids_follow_what_is_renamed(client: Client, tmp_path: Path) -> None:
    client.create(FILE, "sub", "a")
    client.walk(OTHER, "sub", "a")
    client.call(m.RENAMEAT, "<I", ROOT, b"sub", ROOT, b"moved")
    assert stat.S_ISREG(client.attributes(OTHER)[0])
    client.call(m.RENAME, "<II", OTHER, ROOT, b"b")
    client.write(FILE, 0, b"still open")
    assert (tmp_path / "shared" / "b").read_bytes() == b"still open"
    client.call(m.REMOVE, "<I", OTHER)
    assert client.read(FILE, 0, 5) == b"still"
    assert client.attributes(FILE)[3] == 10
    with fails(errno.EBADF):
        client.clunk(OTHER)


def test_attributes_are_set(client: Client, tmp_path: Path) -> None:
    client.walk(FILE, "file")
    client.set(FILE, 1 | 8, mode=0o640, size=10)
    client.set(FILE, 0x10 | 0x20 | 0x80 | 0x100, 0, 0, 0, 0, 1000, 5, 2000, 7)
    found = (tmp_path / "shared" / "file").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_size) == (0o640, 10)
    assert (found.st_atime_ns, found.st_mtime_ns) == (1000 * 10**9 + 5, 2000 * 10**9 + 7)
    client.set(FILE, 0x20)
    found = (tmp_path / "shared" / "file").stat()
    assert found.st_mtime_ns > 10**18
    assert found.st_atime_ns == 1000 * 10**9 + 5
    client.set(FILE, 2 | 4, user=12345, group=12345)
    assert (tmp_path / "shared" / "file").stat().st_uid == os.getuid()
    assert struct.unpack_from("<I", client.call(m.STATFS, "<I", FILE))[0] == 0x0102_1997


def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    client = Client(tmp_path, read_only=True)
    client.open(FILE, "file")
    assert client.read(FILE, 0, 10) == b"data"
    client.walk(OTHER, "file")
    for attempt in (
        lambda: client.call(m.LOPEN, "<II", OTHER, RDWR), lambda: client.call(m.LOPEN, "<II", OTHER, os.O_TRUNC),
        lambda: client.create(5, "new"), lambda: client.set(OTHER, 1, mode=0),
        lambda: client.call(m.MKDIR, "<I", ROOT, b"d", 0o755, 0),
        lambda: client.call(m.UNLINKAT, "<I", ROOT, b"file", 0),
        lambda: client.call(m.RENAMEAT, "<I", ROOT, b"file", ROOT, b"b"),
        lambda: client.call(m.SYMLINK, "<I", ROOT, b"s", b"t", 0),
        lambda: client.call(m.LINK, "<II", ROOT, OTHER, b"l"),
    ):  # fmt: skip
        with fails(errno.EROFS):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_mapped_owners_modes_devices_and_links(tmp_path: Path) -> None:
    try:
        os.setxattr(tmp_path, "user.test", b"")
    except OSError:
        pytest.skip("the file system has no extended attributes")
    client = Client(tmp_path, mapped=True)
    client.create(FILE, "program", mode=0o4755)
    assert client.attributes(FILE)[:3] == (stat.S_IFREG | 0o4755, 1000, 50)
    client.set(FILE, 1 | 2 | 4, mode=0o2711, user=7, group=8)
    assert client.attributes(FILE)[:3] == (stat.S_IFREG | 0o2711, 7, 8)
    assert stat.S_IMODE((tmp_path / "program").stat().st_mode) == 0o600
    client.call(m.MKNOD, "<I", ROOT, b"disk", stat.S_IFBLK | 0o660, 8, 1, 0)
    client.walk(OTHER, "disk")
    assert stat.S_ISBLK(client.attributes(OTHER)[0])
    assert (tmp_path / "disk").is_file()
    client.call(m.SYMLINK, "<I", ROOT, b"link", b"/etc/passwd", 0)
    client.walk(5, "link")
    assert client.call(m.READLINK, "<I", 5) == text("/etc/passwd")
    assert (tmp_path / "link").read_bytes() == b"/etc/passwd"
    client.call(m.MKDIR, "<I", ROOT, b"d", 0o1777, 0)
    client.walk(6, "d")
    assert client.attributes(6)[0] == stat.S_IFDIR | 0o1777


def test_everything_is_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan9, "MOST_FIDS", 20)
    monkeypatch.setattr(plan9, "MOST_OPEN", 5)
    for number in range(10, 15):
        client.open(number, "file")
    with fails(errno.EMFILE):
        client.open(15, "file")
    for number in range(16, 29):
        client.walk(number)
    with fails(errno.ENFILE):
        client.walk(40)
    with fails(errno.EINVAL):
        client.read(10, 1 << 63, 1)
    with fails(errno.EFBIG):
        client.set(10, 8, size=1 << 63)
    with fails(errno.EINVAL):
        client.walk(41, *["sub"] * 17)
    with fails(errno.EMSGSIZE):
        client.call(m.VERSION, "<I", 100, b"9P2000.L")
    with fails(errno.EOPNOTSUPP):
        client.call(m.XATTRWALK, "<II", ROOT, 50, b"user.x")
    before = len(os.listdir("/proc/self/fd"))
    client.server.reset()
    assert len(os.listdir("/proc/self/fd")) == before - 5


def test_a_place_that_is_too_deep(client: Client) -> None:
    fid, name = ROOT, b"d" * 200
    for depth in range(20):
        client.call(m.MKDIR, "<I", fid, name, 0o755, 0)
        client.walk(100 + depth, name.decode(), start=fid)
        fid = 100 + depth
    with fails(errno.ENAMETOOLONG):
        client.call(m.MKDIR, "<I", fid, name, 0o755, 0)


def test_garbage(client: Client, tmp_path: Path) -> None:
    """Random bytes, and requests that are nearly right: an answer each, and nothing outside touched."""
    chance = random.Random(9)
    kinds = [*range(6, 132, 2)]
    names = [b"file", b"sub", b"..", b"leak", b"top", b"../outside", b"x", b"", bytes(300), b"\xff\xfe"]
    for _ in range(4000):
        kind = chance.choice(kinds)
        body = b"".join(
            chance.choice(
                (
                    struct.pack("<I", chance.randrange(6)), struct.pack("<Q", 1 << chance.randrange(64)),
                    m.string(chance.choice(names)), chance.randbytes(chance.randrange(20)),
                )
            )
            for _ in range(chance.randrange(6))
        )  # fmt: skip
        request = bytearray(m.message(kind, 7, body))
        if chance.random() < 0.1:
            request[0] = chance.randrange(256)
        answer = client.server.answer(bytes(request))
        assert 7 <= len(answer) <= plan9.LARGEST_MESSAGE
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "shared"]


def test_a_snapshot_opens_files_again(client: Client, tmp_path: Path) -> None:
    client.open(FILE, "file", flags=RDWR)
    client.create(3, "unlinked")
    client.open(OTHER, "sub")
    client.call(m.UNLINKAT, "<I", ROOT, b"unlinked", 0)
    snapshot = client.server.snapshot()
    other = Client(tmp_path / "shared")
    other.server.restore(snapshot)
    assert other.server.snapshot() == snapshot
    assert other.write(FILE, 0, b"new") == 3
    assert other.names(OTHER) == [b".", b".."]
    with fails(errno.ESTALE):
        other.read(3, 0, 1)


def test_the_virtio_device(tmp_path: Path) -> None:
    memory = PhysicalMemory(1 << 20)
    device = VirtioPlan9("virtio-9p0", memory, Folder(tmp_path), "host")
    assert device.config == b"\x04\x00host"

    def ask(request: bytes, room: int) -> bytes:
        device.reset()
        device.driver_features = 1 << 32 | 1
        device.set_status(11)
        device.set_status(15)
        queue = device.queues[0]
        queue.size, queue.descriptors, queue.driver, queue.device, queue.enabled = 4, 0x1000, 0x2000, 0x3000, True
        memory.write(0x4000, request)
        memory.write(0x1000, struct.pack("<QIHHQIHH", 0x4000, len(request), 1, 1, 0x8000, room, 2, 0))
        memory.write(0x2000, struct.pack("<HHH", 0, 1, 0))
        device.notify(0)
        return memory.read(0x8000, 24)

    version = m.message(m.VERSION, 0xFFFF, struct.pack("<I", 8192) + text("9P2000.L"))
    assert ask(version, 100) == m.message(m.VERSION + 1, 0xFFFF, struct.pack("<I", 8192) + text("9P2000.L")) + bytes(3)
    assert memory.read(0x3000, 12) == struct.pack("<HHII", 0, 1, 0, 21)
    ask(version, 5)
    assert device.status & 0x40
    ask(b"short", 100)
    assert device.status & 0x40
    assert device.faults == {"no room for an answer": 1, "message of a bad length": 1}
