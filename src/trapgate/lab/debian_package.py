"""Takes single files out of a Debian package without dpkg.

Source: deb(5): an `ar` archive of debian-binary, control.tar and data.tar, the latter compressed with gzip, xz or zstd.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Sequence
from lzma import LZMAError
from pathlib import Path

import zstandard

from trapgate.machine.errors import MachineError

AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
AR_SIZE = slice(48, 58)
AR_END = b"\x60\n"
LARGEST_FILE = 1 << 30


class CorruptPackage(MachineError):
    """A file is not the Debian package that it should be."""

    def __init__(self, path: Path, got: str) -> None:
        super().__init__(f"wanted a Debian package at {path}, got {got}: remove the file and fetch it again")


def extract(package: Path, patterns: Sequence[str]) -> list[tuple[str, bytes]]:
    """For each regular expression of `patterns`, the first regular file whose path matches it wholly, with its bytes.

    Paths have no leading `./`. Raises CorruptPackage when the package cannot be read or a pattern matches nothing.
    """
    found: dict[str, tuple[str, bytes]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_data_archive(package)), mode="r:*") as archive:
            for member in archive:
                path = member.name.removeprefix("./").lstrip("/")
                pattern = next((p for p in patterns if p not in found and re.fullmatch(p, path)), None)
                if pattern is None or not member.isfile() or member.size > LARGEST_FILE:
                    continue
                stream = archive.extractfile(member)
                found[pattern] = (path, stream.read() if stream is not None else b"")
                if len(found) == len(patterns):
                    break
    except (OSError, EOFError, LZMAError, zlib.error, tarfile.TarError, zstandard.ZstdError, ValueError) as error:
        # Some of these errors have a line for every kind of compression that was tried.
        reason = str(error).partition("\n")[0].rstrip(":")
        raise CorruptPackage(package, f"an unreadable one ({reason})") from error
    missing = [pattern for pattern in patterns if pattern not in found]
    if missing:
        raise CorruptPackage(package, f"one without {missing[0]}")
    return [found[pattern] for pattern in patterns]


def _data_archive(package: Path) -> bytes:
    """The data.tar member; a zstd one is decompressed here, because tarfile does the others itself."""
    data = package.read_bytes()
    if not data.startswith(AR_MAGIC):
        raise CorruptPackage(package, f"{len(data)} bytes that are no ar archive")
    position = len(AR_MAGIC)
    while position + AR_HEADER <= len(data):
        header = data[position : position + AR_HEADER]
        digits = header[AR_SIZE].strip()
        if header[58:60] != AR_END or not digits.isdigit():
            raise CorruptPackage(package, f"a damaged ar header at byte {position}")
        size = int(digits)
        content = data[position + AR_HEADER : position + AR_HEADER + size]
        if len(content) != size:
            raise CorruptPackage(package, f"a file truncated to {len(data)} bytes")
        name = header[:16].decode("ascii", "replace").rstrip(" /")
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                return zstandard.ZstdDecompressor().stream_reader(content).read()
            return content
        position += AR_HEADER + size + size % 2
    raise CorruptPackage(package, "one without data.tar")
