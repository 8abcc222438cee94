"""`trapgate run --display vnc=...`: a viewer in another process sees the guest's screen, and its key ends the run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firmware_bios.runner import assemble
from support import child_environment
from trapgate.devices.vga.picture import Picture

from .rfb import ZRLE, Viewer
from .world import read_png, text_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("nasm") is None, reason="NASM is not installed"),
]
GUEST = """
        mov si, text
.next:  lodsb
        or al, al
        jz .wait
        mov ah, 0Eh
        mov bx, 7
        int 10h
        jmp .next
.wait:  mov ah, 0
        int 16h
        mov ah, 0Eh
        mov bx, 7
        int 10h
        finish
text:   db "Press a key: ", 0
"""


@pytest.mark.parametrize("technique", ["bare", "nested-tagged"])
def test_a_viewer_of_a_run(technique: str, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(assemble(GUEST, tmp_path))
    address, picture = str(tmp_path / "vnc"), tmp_path / "screen.png"
    process = subprocess.Popen(
        [sys.executable, "-m", "trapgate", "run", str(tmp_path / "disk.img"), "--serial", "none", "-m", "16M",
         "--technique", technique, "--display", f"vnc=unix:{address}", "--display", f"png={picture}"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=child_environment(),
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not Path(address).is_socket() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        viewer = Viewer(address, lambda: None)
        viewer.shake_hands()
        viewer.encodings(ZRLE)
        viewer.request(incremental=False)
        viewer.update()
        while "Press a key:" not in text_of(Picture(viewer.width, viewer.height, bytes(viewer.rgb))):
            viewer.request()
            viewer.update()
        viewer.key(ord("q"), True)
        viewer.key(ord("q"), False)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1, errors  # isa-debug-exit of 0
    assert "Press a key: q" in text_of(read_png(picture))
    assert not Path(address).exists()
