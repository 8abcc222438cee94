"""Builds the small kernels of these tests with NASM, and runs them here and on QEMU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.multiboot import MultibootImage
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import GuestExit

PRELUDE = Path(__file__).with_name("prelude.asm")
QEMU = "qemu-system-x86_64"
_MEMORY_SIZE = 16 << 20
_MOST_INSTRUCTIONS = 2_000_000
_EXIT_STATUS = 1


def assemble(text: str, folder: Path) -> bytes:
    """The kernel whose test is `text`: NASM code with a label test_body, which returns."""
    source, image = folder / "kernel.asm", folder / "kernel.bin"
    source.write_text(f'%include "{PRELUDE}"\n{text}\nimage_end:\n')
    subprocess.run(["nasm", "-f", "bin", "-o", image, source], check=True)
    return image.read_bytes()


def run_here(kernel: bytes, handlers: HandlerStore) -> list[str]:
    """What the kernel prints on our processor, line by line."""
    console = MemoryConsole()
    machine = BareMachine(MachineConfig(memory_size=_MEMORY_SIZE), console, handlers)
    machine.load(MultibootImage(kernel))
    stopped = machine.run(_MOST_INSTRUCTIONS)
    lines = console.data.decode("latin1").splitlines()
    recent = list(machine.processor.recent_exceptions)
    assert machine.control.request == GuestExit(_EXIT_STATUS), f"{stopped}, {recent}; so far: {lines}"
    return [line.rstrip() for line in lines]


def run_on_qemu(kernel: bytes, folder: Path) -> list[str]:
    """What the kernel prints on QEMU's processor (TCG)."""
    image, output = folder / "qemu.bin", folder / "qemu.txt"
    image.write_bytes(kernel)
    command = [
        QEMU, "-accel", "tcg", "-cpu", "phenom", "-m", "16", "-display", "none", "-no-reboot", "-nodefaults",
        "-debugcon", f"file:{output}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image),
    ]  # fmt: skip
    status = subprocess.run(command, timeout=20, check=False, capture_output=True).returncode
    lines = output.read_bytes().decode("latin1").splitlines()
    assert status == _EXIT_STATUS, f"status {status}; so far: {lines}"
    return [line.rstrip() for line in lines if not line.startswith(("SeaBIOS", "Booting", "iPXE", "Machine UUID"))]


def missing(tool: str) -> bool:
    """Whether a tool is not installed."""
    return shutil.which(tool) is None
