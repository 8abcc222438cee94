"""What `Machine.boot()` was asked to boot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trapgate.api import checks
from trapgate.api.errors import InvalidArgument, NoGuest
from trapgate.firmware.image import BootImage
from trapgate.firmware.raw import RawImage
from trapgate.firmware.recognise import recognise
from trapgate.lab.guest import find_guest, read_file
from trapgate.lab.options import RunOptions

PathLike = str | os.PathLike[str]


def find_image(
    *,
    guest: PathLike | None,
    kernel: PathLike | None,
    initrd: PathLike | None,
    append: str | None,
    image: bytes | bytearray | memoryview | BootImage | None,
    address: int | None,
    command: Sequence[str] | None,
    memory_size: int,
) -> BootImage:
    """The image that boot()'s arguments name; `memory_size` is in bytes. Raises MachineError."""
    given = [n for n, value in (("guest", guest), ("kernel=", kernel), ("image=", image)) if value is not None]
    if len(given) != 1:
        raise NoGuest(given)
    is_bytes = isinstance(image, bytes | bytearray | memoryview)
    if address is not None and not is_bytes:
        raise InvalidArgument("address= with the bytes of image=", "it without them", "leave it out")
    if image is None:
        options = RunOptions(
            guest=None if guest is None else os.fspath(guest),
            kernel=None if kernel is None else Path(kernel),
            initrd=None if initrd is None else Path(initrd),
            append=append,
            memory_size=memory_size,
            command=checks.words(command),
        )
        return find_guest(options, lambda stage, done, total: None).image
    if not isinstance(image, bytes | bytearray | memoryview):
        if not callable(getattr(image, "load", None)):
            wanted, remedy = "the bytes of an image or a BootImage for image=", "name files with guest or kernel="
            raise InvalidArgument(wanted, repr(image), remedy)
        return image
    if address is not None:
        return RawImage(bytes(image), address)
    modules = () if initrd is None else (read_file(Path(initrd), "initrd"),)
    return recognise(bytes(image), append or "", modules, "the image")
