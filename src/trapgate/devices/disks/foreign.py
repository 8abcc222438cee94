"""Images of other emulators, for reading: qcow2, VMDK, VDI and VHDX, which the package dissect.hypervisor knows.

The package is optional (`trapgate[images]`) and imported when such an image is opened.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trapgate.devices.disks.raw_image import ImageError, open_locked
from trapgate.machine.block import MediumReadOnly, MediumTooShort, MediumUnreadable

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of image: by which bytes at which place a file is known, and the class that reads it."""

    magic: bytes
    place: int
    module: str
    reader: str


FOREIGN: Mapping[str, Format] = {
    "qcow2": Format(b"QFI\xfb", 0, "qcow2", "QCow2"),
    "vmdk": Format(b"KDMV", 0, "vmdk", "VMDK"),
    "vdi": Format(b"\x7f\x10\xda\xbe", 64, "vdi", "VDI"),
    "vhdx": Format(b"vhdxfile", 0, "vhdx", "VHDX"),
}
FORMATS = ("raw", *FOREIGN)


class ReaderMissing(ImageError):
    """The package that reads such images is not installed."""

    def __init__(self, path: Path, form: str) -> None:
        super().__init__(
            f"wanted the package dissect.hypervisor to read the {form} image {path}, got an installation without it: "
            "pip install 'trapgate[images]', or convert the image with qemu-img convert -O raw"
        )


class NotThatFormat(ImageError):
    """The file is no image of the format that was named."""

    def __init__(self, path: Path, form: str, got: str) -> None:
        super().__init__(f"wanted a {form} image in {path}, got {got}: name its format with format=, or another file")


def recognise_format(path: Path) -> str:
    """The format that a file's first bytes tell; raw for all others. Raises ImageUnusable."""
    descriptor = open_locked(path, writes=False)
    try:
        head = os.pread(descriptor, SECTOR, 0)
    except OSError:
        return "raw"
    finally:
        os.close(descriptor)
    return next((name for name, form in FOREIGN.items() if head.startswith(form.magic, form.place)), "raw")


class ForeignImage:
    """An image that is only read. Raises ImageError."""

    def __init__(self, path: Path, form: str) -> None:
        self.name = str(path)
        self.read_only = True
        try:
            module = importlib.import_module(f"dissect.hypervisor.disk.{FOREIGN[form].module}")
        except ImportError as error:
            raise ReaderMissing(path, form) from error
        # The reader's own file handle has no lock; this one has.
        self._lock = open_locked(path, writes=False)
        try:
            disk: Any = getattr(module, FOREIGN[form].reader)(path)
            # A disk that has an `open` is opened as a stream, the others are one.
            self._stream: Any = disk.open() if hasattr(disk, "open") else disk
            self.size = int(disk.size)
        except Exception as error:
            os.close(self._lock)
            # The package reports damage by many kinds of exception.
            raise NotThatFormat(path, form, _words(error)) from error

    def changed(self) -> int:
        """When the file was written last, in nanoseconds since 1970."""
        return os.fstat(self._lock).st_mtime_ns

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on. Raises BlockError."""
        try:
            self._stream.seek(offset)
            data: bytes = self._stream.read(length)
        except Exception as error:
            raise MediumUnreadable(self.name, _words(error)) from error
        if len(data) != length:
            raise MediumTooShort(self.name, offset, length, len(data))
        return data

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Raises MediumReadOnly."""
        raise MediumReadOnly(self.name)

    def flush(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """Give the file and its lock back. Raises BlockError."""
        if self._lock < 0:
            return
        os.close(self._lock)
        self._lock = -1
        try:
            self._stream.close()
        except Exception as error:
            raise MediumUnreadable(self.name, _words(error)) from error


def _words(error: Exception) -> str:
    """An exception of the package in one line."""
    return (str(error) or type(error).__name__).partition("\n")[0]
