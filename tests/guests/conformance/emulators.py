"""Runs a kernel on trapgate, QEMU (TCG), Bochs and the host's processor (QEMU with KVM); each gives COM1's text."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trapgate import __version__
from trapgate.boards.host import HostMachine
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.cpu.faults import Unimplemented
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.multiboot import MultibootImage
from trapgate.lab.virtual import host_memory
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import GuestExit
from trapgate.machine.errors import UnimplementedDevice
from trapgate.vmm.errors import VmmError
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

from . import kernels

MEGABYTES = 32
_QEMU = "qemu-system-x86_64"
_BOCHS = "bochs-bin"
_BOCHS_BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
_BOCHS_VGA_BIOS = Path("/usr/share/bochs/VGABIOS-lgpl-latest")
#: How long COM1 may be silent, twice; KVM, which is fast, stops often.
_SILENT_SECONDS, _SILENT_SECONDS_OF_KVM = 3.0, 4.0
_MOST_TEXT = 100_000
_MOST_INSTRUCTIONS = 4_000_000
#: How a run ended: by the kernel's own will, by a triple fault, or otherwise.
EXIT, SHUTDOWN = "exit", "shutdown"


@dataclass(frozen=True)
class Output:
    """What a kernel printed on COM1, and how its run ended."""

    text: str
    end: str


class Trapgate:
    """The project's own processor, in this process."""

    name = "trapgate"
    missing = ""

    def __init__(self, handlers: HandlerStore | None = None) -> None:
        self.handlers = handlers or HandlerStore()

    def version(self) -> str:
        """The package's version and the CPU profile."""
        return f"trapgate {__version__}, CPU profile {MachineConfig().profile.name}"

    def run(self, image: bytes, folder: Path) -> Output:
        """Run a kernel to its end."""
        console = MemoryConsole()
        machine = BareMachine(MachineConfig(memory_size=MEGABYTES << 20), console, self.handlers)
        machine.load(MultibootImage(image))
        stopped = machine.run(_MOST_INSTRUCTIONS)
        text = console.data.decode("latin1")
        if isinstance(machine.control.request, GuestExit):
            return Output(text, EXIT)
        if stopped.reason == "triple-fault":
            return Output(text, SHUTDOWN)
        return Output(text, f"{stopped.reason} {stopped.report}".strip())


class Virtual:
    """The project's own processor under its own hypervisor, by one of the hypervisor's techniques."""

    missing = ""

    def __init__(self, technique: str, handlers: HandlerStore | None = None) -> None:
        self.name = technique
        self._handlers = handlers or HandlerStore()

    def version(self) -> str:
        """What the guest runs on."""
        return f"trapgate {__version__}, a guest of CPU profile {MachineConfig().profile.name}"

    def run(self, image: bytes, folder: Path) -> Output:
        """Run a kernel to its end."""
        console, profile, size = MemoryConsole(), MachineConfig().profile, MEGABYTES << 20
        host = HostMachine(profile, host_memory(size), self._handlers)
        machine = VirtualMachine(host, size, profile, TECHNIQUES[self.name], console)
        machine.load(MultibootImage(image))
        host.max_instructions = _MOST_INSTRUCTIONS
        try:
            reason = machine.run()
        except (Unimplemented, UnimplementedDevice, VmmError) as error:
            return Output(console.data.decode("latin1"), f"{type(error).__name__}: {error}")
        text = console.data.decode("latin1")
        if isinstance(machine.control.request, GuestExit):
            return Output(text, EXIT)
        return Output(text, SHUTDOWN if reason == "triple-fault" else reason)


class Qemu:
    """QEMU's TCG, or the host's processor through KVM."""

    def __init__(self, accelerator: str) -> None:
        self._accelerator = accelerator
        self._patience = _SILENT_SECONDS_OF_KVM if accelerator == "kvm" else _SILENT_SECONDS
        self.name = "KVM" if accelerator == "kvm" else "QEMU"
        self.missing = ""
        if shutil.which(_QEMU) is None:
            self.missing = f"{_QEMU} is not installed (Debian package qemu-system-x86)"
        elif accelerator == "kvm" and not _opens(Path("/dev/kvm")):
            self.missing = "/dev/kvm does not open"

    @property
    def _processor(self) -> str:
        return "phenom" if self._accelerator == "tcg" else "host,-arch-capabilities"

    def version(self) -> str:
        """QEMU's version and its processor."""
        text = subprocess.run([_QEMU, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"version ([\d.]+)", text)
        version = f"QEMU {found[1] if found else 'of unknown version'}"
        if self._accelerator == "tcg":
            return f"{version}, TCG, -cpu phenom"
        model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return f"{version} with KVM on {model[1] if model else 'an unknown processor'}"

    def run(self, image: bytes, folder: Path) -> Output:
        """Run a kernel to its end."""
        path, serial = folder / "qemu.bin", folder / f"{self.name}.txt"
        path.write_bytes(image)
        serial.write_bytes(b"")
        command = [
            _QEMU, "-accel", self._accelerator, "-cpu", self._processor, "-m", str(MEGABYTES), "-display", "none",
            "-nodefaults", "-no-reboot", "-serial", f"file:{serial}", "-kernel", str(path),
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
        ]  # fmt: skip
        end = _end_of(
            command, {1: EXIT, 0: SHUTDOWN}, serial, self._patience
        )  # -no-reboot: a triple fault ends QEMU with 0
        return Output(serial.read_text("latin1"), end)


class Bochs:
    """Bochs, with its own BIOS, from a disk image."""

    name = "Bochs"

    def __init__(self) -> None:
        self.missing = ""
        for file in (_BOCHS_BIOS, _BOCHS_VGA_BIOS):
            if not file.exists():
                self.missing = f"{file} is not installed (Debian packages bochsbios, vgabios)"
        if shutil.which(_BOCHS) is None:
            self.missing = f"{_BOCHS} is not installed (Debian package bochs)"

    def version(self) -> str:
        """Bochs's version and its processor."""
        done = subprocess.run([_BOCHS, "--help"], capture_output=True, text=True, check=False, env=_bare_environment())
        found = re.search(r"Emulator ([\d.]+)", done.stdout + done.stderr)
        return f"Bochs {found[1] if found else 'of unknown version'}, phenom_8650_toliman"

    def run(self, image: bytes, folder: Path) -> Output:
        """Run a kernel to its end."""
        disk, serial, log = folder / "disk.img", folder / "Bochs.txt", folder / "bochs.log"
        disk.write_bytes(kernels.disk_image(image, folder))
        disk.with_name("disk.img.lock").unlink(missing_ok=True)
        serial.write_bytes(b"")
        cylinders, heads, track = kernels.GEOMETRY
        (folder / "bochsrc").write_text(
            f"""config_interface: textconfig
display_library: rfb, options="timeout=0"
romimage: file={_BOCHS_BIOS}
vgaromimage: file={_BOCHS_VGA_BIOS}
megs: {MEGABYTES}
cpu: model=phenom_8650_toliman, ips=50000000, reset_on_triple_fault=0
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path="{disk}", mode=flat, cylinders={cylinders}, heads={heads}, spt={track}
boot: disk
com1: enabled=1, mode=file, dev={serial}
log: {log}
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""
        )
        debugger = folder / "debugger.rc"
        debugger.write_text("continue\n")  # Debian's Bochs has the debugger built in, and begins in it
        command = [_BOCHS, "-q", "-f", str(folder / "bochsrc"), "-rc", str(debugger)]
        end = _end_of(command, {}, serial, _SILENT_SECONDS, _bare_environment())
        reason = log.read_text("latin1") if log.exists() else ""
        if "Shutdown port: shutdown requested" in reason:
            end = EXIT
        elif "3rd (" in reason or "triple" in reason.lower():
            end = SHUTDOWN
        return Output(serial.read_text("latin1"), end)


Emulator = Trapgate | Virtual | Qemu | Bochs


def peers() -> list[Callable[[], Emulator]]:
    """The emulators besides trapgate."""
    return [lambda: Qemu("tcg"), Bochs, lambda: Qemu("kvm")]


def _opens(path: Path) -> bool:
    try:
        with path.open("r+b", buffering=0):
            return True
    except OSError:
        return False


def _bare_environment() -> dict[str, str]:
    """Bochs 2.7 copies the environment into a buffer of fixed size when it reads its configuration."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/"}


def _end_of(
    command: list[str], ends: dict[int, str], serial: Path, patience: float, environment: dict[str, str] | None = None
) -> str:
    """Run an emulator until it ends or COM1 is silent for too long: KVM stops at what it cannot emulate."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    size = -1
    try:
        while True:
            try:
                return ends.get(status := process.wait(patience), f"exit status {status}")
            except subprocess.TimeoutExpired:
                now = serial.stat().st_size
                if now > _MOST_TEXT:
                    return f"more than {_MOST_TEXT} bytes of text"
                if now == size:
                    return "stopped or hung"
                size = now
    finally:
        process.kill()
        process.wait()
