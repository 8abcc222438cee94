"""Assembles a boot sector with NASM, and runs it here and under QEMU with SeaBIOS."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from trapgate.boards.host import HostMachine
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Stopped
from trapgate.firmware.bios.disk_image import disk_image
from trapgate.machine.console import MemoryConsole
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

MEMORY = 16 << 20
DISKETTE = 1_474_560
#: A second sector to read back: "second" and then its number in every byte.
SECOND_SECTOR = b"second" + bytes([2]) * 506

PRELUDE = """
        bits 16
        org 7C00h
        jmp start
; Everything is reported on COM1, not on the screen, so that both machines can be compared.
put:    push dx                     ; AL
        mov dx, 3F8h
        out dx, al
        pop dx
        ret
hex4:   pushf                       ; AX as four digits and a space; keeps the flags
        push cx
        mov cx, 4
.digit: rol ax, 4
        push ax
        and al, 15
        add al, '0'
        cmp al, '9'
        jbe .put
        add al, 39
.put:   call put
        pop ax
        loop .digit
        mov al, ' '
        call put
        pop cx
        popf
        ret
%macro  show 1
        mov ax, %1
        call hex4
%endmacro
%macro  carry 0
        setc al
        mov ah, 0
        call hex4
%endmacro
%macro  finish 0
        mov al, 0
        out 0F4h, al
        hlt
%endmacro
start:  xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 7C00h
        sti
"""
END = """
        times 510 - ($ - $$) db 0
        db 55h, 0AAh
"""


def assemble(code: str, folder: Path, size: int = DISKETTE) -> bytes:
    """An image of `size` bytes whose boot sector is PRELUDE and `code`; its second sector is SECOND_SECTOR."""
    source, output = folder / "boot.asm", folder / "boot.bin"
    source.write_text(PRELUDE + code + END)
    done = subprocess.run(["nasm", "-f", "bin", "-o", output, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sector = output.read_bytes()
    return (sector + SECOND_SECTOR).ljust(size, b"\0")


def machine_for(image: bytes, handlers: HandlerStore, name: str = "image") -> tuple[BareMachine, MemoryConsole]:
    """A machine that is about to boot an image."""
    console = MemoryConsole()
    machine = BareMachine(MachineConfig(memory_size=MEMORY), console, handlers)
    machine.load(disk_image(image, name))
    return machine, console


def run_here(image: bytes, handlers: HandlerStore, limit: int = 50_000_000) -> tuple[Stopped, BareMachine, str]:
    """Run until the end; what came on the console."""
    machine, console = machine_for(image, handlers)
    stopped = machine.run(limit)
    return stopped, machine, console.data.decode()


def run_virtually(
    image: bytes, technique: str, handlers: HandlerStore, limit: int = 50_000_000
) -> tuple[str, VirtualMachine, str]:
    """The same in a virtual machine."""
    console, profile = MemoryConsole(), MachineConfig().profile
    host = HostMachine(profile, 2 * MEMORY, handlers)
    host.max_instructions = limit
    machine = VirtualMachine(host, MEMORY, profile, TECHNIQUES[technique], console)
    machine.load(disk_image(image, "image"))
    return machine.run(), machine, console.data.decode()


def qemu() -> str | None:
    """QEMU, where it is installed."""
    return shutil.which("qemu-system-x86_64")


def run_on_qemu(image: bytes, folder: Path, interface: str = "floppy") -> str:
    """What the same image says on COM1 under SeaBIOS; `interface` is floppy or ide."""
    path = folder / "image.img"
    path.write_bytes(image)
    program = qemu()
    assert program is not None
    command = [program, "-accel", "tcg", "-m", "16M", "-display", "none", "-monitor", "none", "-no-reboot"]
    command += ["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-nic", "none"]
    command += ["-drive", f"file={path},format=raw,if={interface}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    return done.stdout.decode(errors="replace")
