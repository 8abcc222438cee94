"""--virtfs, in QEMU's words: a folder of the host for the guest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trapgate.cli.errors import CommandLineError
from trapgate.lab.options import FolderOptions

Folders = Annotated[
    list[str] | None,
    typer.Option(
        "--virtfs", "-virtfs", metavar="local,path=DIR,mount_tag=TAG,...", help="A folder of the host's for the guest."
    ),
]
KEYS = ("path", "mount_tag", "security_model", "readonly", "id")
MODELS = ("none", "mapped", "mapped-xattr")
LONGEST_TAG = 32


class InvalidFolder(CommandLineError):
    """--virtfs is not as QEMU has it."""

    def __init__(self, wanted: str, got: str) -> None:
        remedy = "write --virtfs local,path=folder,mount_tag=host,security_model=none"
        super().__init__(f"{wanted} in --virtfs", got, remedy)


def parse_folder(text: str) -> FolderOptions:
    """A folder; a comma within a value is doubled, as in QEMU. Raises InvalidFolder."""
    first, *parts = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    if first != "local":
        raise InvalidFolder("local", repr(first))
    values: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in KEYS:
            raise InvalidFolder(f"one of {', '.join(KEYS)}", repr(key))
        values[key] = value if equals else "on"
    tag, model, read_only = values.get("mount_tag", ""), values.get("security_model"), values.get("readonly", "off")
    if not values.get("path"):
        raise InvalidFolder("path=", "none")
    if not 0 < len(tag.encode()) <= LONGEST_TAG:
        raise InvalidFolder(f"mount_tag= with a name of at most {LONGEST_TAG} bytes", repr(tag))
    if model is not None and model not in MODELS:
        raise InvalidFolder(f"security_model={'|'.join(MODELS)}", repr(model))
    if read_only not in ("on", "off"):
        raise InvalidFolder("readonly=on|off", repr(read_only))
    return FolderOptions(
        path=Path(values["path"]), tag=tag, mapped=model not in (None, "none"), read_only=read_only == "on"
    )


def parse_folders(texts: list[str] | None) -> tuple[FolderOptions, ...]:
    """All of a command line. Raises InvalidFolder."""
    found = tuple(parse_folder(text) for text in texts or ())
    if len({folder.tag for folder in found}) < len(found):
        raise InvalidFolder("a mount_tag= for each folder of its own", "one twice")
    return found
