"""The kernels: which there are, which checks each makes, and their images.

A kernel's checks are read from its source: every `check "name", "manual section"` is one row of the table.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
_CHECK = re.compile(r'^\s+(?:shutdown_)?check\s+"([^"]+)",\s*"([^"]+)"', re.MULTILINE)
_SECTOR = 512
#: Where prelude.inc has `left_out`, a byte for each check.
_LEFT_OUT = 32
#: The boot sector reads this many sectors at a time (CHUNK in boot.asm) and has room for this many bytes.
_CHUNK, _MOST_BYTES = 32, 0x6_0000
#: Cylinders, heads and sectors of a track of the disk image.
GEOMETRY = (4, 16, 63)


class BuildError(Exception):
    """A kernel's source that NASM does not accept, or that is too long for the boot sector."""


@dataclass(frozen=True)
class Check:
    """One expectation of the manual."""

    name: str
    section: str


@dataclass(frozen=True)
class Kernel:
    """One source file."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def title(self) -> str:
        """What its first line says it is about."""
        return self.path.read_text().partition("\n")[0].lstrip("; ").rstrip(".")

    @property
    def checks(self) -> list[Check]:
        """Its checks in order."""
        return [Check(*found) for found in _CHECK.findall(self.path.read_text())]


def all_kernels() -> list[Kernel]:
    """Every kernel, by name."""
    return [Kernel(path) for path in sorted((FOLDER / "kernels").glob("*.asm"))]


def has_nasm() -> bool:
    """Whether kernels can be built here."""
    return shutil.which("nasm") is not None


def _nasm(source: Path, image: Path, *options: str) -> bytes:
    command = ["nasm", "-f", "bin", "-w-error", *options, "-I", f"{FOLDER}/", "-o", str(image), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise BuildError(f"{source.name}: wanted a source that NASM takes without a warning, got: {done.stderr}")
    return image.read_bytes()


def assemble(kernel: Kernel, folder: Path) -> bytes:
    """The kernel's multiboot image; `folder` gets the file."""
    return _nasm(kernel.path, folder / f"{kernel.name}.bin")


def without(image: bytes, numbers: set[int]) -> bytes:
    """The image with some checks left out, by their place in the kernel."""
    changed = bytearray(image)
    for number in numbers:
        changed[_LEFT_OUT + number] = 1
    return bytes(changed)


def disk_image(image: bytes, folder: Path) -> bytes:
    """A hard disk whose boot sector loads the kernel as a multiboot loader would."""
    if len(image) > _MOST_BYTES:
        raise BuildError(f"wanted a kernel of at most {_MOST_BYTES} bytes, got {len(image)}: make it two")
    sectors = -(-len(image) // _SECTOR)
    boot = _nasm(FOLDER / "boot.asm", folder / "boot.bin", f"-DSECTORS={sectors}")
    cylinders, heads, track = GEOMETRY
    return (boot + image).ljust(cylinders * heads * track * _SECTOR, b"\0")
