"""Keys and mouse of a viewer, through RFB, the controller and interrupts, to a guest that reads them."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from firmware_bios.runner import MEMORY, assemble
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pc import PcConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.bios.disk_image import disk_image
from trapgate.lab.vnc.server import VncServer
from trapgate.machine.console import MemoryConsole

from .rfb import Viewer
from .world import read_png

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("nasm") is None, reason="NASM is not installed"),
]

#: Takes a key by INT 16h, then twelve bytes of the mouse by interrupt 74h, and shows all of them.
GUEST = """
        cli
        mov word [74h*4], mouse
        mov word [74h*4+2], 0
        sti
        mov ah, 0
        int 16h
        call hex4
        cli
        mov al, 0A8h
        out 64h, al
        mov al, 60h
        out 64h, al
        mov al, 47h
        out 60h, al
        mov bl, 0F4h
        mov al, 0D4h
        out 64h, al
        mov al, bl
        out 60h, al
        in al, 60h
        in al, 0A1h
        and al, 0EFh
        out 0A1h, al
        mov al, 'm'
        call put
        sti
.wait:  cmp byte [count], 12
        jae .show
        hlt
        jmp .wait
.show:  mov si, bytes
        mov cx, 12
.next:  lodsb
        mov ah, 0
        call hex4
        loop .next
        finish
mouse:  push ax
        push bx
        in al, 60h
        mov bl, [count]
        mov bh, 0
        mov [bytes+bx], al
        inc byte [count]
        mov al, 20h
        out 0A0h, al
        out 20h, al
        pop bx
        pop ax
        iret
count:  db 0
bytes:  times 64 db 0
"""


def test_a_guest_sees_keys_and_mouse_of_a_viewer(tmp_path: Path, handlers: HandlerStore) -> None:
    console = MemoryConsole()
    machine = BareMachine(MachineConfig(memory_size=MEMORY, board=PcConfig(vga="isa")), console, handlers)
    machine.load(disk_image(assemble(GUEST, tmp_path), "image"))
    delivered: list[str] = []
    machine.outside.on_delivery = lambda cycle, place, data: delivered.append(place)
    vga = machine.board.vga
    assert vga is not None
    server = VncServer((str(tmp_path / "vnc"), None), None, lambda: vga, machine.input)
    machine.outside.add_source(server)
    viewer = Viewer(str(tmp_path / "vnc"), server.poll)
    viewer.shake_hands()
    viewer.key(ord("k"), True)
    viewer.key(ord("k"), False)
    sent = False

    def send_movements(_: int) -> None:
        """Once the guest waits for them."""
        nonlocal sent
        if not sent and console.data.endswith(b"m"):
            sent = True
            for x, y, buttons in ((100, 100, 0), (103, 98, 0), (103, 98, 1), (96, 105, 4), (96, 105, 0)):
                viewer.pointer(x, y, buttons)
        machine.outside.idle(_)

    machine.processor.on_idle = send_movements
    stopped = machine.run(50_000_000)
    assert stopped.reason == "request"
    shown = console.data.decode().split()
    assert shown[0] == f"{0x25 << 8 | ord('k'):04x}"
    # +3, up 2; left button; -7 and down 7 with the right one; released.
    assert shown[1] == "m0008"
    assert [int(word, 16) for word in shown[2:]] == [3, 2, 9, 0, 0, 0x3A, 0xF9, 0xF9, 8, 0, 0]
    assert delivered == ["keyboard"] * 2 + ["mouse"] * 4
    server.close()


def test_a_run_writes_its_screen(command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A boot sector through the command line: by default it has a VGA, and the BIOS its modes."""
    code = "mov ax, 13h\nint 10h\nmov ax, 0C28h\nmov cx, 7\nmov dx, 5\nint 10h\nfinish"
    (tmp_path / "disk.img").write_bytes(assemble(code, tmp_path))
    picture = tmp_path / "screen.png"
    answer = command("run", str(tmp_path / "disk.img"), "--display", f"png={picture}", "--serial", "none")
    assert answer.status == 1, answer.errors  # isa-debug-exit of 0
    shown = read_png(picture)
    assert (shown.width, shown.height) == (320, 200)
    dots = {n // 3: shown.rgb[n : n + 3] for n in range(0, len(shown.rgb), 3) if any(shown.rgb[n : n + 3])}
    assert dots == {320 * 5 + 7: bytes((255, 0, 0))}


def test_a_run_without_a_vga_has_text_memory_as_before(command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code = "mov ax, 13h\nint 10h\nmov dx, 3C4h\nin al, dx\nshow ax\nfinish"
    (tmp_path / "disk.img").write_bytes(assemble(code, tmp_path))
    answer = command("run", str(tmp_path / "disk.img"), "-vga", "none")
    assert answer.output.strip() == "00ff"
    assert "int 10h ax=0013h: not supported" in answer.errors


def test_a_viewers_words_follow_the_protocol() -> None:
    """What the viewer of these tests sends is RFC 6143, 7.5.4 and 7.5.5."""
    assert struct.calcsize(">BBxxI") == 8
    assert struct.calcsize(">BBHH") == 6


def test_what_a_guest_asked_of_the_display_in_vain_is_counted(command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A mode of 12 bits a dot."""
    code = """
        mov dx, 1CEh
        mov ax, 3
        out dx, ax
        inc dx
        mov ax, 12
        out dx, ax
        dec dx
        mov ax, 4
        out dx, ax
        inc dx
        mov ax, 1
        out dx, ax
        finish
"""
    (tmp_path / "disk.img").write_bytes(assemble(code, tmp_path))
    answer = command("run", str(tmp_path / "disk.img"), "--serial", "none", "--stats")
    shown = [line.strip(" │") for line in answer.errors.split("\n")]
    assert "went wrong with vga" in shown
    assert "a mode that there is not                │  1" in shown
