"""Whole runs with something behind COM2, the parallel port and the virtio console."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

from firmware_bios.runner import assemble
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.lab.bare import usual_handlers
from trapgate.lab.compare import CapturedConsole
from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.options import DEBIAN, CharacterOptions, RunOptions, VirtioPortOptions
from trapgate.lab.run import run_guest

pytestmark = pytest.mark.engine

needs_nasm = pytest.mark.skipif(shutil.which("nasm") is None, reason="nasm is not installed (Debian package nasm)")
#: Sends on COM2 every byte that comes there with its bit 5 changed, by interrupt 3 and HLT, until a dot comes.
ECHO = """
        mov word [0Bh*4], handler
        mov word [0Bh*4+2], 0
        in al, 21h
        and al, 0F7h
        out 21h, al
        mov dx, 2FCh                ; DTR, RTS, OUT2
        mov al, 0Bh
        out dx, al
        mov dx, 2F9h
        mov al, 1
        out dx, al
.wait:  hlt
        cmp byte [7000h], '.'
        jne .wait
        finish
handler: push ax
        push dx
        mov dx, 2F8h
        in al, dx
        mov [7000h], al
        xor al, 20h
        out dx, al
        mov al, 20h
        out 20h, al
        pop dx
        pop ax
        iret
"""
#: INT 17h: initialise, print three bytes, show the statuses; then a printer that is not there.
PRINT = """
        mov ah, 1
        xor dx, dx
        int 17h
        call hex4
        mov si, .text
        mov cx, 3
.next:  lodsb
        mov ah, 0
        xor dx, dx
        int 17h
        call hex4
        loop .next
        mov ax, 0200h
        mov dx, 1
        int 17h
        call hex4
        show [408h]
        int 11h
        call hex4
        finish
.text:  db "Hi!"
"""


def boot_sector(code: str, folder: Path) -> Path:
    path = folder / "guest.img"
    path.write_bytes(assemble(code, folder))
    return path


@needs_nasm
@pytest.mark.parametrize("technique", ["bare", "nested-tagged"])
def test_a_peer_talks_to_com2(technique: str, tmp_path: Path) -> None:
    ours, path = bytearray(), str(tmp_path / "com2")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)

        def talk() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"hello, world.")
                while data := peer.recv(100):
                    ours.extend(data)

        thread = threading.Thread(target=talk)
        thread.start()
        options = RunOptions(
            guest=str(boot_sector(ECHO, tmp_path)), technique=technique, memory_size=16 << 20,
            serial2=CharacterOptions(kind="unix", path=path),
        )  # fmt: skip
        outcome = run_guest(options, CapturedConsole())
        thread.join()
    assert outcome.reason == "guest-exit"
    assert ours == bytes(byte ^ 0x20 for byte in b"hello, world.")


@needs_nasm
@pytest.mark.parametrize("technique", ["bare", "software"])
def test_the_bios_prints(technique: str, tmp_path: Path) -> None:
    paper = tmp_path / "paper"
    options = RunOptions(
        guest=str(boot_sector(PRINT, tmp_path)), technique=technique, memory_size=16 << 20,
        parallel=CharacterOptions(kind="file", path=str(paper)),
    )  # fmt: skip
    console = CapturedConsole()
    outcome = run_guest(options, console)
    assert paper.read_bytes() == b"Hi!"
    # Status: ready and selected (90h), then busy behind each byte (10h); no second printer; its port, equipment.
    assert bytes(console.data) == b"9000 1048 1069 1021 0100 0378 4423 "
    assert outcome.message == "trapgate: BIOS: int 17h ax=0200h: there is no printer"


def test_where_com2_is_not_connected_nothing_changes() -> None:
    plain = BareMachine(MachineConfig(memory_size=1 << 20), CapturedConsole(), usual_handlers(lambda *_: None))
    assert plain.board.bus.read_port(0x2FE, 1) == 0
    assert plain.board.bus.read_port(0x379, 1) == 0xFF


@pytest.mark.debian
def test_debian_has_virtio_terminals_and_streams(tmp_path: Path) -> None:
    try:
        fetch_debian()
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")
    path, said = str(tmp_path / "stream"), bytearray()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)

        def talk() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"to the guest\n")
                while data := peer.recv(1000):
                    said.extend(data)

        thread = threading.Thread(target=talk)
        thread.start()
        script = (
            "port=$(grep -l org.example /sys/class/virtio-ports/*/name | cut -d/ -f5); "
            "read line < /dev/$port; echo got $line; echo answer > /dev/$port; "
            "stty raw -F /dev/hvc1; echo terminal > /dev/hvc1; cat /sys/class/virtio-ports/*/name"
        )
        options = RunOptions(
            guest=DEBIAN, command=("sh", "-c", script), devices=("virtio-serial-pci",),
            virtio_ports=(
                VirtioPortOptions(backend=CharacterOptions(kind="null")),
                VirtioPortOptions(
                    backend=CharacterOptions(kind="unix", path=path), name="org.example", is_console=False
                ),
                VirtioPortOptions(backend=CharacterOptions(kind="file", path=str(tmp_path / "hvc1"))),
            ),
        )  # fmt: skip
        console = CapturedConsole()
        outcome = run_guest(options, console)
        thread.join()
    assert bytes(console.data).decode() == "got to the guest\norg.example\n"
    assert said == b"answer\n"
    assert (tmp_path / "hvc1").read_bytes() == b"terminal\r\n"
    assert not outcome.statistics.device_faults
