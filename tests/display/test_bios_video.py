"""INT 10h with a VGA, held to SeaBIOS's VGA BIOS on QEMU where that is installed: each program reports on COM1."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from firmware_bios.runner import assemble, qemu, run_on_qemu
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.bios.vbe import MODES

from .guests import DONE, draw

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("nasm") is None, reason="NASM is not installed"),
]

INFORMATION = """
        mov di, 9000h
        mov dword [9000h], 'VBE2'
        mov ax, 4F00h
        int 10h
"""
SAME = {
    "the mode, its columns and rows": """
        mov si, modes
.next:  lodsb
        cmp al, 0FFh
        je over
        mov ah, 0
        int 10h
        mov ah, 0Fh
        int 10h
        call hex4
        show [449h]
        show [44Ah]
        mov al, [484h]
        mov ah, [485h]
        call hex4
        jmp .next
modes:  db 0, 1, 2, 3, 4, 5, 6, 0Dh, 0Eh, 10h, 11h, 12h, 13h, 3, 0FFh
over:
""",
    "characters, their colours and the cursor": """
        mov ax, 3
        int 10h
        mov ax, 0200h
        mov bx, 0
        mov dx, 0507h
        int 10h
        mov ax, 0941h
        mov bx, 001Eh
        mov cx, 3
        int 10h
        mov ax, 0E42h
        int 10h
        mov ah, 3
        mov bh, 0
        int 10h
        show dx
        mov ah, 2
        mov dx, 0508h
        int 10h
        mov ah, 8
        int 10h
        call hex4
        mov dx, 3D4h
        mov al, 0Fh
        out dx, al
        inc dx
        in al, dx
        mov ah, 0
        call hex4
""",
    "pages and scrolling": """
        mov ax, 3
        int 10h
        mov ax, 0E5Ah
        mov bx, 7
        int 10h
        mov ax, 0501h
        int 10h
        show [44Eh]
        mov dx, 3D4h
        mov al, 0Ch
        out dx, al
        inc dx
        in al, dx
        mov ah, 0
        call hex4
        mov ax, 0500h
        int 10h
        mov ax, 0701h
        mov bh, 1Fh
        xor cx, cx
        mov dx, 184Fh
        int 10h
        mov ax, 0B800h
        mov es, ax
        show [es:0]
        show [es:160]
""",
    "palette and DAC": """
        mov ax, 1000h
        mov bx, 2A05h
        int 10h
        mov ax, 1007h
        mov bx, 0005h
        int 10h
        show bx
        mov ax, 1010h
        mov bx, 77
        mov cx, 1234h
        mov dh, 2Ah
        int 10h
        xor cx, cx
        xor dx, dx
        mov ax, 1015h
        mov bx, 77
        int 10h
        show cx
        show dx
        mov ax, 13h
        int 10h
        mov bp, 0
.dac:   mov ax, 1015h
        mov bx, bp
        int 10h
        mov ax, cx
        call hex4
        mov al, dh
        mov ah, 0
        call hex4
        add bp, 17
        cmp bp, 256
        jb .dac
""",
    "dots in graphics modes": """
        mov si, modes
.next:  lodsb
        cmp al, 0FFh
        je over
        mov ah, 0
        int 10h
        mov ax, 0C03h
        mov bh, 0
        mov cx, 101
        mov dx, 99
        int 10h
        mov ax, 0C81h
        int 10h
        mov ah, 0Dh
        int 10h
        mov ah, 0
        call hex4
        mov ah, 0Dh
        inc cx
        int 10h
        mov ah, 0
        call hex4
        jmp .next
modes:  db 4, 0Dh, 10h, 12h, 0FFh
over:
""",
    "what the adapter says of itself": """
        mov ax, 1A00h
        int 10h
        show ax
        show bx
        mov ax, 1200h
        mov bx, 0FF10h
        int 10h
        show bx
        mov ax, 1130h
        mov bh, 6
        xor cx, cx
        xor dx, dx
        int 10h
        show cx
        xor ax, ax
        mov es, ax
        mov ax, 1112h
        mov bl, 0
        int 10h
        mov al, [484h]
        mov ah, [485h]
        call hex4
""",
    "VESA's modes": """
        mov cx, 4101h
        mov di, 9000h
        mov ax, 4F01h
        int 10h
        show ax
        show [9010h]
        show [9012h]
        show [9014h]
        mov al, [9019h]
        mov ah, [901Bh]
        call hex4
        mov cx, 114h
        mov ax, 4F01h
        int 10h
        show [9010h]
        show [901Fh]
        show [9021h]
        show [9023h]
        mov cx, 1FFh
        mov ax, 4F01h
        int 10h
        show ax
        mov ax, 4F02h
        mov bx, 4114h
        int 10h
        show ax
        mov ax, 4F03h
        int 10h
        show ax
        show bx
        mov ax, 4F06h
        mov bl, 1
        int 10h
        show ax
        show bx
        show cx
        mov ax, 4F07h
        xor bx, bx
        mov cx, 0
        mov dx, 100
        int 10h
        show ax
        mov ax, 4F07h
        mov bx, 1
        int 10h
        show cx
        show dx
        mov ax, 3
        int 10h
        mov ax, 4F03h
        int 10h
        show bx
""",
}


EXPECTED = {
    "the mode, its columns and rows": """
        2800 2800 0028 1018 2801 2801 0028 1018 5002 5002 0050 1018 5003 5003 0050 1018 2804 2804 0028 0818
        2805 2805 0028 0818 5006 5006 0050 0818 280d 280d 0028 0818 500e 500e 0050 0818 5010 5010 0050 0e18
        5011 5011 0050 101d 5012 5012 0050 101d 2813 2813 0028 0818 5003 5003 0050 1018""",
    "characters, their colours and the cursor": "0508 1e41 0098",
    "pages and scrolling": "1000 0008 1f20 075a",
    "palette and DAC": """
        2a05 1234 2a00 0000 0000 0505 0005 003f 001f 3f2f 0000 3f1f 003f 2d3a 003f 363f 002d 1c00 0007 0e0e 001c
        141c 0016 1c18 0014 0c00 0010 0810 0010 0e10 0008 100b 000d 0000 0000""",
    "dots in graphics modes": "0002 0000 0002 0000 0002 0000 0002 0000",
    "what the adapter says of itself": "1a1a 0008 0003 0010 0831",
    "VESA's modes": """
        004f 0280 0280 01e0 0408 0640 0b05 0506 0005 014f 004f 004f 4114 004f 0640 0320 004f 0000 0064 0003""",
}
#: What programs report by `show`, among what the BIOS's screen sends to the same console.
WORD = re.compile(r"[0-9a-f]{4}(?= )")


@pytest.mark.parametrize("what", SAME)
def test_services_answer_as_seabioss_do(what: str, tmp_path: Path, handlers: HandlerStore) -> None:
    _, sent, _ = draw(SAME[what], tmp_path, handlers)
    ours = WORD.findall(sent)
    assert ours == EXPECTED[what].split()
    if qemu() is not None:
        code = SAME[what] + DONE.replace("cli", "mov al, 0\n out 0F4h, al")
        assert ours == WORD.findall(run_on_qemu(assemble(code, tmp_path), tmp_path))


def test_vesas_information(tmp_path: Path, handlers: HandlerStore) -> None:
    """VBE 3.0, function 00h: the block as a loader reads it."""
    _, _, machine = draw(INFORMATION, tmp_path, handlers)
    block = machine.memory.read(0x9000, 512)
    assert block[:6] == b"VESA\x00\x03"
    assert int.from_bytes(block[18:20], "little") == 256
    oem, modes = (int.from_bytes(block[at : at + 2], "little") for at in (6, 14))
    assert machine.memory.read(oem, 9) == b"trapgate\0"
    numbers = []
    while (number := machine.memory.read_u16(modes + 2 * len(numbers))) != 0xFFFF:
        numbers.append(number)
    assert numbers == list(MODES)
