"""Back ends of ports: files, pseudo-terminals, sockets; peers that are slow, flood, come late or go."""

from __future__ import annotations

import os
import socket
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

import pytest

from trapgate.lab.characters import stream
from trapgate.lab.characters.backend import CharacterBackend, FileCharacters, NoCharacters
from trapgate.lab.characters.opening import open_characters, open_ports
from trapgate.lab.characters.pseudo_terminal import MOST_WAITING, PseudoTerminal
from trapgate.lab.characters.source import CharacterInput
from trapgate.lab.characters.stream import StreamCharacters
from trapgate.lab.errors import CharactersUnusable, CharactersUnwritable
from trapgate.lab.options import CharacterOptions, RunOptions, VirtioPortOptions


def soon(wanted: Callable[[], bool]) -> None:
    """Wait for what another side of a socket brings about."""
    end = time.monotonic() + 10
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.001)


def pair() -> tuple[StreamCharacters, socket.socket]:
    ours, theirs = socket.socketpair()
    return StreamCharacters(ours), theirs


def test_a_file_gets_what_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    backend = open_characters(CharacterOptions(kind="file", path=str(path)), "COM2", print)
    backend.write(b"line\n")
    assert path.read_bytes() == b"line\n"
    backend.write(b"rest")
    backend.poll()
    assert path.read_bytes() == b"line\nrest"
    backend.write(b".")
    backend.close()
    assert path.read_bytes() == b"line\nrest."
    assert (backend.has_input, backend.descriptors()) == (False, ())


def test_a_full_disk_is_an_error_once() -> None:
    backend = FileCharacters(os.open("/dev/full", os.O_WRONLY), "COM2")
    with pytest.raises(CharactersUnwritable, match="wanted to write what the guest sends to COM2, got no space left"):
        backend.write(b"line\n")
    backend.write(b"more\n")
    backend.close()


def test_a_pipe_that_nobody_reads_drops_the_rest() -> None:
    read_end, write_end = os.pipe()
    backend = FileCharacters(write_end, "COM2")
    os.close(read_end)
    backend.write(b"line\n")
    backend.write(b"more\n")
    backend.close()


def test_a_pseudo_terminal_works_both_ways_and_says_its_name() -> None:
    said: list[str] = []
    backend = open_characters(CharacterOptions(kind="pty"), "COM2", said.append)
    assert isinstance(backend, PseudoTerminal)
    assert said == [f"trapgate: COM2 is {backend.name}"]
    other = os.open(backend.name, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(other)
    backend.write(b"hello\r\n")
    assert os.read(other, 100) == b"hello\r\n"
    os.write(other, b"keys\x03")
    assert backend.poll() == b"keys\x03"
    assert backend.poll() == b""
    os.close(other)
    assert backend.poll() == b""
    backend.close()


def test_a_pseudo_terminal_that_nobody_opens_keeps_the_newest() -> None:
    backend = PseudoTerminal()
    for number in range(100_000):
        backend.write(b"%6d\n" % number)
    assert len(backend._waiting) <= MOST_WAITING + 4096
    assert backend._waiting.endswith(b" 99999\n")
    backend.close()


def test_a_socket_works_both_ways() -> None:
    backend, peer = pair()
    backend.write(b"prompt> ")
    backend.flush()
    assert peer.recv(100) == b"prompt> "
    peer.sendall(b"ls\n")
    assert backend.poll() == b"ls\n"
    peer.close()
    assert backend.poll() == b""
    assert not backend.has_input
    backend.write(b"to nobody\n")
    assert backend.dropped["no peer"] == 10
    backend.close()


def test_a_peer_that_is_gone_hurts_nobody() -> None:
    backend, peer = pair()
    peer.close()
    for _ in range(10):
        backend.write(b"x" * 5000)
    assert backend._peer is None
    assert sum(backend.dropped.values()) == 50_000
    backend.close()


def test_a_slow_peer_is_waited_for_and_gets_everything() -> None:
    backend, peer = pair()
    sent = os.urandom(1 << 20) * 3
    got = bytearray()

    def read() -> None:
        while data := peer.recv(50_000):
            got.extend(data)
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    for place in range(0, len(sent), 10_000):
        backend.write(sent[place : place + 10_000])
        assert len(backend._waiting) <= stream.MOST_WAITING
    backend.close()
    reader.join()
    assert got == sent


def test_a_peer_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    backend, peer = pair()
    for _ in range(1000):
        backend.write(b"x" * 10_000)
    assert backend._peer is None
    assert backend.dropped["slow peer"] > 0
    assert not backend._waiting
    peer.close()
    backend.close()


def test_a_server_takes_one_peer_after_the_other(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    backend = open_characters(CharacterOptions(kind="unix", path=path, server=True, wait=False), "COM2", print)
    backend.write(b"lost\n")
    assert backend.has_input
    for word in (b"one\n", b"two\n"):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(path)
        backend.flush()
        backend.write(word)
        assert peer.recv(100) == word
        peer.close()
        assert backend.poll() == b""
        assert backend.has_input
    backend.close()
    assert not Path(path).exists()


def test_a_server_waits_and_says_where(tmp_path: Path) -> None:
    said: list[str] = []

    def connect() -> None:
        soon(lambda: len(said) == 2)
        port = int(said[0].rpartition(" ")[2])
        socket.create_connection(("localhost", port)).sendall(b"here")

    thread = threading.Thread(target=connect)
    thread.start()
    backend = open_characters(CharacterOptions(kind="tcp", port=0, server=True), "COM1", said.append)
    thread.join()
    soon(lambda: bool(backend.descriptors()))
    assert backend.poll() == b"here"
    assert said[1] == "trapgate: COM1 waits for a connection at tcp::0"
    backend.close()


def test_a_client_connects(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as server:
        options = CharacterOptions(kind="tcp", host="localhost", port=server.getsockname()[1])
        backend = open_characters(options, "COM2", print)
        peer, _ = server.accept()
        peer.sendall(b"hi")
        soon(lambda: backend.poll() == b"hi")
        backend.close()
        peer.close()
    with pytest.raises(CharactersUnusable, match=r"got connection refused: correct it"):
        open_characters(options, "COM2", print)


class Flood(NoCharacters):
    """A back end that always has more."""

    has_input = True
    flushes = 0

    def poll(self) -> bytes:
        return b"x" * 4096

    def flush(self) -> None:
        self.flushes += 1


def test_input_waits_while_the_guest_does_not_want_it() -> None:
    backend, got = Flood(), bytearray()
    source = CharacterInput(backend, lambda: len(got) < 10_000, got.extend)
    for _ in range(100):
        source.poll()
    assert len(got) == 3 * 4096
    assert backend.flushes == 97
    assert not source.listens


def test_ports_are_opened_together_and_closed(tmp_path: Path) -> None:
    stdio: CharacterBackend = NoCharacters()
    options = RunOptions(
        serial2=CharacterOptions(kind="stdio"),
        parallel=CharacterOptions(kind="file", path=str(tmp_path / "paper")),
        virtio_ports=(VirtioPortOptions(backend=CharacterOptions(kind="null"), name="a", is_console=False),),
    )
    with open_ports(options, stdio, print) as ports:
        assert ports.serial2 is stdio
        assert ports.parallel is not None
        ports.parallel.write(b"page")
        assert [(port.name, port.is_console) for port in ports.virtio_ports] == [("a", False)]
    assert (tmp_path / "paper").read_bytes() == b"page"
