"""A raw image: a file of the host, byte for byte the medium.

An image that is written is locked for this run alone; one that is read may be read by others, but not written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from trapgate.machine.block import BlockError, MediumFull, MediumReadOnly, MediumTooShort, MediumUnreadable
from trapgate.machine.errors import MachineError

#: The host has no room: disk, quota, largest file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ImageError(MachineError):
    """Base of what can be wrong with a disk image when it is opened."""


class ImageUnusable(ImageError):
    """There is no such file, or the host does not let us use it."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"wanted a disk image at {path}, got {got}: name another file")


class ImageInUse(ImageError):
    """Somebody else writes the image, or uses one that is to be written."""

    def __init__(self, path: Path, writes: bool) -> None:
        wanted = (
            f"{path} for this run alone, because it is written" if writes else f"an image that nobody writes in {path}"
        )
        super().__init__(f"wanted {wanted}, got one in use: end the other run, or use a copy of the file")


def open_locked(path: Path, writes: bool) -> int:
    """A file descriptor of a plain file or block device, locked. Raises ImageUnusable, ImageInUse."""
    try:
        descriptor = os.open(path, (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ImageUnusable(path, (reason or "no valid name").lower()) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise ImageUnusable(path, "a directory" if stat.S_ISDIR(mode) else "something that is no plain file")
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if writes else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ImageInUse(path, writes) from error
        except OSError as error:
            raise ImageUnusable(path, f"one that cannot be locked ({(error.strerror or 'error').lower()})") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def failed(name: str, error: OSError) -> BlockError:
    """What an access to the host's file has failed with, for the guest's drive."""
    reason = (error.strerror or "an error").lower()
    return MediumFull(name, reason) if error.errno in FULL else MediumUnreadable(name, reason)


def read_fully(descriptor: int, name: str, offset: int, length: int) -> bytes:
    """`length` bytes of a file. Raises MediumTooShort, MediumUnreadable."""
    parts = []
    done = 0
    try:
        while done < length:
            part = os.pread(descriptor, length - done, offset + done)
            if not part:
                raise MediumTooShort(name, offset, length, done)
            parts.append(part)
            done += len(part)
    except OSError as error:
        raise failed(name, error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_fully(descriptor: int, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`. Raises MediumFull, MediumUnreadable."""
    view = memoryview(data)
    done = 0
    try:
        while done < len(view):
            done += os.pwrite(descriptor, view[done:], offset + done)
    except OSError as error:
        raise failed(name, error) from error


class RawImage:
    """The file at `path`; `writes`: the guest's writes go into it. Raises ImageError."""

    def __init__(self, path: Path, writes: bool = False) -> None:
        self.name = str(path)
        self.read_only = not writes
        self._descriptor = open_locked(path, writes)
        #: Bytes when it was opened. The end is asked for by a seek, because a block device has no length.
        self.size = os.lseek(self._descriptor, 0, os.SEEK_END)

    def changed(self) -> int:
        """When the file was written last, in nanoseconds since 1970."""
        return os.fstat(self._descriptor).st_mtime_ns

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on. Raises BlockError where the file has become shorter."""
        return read_fully(self._descriptor, self.name, offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset`. Raises BlockError."""
        if self.read_only:
            raise MediumReadOnly(self.name)
        write_fully(self._descriptor, self.name, offset, data)

    def flush(self) -> None:
        """fsync. Raises BlockError."""
        if self.read_only:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise failed(self.name, error) from error

    def close(self) -> None:
        """Give the file and its lock back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
