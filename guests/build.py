"""Assembles the embedded guests into the package: `python guests/build.py`.

Needs NASM (Debian package `nasm`). The result is the same, bit for bit, wherever the same sources are assembled:
no time, path or version of anything is put into an image.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
IMAGES = SOURCES.parent / "src" / "trapgate" / "guests"
MAIN_FILES = {
    "trapgate-guest": "trapgate-guest/guest.asm",
    "real-loop": "real-loop/real_loop.asm",
    "bench": "bench/bench.asm",
    "hypervisor": "hypervisor/hypervisor.asm",
    "io": "io/io.asm",
}
# Bytes. The zero-filled memory of the multiboot guests starts this far behind the image's first byte (ZEROED_BASE).
LARGEST_IMAGE = 0x10000


class ImageTooLarge(Exception):
    """An image reaches into the memory that its source declares as zero-filled."""


def assemble(name: str, output: Path) -> None:
    """Assembles the guest `name` into the file `output`.

    Raises FileNotFoundError without NASM, CalledProcessError when NASM refuses the source, and ImageTooLarge.
    """
    main_file = SOURCES / MAIN_FILES[name]
    command = ["nasm", "-f", "bin", "-w+error", f"-I{SOURCES}/", f"-I{main_file.parent}/"]
    subprocess.run([*command, "-o", str(output), str(main_file)], check=True)
    size = output.stat().st_size
    if size > LARGEST_IMAGE:
        raise ImageTooLarge(f"{name} has {size} bytes; at most {LARGEST_IMAGE} fit below ZEROED_BASE: raise both")


def main() -> int:
    for name in sys.argv[1:] or MAIN_FILES:
        if name not in MAIN_FILES:
            print(f"no guest is called {name!r}; there are {', '.join(MAIN_FILES)}", file=sys.stderr)
            return 2
        output = IMAGES / f"{name}.bin"
        try:
            assemble(name, output)
        except FileNotFoundError:
            print("nasm was not found; install it (Debian: apt-get install nasm)", file=sys.stderr)
            return 2
        except ImageTooLarge as error:
            print(error, file=sys.stderr)
            return 1
        except subprocess.CalledProcessError:
            return 1
        print(f"{output.name}: {output.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
