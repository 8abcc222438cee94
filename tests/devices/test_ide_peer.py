"""The same guest at the IDE ports here and under QEMU: statuses, registers and data of many commands, by PIO and DMA.

The standard leaves open whether an address behind the last sector is IDNF or ABRT, and no driver looks at seek complete
(bit 4 of the status), so these are masked. QEMU looks at the address of a write, of a DMA command and of READ VERIFY
later or not at all: these are not compared.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from firmware_bios.runner import MEMORY, PRELUDE, qemu, run_on_qemu
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pc import PcConfig
from trapgate.boards.pci import DiskConfig
from trapgate.devices.disks.memory import MemoryMedium
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.bios.disk_image import medium_image
from trapgate.machine.console import MemoryConsole

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("nasm") is None, reason="nasm is not installed (Debian package nasm)"),
    pytest.mark.skipif(qemu() is None, reason="qemu-system-x86_64 is not installed"),
]
SECTORS = 4096
LOAD = """
        mov ax, 0208h
        mov cx, 2
        mov bx, 7E00h
        int 13h
        jc $
        jmp main
        times 510 - ($ - $$) db 0
        db 55h, 0AAh
"""
CODE = """
base    equ 1F0h
main:   cli
        mov dx, 3F6h                ; polled
        mov al, 2
        out dx, al
        mov dx, 0CF8h               ; the DMA engine's ports, and bus mastering
        mov eax, 80000920h
        out dx, eax
        mov dx, 0CFCh
        in eax, dx
        and ax, 0FFFCh
        mov [engine], ax
        mov dx, 0CF8h
        mov eax, 80000904h
        out dx, eax
        mov dx, 0CFCh
        mov ax, 5
        out dx, ax
        mov si, table
.next:  lodsb                       ; what to do
        cmp al, 0FFh
        je .end
        mov [kind], al
        mov dx, base + 6            ; device first: the other registers are the selected drive's
        lodsb
        out dx, al
        mov dx, base + 1
        mov cx, 5
.task:  lodsb
        out dx, al
        inc dx
        loop .task
        cmp byte [kind], 4          ; only registers
        je .next
        lodsb
        mov [code], al
        lodsw
        mov [words], ax
        call line
        mov al, [code]
        mov ah, [kind]
        call hex4
        cmp byte [kind], 3
        jne .go
        call dma_start
.go:    mov dx, base + 7
        mov al, [code]
        out dx, al
        cmp byte [kind], 1
        je .data
        cmp byte [kind], 2
        je .data
        cmp byte [kind], 3
        je .dma
        call status
        cmp byte [kind], 6
        jb .next
        call registers
        jmp .next
.data:  call wait_ready
        test al, 8
        jz .stop
        call transfer
        jmp .data
.stop:  call status
        mov ax, [sum]
        call hex4
        jmp .next
.dma:   mov dx, 3F6h                ; with interrupts masked the engine does not tell of the end
.wait:  in al, dx
        test al, 88h
        jnz .wait
        mov dx, [engine]
        add dx, 2
        in al, dx
        and ax, 7
        call hex4
        call status
        mov dx, [engine]
        mov al, 0
        out dx, al
        push si
        mov si, 9000h
        mov cx, 2048
        mov bx, 0
.add:   lodsw
        rol bx, 1
        add bx, ax
        loop .add
        pop si
        show bx
        jmp .next
.end:   mov dx, 3F6h                ; a reset, and the signature
        mov al, 6
        out dx, al
        mov cx, 1000
.hold:  in al, dx
        loop .hold
        mov al, 2
        out dx, al
        call line
        call status
        mov byte [kind], 7
        call registers
        finish

line:   mov al, 10
        jmp put
wait_ready:
        mov dx, base + 7
        in al, dx
        test al, 80h
        jnz wait_ready
        ret
status: call wait_ready             ; status without seek complete, and the error if there is one
        mov ah, al
        and ah, 0EFh
        mov al, 0
        test ah, 1
        jz .show
        mov dx, base + 1
        in al, dx
        cmp byte [kind], 5
        jne .show
        mov al, 0
.show:  jmp hex4
registers:                          ; count and address, with kind 7 the earlier bytes too
        mov bl, 2
.both:  mov dx, 3F6h
        mov al, bl
        out dx, al
        mov dx, base + 2
        mov cx, 4
.one:   in al, dx
        mov ah, 0
        call hex4
        inc dx
        loop .one
        cmp byte [kind], 7
        jne .done
        xor bl, 80h
        js .both
.done:  ret
transfer:                           ; a block of [words] words: their sum, or written from what is there
        mov dx, base
        mov cx, [words]
        cmp byte [kind], 2
        je .write
        mov bx, [sum]
.in:    in ax, dx
        rol bx, 1
        add bx, ax
        loop .in
        mov [sum], bx
        ret
.write: mov ax, cx
        imul ax, 7777
        out dx, ax
        loop .write
        ret
dma_start:                          ; regions at 8800h: 1024 bytes at 9000h, [words] bytes behind them
        mov dword [8800h], 9000h
        mov dword [8804h], 1024
        mov dword [8808h], 9400h
        mov ax, [words]
        mov [880Ch], ax
        mov word [880Eh], 8000h
        mov dx, [engine]
        mov al, 0
        test byte [code], 2
        jnz .direction
        mov al, 8
.direction:
        out dx, al
        push ax
        add dx, 4
        mov eax, 8800h
        out dx, eax
        sub dx, 2
        mov al, 6
        out dx, al
        sub dx, 2
        pop ax
        or al, 1
        out dx, al
        ret
engine  dw 0
words   dw 0
sum     dw 0
kind    db 0
code    db 0
; kind: 0 no data, 1 data in, 2 data out, 3 DMA, 4 registers alone, 5 as 0 with the error masked, 6 as 0 and what the
; registers say, 7 with the earlier bytes
table:
"""
#: (kind, device, features, count, address, command, words of a block): see the source above.
COMMANDS = [
    (1, 0xE0, 0, 2, 3, 0x20, 256), (1, 0xE0, 0, 1, SECTORS - 1, 0x21, 256), (1, 0xE0, 0, 0, 100, 0x20, 256),
    (0, 0xE0, 0, 3, 0, 0xC6, 0), (0, 0xE0, 0, 4, 0, 0xC6, 0), (1, 0xE0, 0, 6, 9, 0xC4, 1024),
    (2, 0xE0, 0, 2, 40, 0x30, 256), (1, 0xE0, 0, 2, 40, 0x20, 256), (2, 0xE0, 0, 8, 50, 0xC5, 1024),
    (1, 0xE0, 0, 8, 50, 0x20, 256), (5, 0xE0, 0, 2, SECTORS, 0x20, 0), (0, 0xE0, 3, 0x22, 0, 0xEF, 0),
    (0, 0xE0, 3, 0x0C, 0, 0xEF, 0), (0, 0xE0, 0x82, 0, 0, 0xEF, 0), (0, 0xE0, 0x99, 0, 0, 0xEF, 0),
    (0, 0xE0, 0, 0, 0, 0xE7, 0), (0, 0xE0, 0, 0, 0, 0xEA, 0), (6, 0xE0, 0, 0, 0, 0xE5, 0),
    (0, 0xE0, 0, 0, 0, 0xE0, 0), (0, 0xE0, 0, 4, 0, 0x40, 0), (0, 0xE0, 0, 4, 0, 0x10, 0),
    (0, 0xEF, 0, 63, 0, 0x91, 0), (6, 0xE0, 0, 0, 0, 0xF8, 0), (7, 0xE0, 0, 0, 0, 0x27, 0),
    (0, 0xE0, 0, 0, 0, 0xA1, 0), (0, 0xE0, 0, 0, 0, 0xA0, 0), (0, 0xE0, 0, 0, 0, 0x5C, 0),
    (1, 0xA3, 0, 2, 0x0105, 0x20, 256), (6, 0xE0, 0, 0, 0, 0x90, 0), (3, 0xE0, 0, 8, 20, 0xC8, 3072),
    (3, 0xE0, 0, 6, 200, 0xC8, 3072), (3, 0xE0, 0, 8, 300, 0xCA, 3072), (3, 0xE0, 0, 4, 300, 0xC8, 1024),
]  # fmt: skip


def source() -> str:
    """The guest, with the commands as data."""
    rows = []
    for kind, device, features, count, address, command, words in COMMANDS:
        task = (device, features, count, address & 0xFF, address >> 8 & 0xFF, address >> 16 & 0xFF, command)
        rows.append(f"        db {kind}, {', '.join(map(str, task))}\n        dw {words}")
    return PRELUDE + LOAD + CODE + "\n".join(rows) + "\n        db 0FFh\n        times 512 * 9 - ($ - $$) db 0\n"


def run_here(image: bytes) -> str:
    medium = MemoryMedium(image, "image.img")
    console = MemoryConsole()
    config = MachineConfig(memory_size=MEMORY, board=PcConfig(disks=(DiskConfig(medium),)))
    machine = BareMachine(config, console, HandlerStore())
    machine.load(medium_image(medium, is_cd=False))
    machine.run(40_000_000)
    return console.data.decode()


def test_commands_end_as_on_qemu(tmp_path: Path) -> None:
    (tmp_path / "boot.asm").write_text(source())
    subprocess.run(["nasm", "-f", "bin", "-o", tmp_path / "boot.bin", tmp_path / "boot.asm"], check=True)
    code = (tmp_path / "boot.bin").read_bytes()
    filler = b"".join(bytes((n * 31 + i * 7) & 0xFF for i in range(512)) for n in range(SECTORS))
    image = code + filler[len(code) :]
    ours = run_here(image).split("\n")
    theirs = run_on_qemu(image, tmp_path, "ide").split("\n")
    assert len(ours) == len(COMMANDS) + 2
    assert ours[1:] == theirs[1:]
