"""Enters a loaded guest on QEMU exactly as EntryState says: a peer that checks what the loaders write.

A multiboot stub carries the loaded memory as a list of blocks, copies them into place, loads the tables and registers,
and jumps to the entry point. It lies above everything that the loaders use.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from trapgate.firmware.image import EntryState
from trapgate.machine.memory import PhysicalMemory

STUB_ADDRESS = 0x0E00_0000
BLOCK = 4096

STUB = """
bits 32
org {address:#x}
header: dd 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000)
        dd header, header, 0, 0, start
gdtr:   dw {gdt_limit}
        dd {gdt_base}
start:  cld
        mov esp, stack_top
        mov ebx, blocks
next:   mov edi, [ebx]
        mov ecx, [ebx + 4]
        lea esi, [ebx + 8]
        jecxz done
        add ebx, ecx
        add ebx, 8
        shr ecx, 2
        rep movsd
        jmp next
done:   lgdt [gdtr]
        mov ax, {data_selector}
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov fs, ax
        mov gs, ax
        mov eax, {cr4}
        mov cr4, eax
        mov eax, {cr3}
        mov cr3, eax
        mov ecx, 0xC0000080
        mov eax, {efer} & 0x100
        xor edx, edx
        wrmsr
        mov eax, {cr0}
        mov cr0, eax
        mov esp, {rsp}
        mov eax, {rax}
        mov ebx, {rbx}
        mov ecx, {rcx}
        mov edx, {rdx}
        mov esi, {rsi}
        mov edi, {rdi}
        mov ebp, {rbp}
        jmp {code_selector}:{rip}
        times 1024 db 0
stack_top:
        align 16
blocks: incbin "{blocks}"
"""


def tools_missing() -> str | None:
    """The first program that is not installed here, or None."""
    return next((tool for tool in ("qemu-system-x86_64", "nasm") if shutil.which(tool) is None), None)


def run_on_qemu(memory: PhysicalMemory, entry: EntryState, folder: Path, timeout: float = 100) -> bytes:
    """Console bytes of the guest that `memory` and `entry` describe, until it powers off or resets."""
    blocks = bytearray()
    for page in range(0, memory.size, BLOCK):
        content = memory.read(page, BLOCK)
        if any(content):
            blocks += struct.pack("<II", page, BLOCK) + content
    blocks += struct.pack("<II", 0, 0)
    (folder / "blocks").write_bytes(blocks)
    values = {name: f"{value:#x}" for name, value in entry.registers.items()}
    source = STUB.format(
        address=STUB_ADDRESS,
        gdt_limit=entry.gdt.limit,
        gdt_base=entry.gdt.base,
        data_selector=entry.segments["ds"].selector,
        code_selector=entry.segments["cs"].selector,
        cr0=entry.cr0,
        cr3=entry.cr3,
        cr4=entry.cr4,
        efer=entry.efer,
        blocks=folder / "blocks",
        **values,
    )
    (folder / "stub.asm").write_text(source)
    subprocess.run(["nasm", "-f", "bin", "-o", folder / "stub", folder / "stub.asm"], check=True, timeout=60)
    command = ["qemu-system-x86_64", "-M", "pc", "-nographic", "-no-reboot", "-m", "256", "-kernel", folder / "stub"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=timeout, check=True)
    return result.stdout
