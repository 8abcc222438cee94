"""REP INS and OUTS of IDE's data, several turns at once and one by one: the same run in everything that is counted."""

from __future__ import annotations

import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from firmware_bios.runner import assemble
from trapgate.devices.ide.drive import AtaDrive
from trapgate.lab.compare import CapturedConsole
from trapgate.lab.options import DriveOptions, RunOptions
from trapgate.lab.run import run_guest
from trapgate.machine.bus import Bus

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("nasm") is None, reason="nasm is not installed (Debian package nasm)"),
]

#: Reads sectors by REP INSW and INSD to odd places over page ends, downwards, in pieces, over the segment's end;
#: writes them back elsewhere by REP OUTSW; shows sums of what it has.
CODE = """
        call pio_read
        mov di, 8FF1h               ; odd, over a page's end
        mov cx, 256
        rep insw
        call sum
        call pio_read
        mov di, 8FF8h
        mov cx, 128
        rep insd
        call sum
        call pio_read
        mov di, 91F0h               ; downwards, then the rest upwards
        std
        mov cx, 100
        rep insw
        cld
        mov cx, 100
        rep insw
        insw                        ; without REP
        mov cx, 55
        rep insw
        call sum
        call pio_read               ; by 32-bit addresses
        mov edi, 8123h
        mov ecx, 70
        a32 rep insw
        mov ecx, 1000               ; more than there is
        a32 rep insw
        call sum
        mov byte [command], 30h
        call pio
        mov si, 8FF1h
        mov cx, 256
        rep outsw
        call ready
        mov byte [lba], 9
        call pio_read
        mov di, 9001h
        mov cx, 256
        rep insw
        call sum
        mov ax, 0F000h              ; over the segment's end at FFFFh: the offset begins again at 0
        mov es, ax
        call pio_read
        mov di, 0FE00h
        mov cx, 256
        rep insw
        show di
        finish
pio_read: mov byte [command], 20h
pio:    mov dx, 1F6h
        mov al, 0E0h
        out dx, al
        mov dx, 1F2h
        mov al, 1
        out dx, al
        inc dx
        mov al, [lba]
        out dx, al
        inc dx
        mov al, 0
        out dx, al
        inc dx
        out dx, al
        mov dx, 1F7h
        mov al, [command]
        out dx, al
.wait:  in al, dx
        test al, 80h
        jnz .wait
        test al, 8
        jz .wait
        mov dx, 1F0h
        ret
ready:  mov dx, 1F7h
.wait:  in al, dx
        test al, 80h
        jnz .wait
        ret
sum:    mov si, 8000h
        mov cx, 1900h
        xor bx, bx
.next:  lodsb
        rol bx, 1
        xor bl, al
        loop .next
        show bx
        ret
lba:    db 9
command: db 20h
"""


def outcome(folder: Path, technique: str) -> tuple[bytes, dict[str, object]]:
    disk = folder / "disk.img"
    disk.write_bytes(assemble(CODE, folder)[:512] + random.Random(1).randbytes(16384))
    options = RunOptions(
        guest=None, drives=(DriveOptions(file=disk, format="raw"),), technique=technique, memory_size=16 << 20,
        max_instructions=5_000_000,
    )  # fmt: skip
    console = CapturedConsole()
    found = asdict(run_guest(options, console).statistics)
    host = ("host_seconds", "handlers_built", "translated_blocks", "regions", "hot_share", "hottest")
    return bytes(console.data), {name: value for name, value in found.items() if name not in host}


@pytest.mark.parametrize("technique", ["bare", "nested-tagged", "shadow", "software"])
def test_counts_do_not_tell(technique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    original = AtaDrive.read_run

    def read_run(drive: AtaDrive, width: int, count: int) -> bytes:
        data = original(drive, width, count)
        runs.append(len(data))
        return data

    monkeypatch.setattr(AtaDrive, "read_run", read_run)
    together = outcome(tmp_path, technique)
    assert sum(runs) > 2000
    monkeypatch.setattr(Bus, "has_runs", lambda bus, port: False)
    assert outcome(tmp_path, technique) == together
    assert len(together[0].split()) == 6
