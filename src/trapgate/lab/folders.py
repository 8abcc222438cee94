"""Opens the folders of the host that a run is given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from trapgate.boards.pci import FolderConfig
from trapgate.devices.plan9.folder import MODE, Folder
from trapgate.lab.errors import FolderUnusable
from trapgate.lab.options import RunOptions


@contextmanager
def open_folders(options: RunOptions) -> Iterator[tuple[FolderConfig, ...]]:
    """The folders of a run, in their order; closed in the end. Raises FolderUnusable."""
    with ExitStack() as stack:
        found = []
        for one in options.folders:
            try:
                if one.mapped and not one.read_only:
                    # Whether the file system has extended attributes is better known now than at the first file.
                    os.setxattr(one.path, MODE, b"")
                    os.removexattr(one.path, MODE)
                folder = Folder(one.path, one.read_only, one.mapped)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                raise FolderUnusable(str(one.path), (reason or "no valid name").lower()) from error
            stack.callback(folder.close)
            found.append(FolderConfig(one.tag, folder))
        yield tuple(found)
