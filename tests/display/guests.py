"""Boot sectors that draw, here, in virtual machines and on QEMU."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from firmware_bios.runner import MEMORY, assemble
from trapgate.boards.host import HostMachine
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pc import PcConfig
from trapgate.devices.vga.picture import Picture, picture
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.bios.disk_image import disk_image
from trapgate.machine.console import MemoryConsole
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

LIMIT = 20_000_000
DONE = "".join(f"\n        mov al, '{letter}'\n        call put" for letter in "done") + "\n        cli\n        hlt\n"

#: Text by the BIOS and by hand: every character, every colour, the cursor.
TEXT = """
        mov si, text
.next:  lodsb
        or al, al
        jz .cells
        mov ah, 0Eh
        mov bx, 7
        int 10h
        jmp .next
.cells: mov ax, 0B800h
        mov es, ax
        mov di, 160*5
        mov cx, 256
        xor ax, ax
.cell:  mov ah, 1Eh
        stosw
        inc al
        loop .cell
        mov di, 160*10
        mov cx, 256
        mov ax, 41h
.dye:   stosw
        inc ah
        loop .dye
        jmp over
text:   db "Hello, VGA!", 13, 10, "The quick brown fox jumps over the lazy dog 0123456789", 13, 10, 0
over:
"""
#: Mode 12h: bands of all colours by set/reset, with a pattern by the bit mask; a character and dots by the BIOS.
PLANES = """
        mov ax, 12h
        int 10h
        mov ax, 0A000h
        mov es, ax
        xor bx, bx
        mov dx, 3CEh
.row:   mov di, bx
        imul di, 80
        mov cx, 80
        mov ax, bx
        shr ax, 5
        shl ax, 8
        out dx, ax
        mov ax, 0F01h
        out dx, ax
.col:   mov ax, cx
        add ax, bx
        shl ax, 8
        mov al, 8
        out dx, ax
        mov al, [es:di]
        stosb
        loop .col
        add bx, 4
        cmp bx, 480
        jb .row
        mov ax, 0FF08h
        out dx, ax
        mov ax, 0001h
        out dx, ax
        mov cx, 300
.dots:  mov ax, 0C0Eh
        mov bh, 0
        mov dx, cx
        int 10h
        loop .dots
"""
#: Mode 13h: every colour of its palette, in diagonals.
COLOURS = """
        mov ax, 13h
        int 10h
        mov ax, 0A000h
        mov es, ax
        xor di, di
.dot:   mov ax, di
        mov bx, 320
        xor dx, dx
        div bx
        add ax, dx
        stosb
        cmp di, 64000
        jb .dot
"""
#: 320x200 in 32 bits by VBE, through the linear frame buffer from protected mode.
LINEAR = """
        mov ax, 4F01h
        mov cx, 140h
        mov di, 9000h
        int 10h
        show ax
        mov ax, 4F02h
        mov bx, 4140h
        int 10h
        show ax
        cli
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov dx, 8
        mov es, dx
        mov edi, [9028h]
        mov ecx, 320*200
.dot:   imul ebx, ecx, 257
        and ebx, 0F0F0E0h
        mov [es:edi], ebx
        add edi, 4
        dec ecx
        jnz .dot
        and al, 0FEh
        mov cr0, eax
        jmp over
gdtr:   dw 15
        dd gdt
gdt:    dq 0, 00CF92000000FFFFh
over:   xor ax, ax
        mov es, ax
"""
CODES = {"text": TEXT, "planes": PLANES, "colours": COLOURS, "linear": LINEAR}


def draw(code: str, folder: Path, handlers: HandlerStore, technique: str = "bare") -> tuple[Picture, str, Any]:
    """The screen when a boot sector is done, what it sent to COM1, and the machine."""
    image = disk_image(assemble(code + DONE, folder), "image")
    console, board = MemoryConsole(), PcConfig(vga="std")
    if technique == "bare":
        machine = BareMachine(MachineConfig(memory_size=MEMORY, board=board), console, handlers)
        machine.load(image)
        assert machine.run(LIMIT).reason == "halted"
        assert machine.bios is not None
        assert not machine.bios.notes
    else:
        profile = MachineConfig().profile
        host = HostMachine(profile, 2 * MEMORY + (32 << 20), handlers)
        host.max_instructions = LIMIT
        virtual = VirtualMachine(host, MEMORY, profile, TECHNIQUES[technique], console, board)
        virtual.load(image)
        assert virtual.run() == "halted"
        machine = virtual  # type: ignore[assignment]
    assert machine.board.vga is not None
    sent = console.data.decode()
    assert "done" in sent
    return picture(machine.board.vga), sent, machine


def draw_on_qemu(code: str, folder: Path) -> Picture:
    """The same screen on QEMU with SeaBIOS's VGA BIOS."""
    (folder / "disk.img").write_bytes(assemble(code + DONE, folder))
    serial, dump = folder / "serial", folder / "screen.ppm"
    serial.write_text("")
    process = subprocess.Popen(
        ["qemu-system-x86_64", "-m", "16", "-display", "none", "-vga", "std", "-net", "none", "-qmp", "stdio",
         "-drive", f"file={folder / 'disk.img'},format=raw,if=floppy", "-serial", f"file:{serial}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        for command in (
            {"execute": "qmp_capabilities"},
            None,
            {"execute": "screendump", "arguments": {"filename": str(dump)}},
        ):
            if command is None:
                end = time.monotonic() + 60
                while "done" not in serial.read_text() and time.monotonic() < end:
                    time.sleep(0.1)
                continue
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            while "return" not in (answer := json.loads(process.stdout.readline())):
                assert "error" not in answer, answer
    finally:
        process.kill()
        process.wait()
    kind, size, most, dots = dump.read_bytes().split(b"\n", 3)
    assert (kind, most) == (b"P6", b"255")
    width, height = map(int, size.split())
    return Picture(width, height, dots)
