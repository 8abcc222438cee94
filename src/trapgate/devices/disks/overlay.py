"""A copy-on-write overlay: what a guest writes goes to a temporary file, and the image under it stays as it is."""

from __future__ import annotations

import itertools
import tempfile

from trapgate.devices.disks.raw_image import failed, read_fully, write_fully
from trapgate.machine.block import BlockBackend

_stamps = itertools.count(1)
#: Bytes that are copied from the image at once, when a part of them is written.
CLUSTER = 65536


class Overlay:
    """A medium that reads from `base` where nothing was written. The temporary file has no name."""

    def __init__(self, base: BlockBackend) -> None:
        self.base = self._base = base
        self.name = base.name
        self.size = base.size
        self.read_only = False
        #: Clusters that were written, and when each was last: no two writes of a process have the same number.
        self._written: dict[int, int] = {}
        # Sparse: what was written lies at its own offset.
        self._file = tempfile.TemporaryFile(prefix="trapgate-disk-")  # noqa: SIM115 - `close` closes it

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on. Raises BlockError."""
        written = self._written
        end = offset + length
        if not written:
            return self._base.read(offset, length)
        parts = []
        while offset < end:
            cluster = offset // CLUSTER
            is_written = cluster in written
            stop = (cluster + 1) * CLUSTER
            while stop < end and (stop // CLUSTER in written) == is_written:
                stop += CLUSTER
            stop = min(stop, end)
            if is_written:
                parts.append(read_fully(self._file.fileno(), self.name, offset, stop - offset))
            else:
                parts.append(self._base.read(offset, stop - offset))
            offset = stop
        return b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Keep `data` beside the image. Raises BlockError; what was written before stays good then."""
        if not data:
            return
        descriptor = self._file.fileno()
        for cluster in {offset // CLUSTER, (offset + len(data) - 1) // CLUSTER} - self._written.keys():
            first, last = cluster * CLUSTER, min((cluster + 1) * CLUSTER, self.size)
            if offset > first or offset + len(data) < last:
                write_fully(descriptor, self.name, first, self._base.read(first, last - first))
                self._written[cluster] = next(_stamps)
        touched = range(offset // CLUSTER, (offset + len(data) - 1) // CLUSTER + 1)
        for cluster in touched:
            if cluster in self._written:
                self._written[cluster] = next(_stamps)  # first, should only a part of it be written
        write_fully(descriptor, self.name, offset, data)
        for cluster in touched:
            self._written[cluster] = next(_stamps)

    def flush(self) -> None:
        """A temporary file need not outlive the run."""

    def close(self) -> None:
        """Forget what was written, and close the image."""
        try:
            self._file.close()
        except OSError as error:
            raise failed(self.name, error) from error
        finally:
            self._base.close()

    # Snapshot

    def stamps(self) -> dict[int, int]:
        """The clusters that were written, and numbers that change whenever they are written again."""
        return dict(self._written)

    def cluster(self, number: int) -> bytes:
        """What a written cluster contains. Raises BlockError."""
        start = number * CLUSTER
        return read_fully(self._file.fileno(), self.name, start, min(CLUSTER, self.size - start))

    def replace(self, clusters: dict[int, tuple[int, bytes]]) -> None:
        """Have these clusters written and no others: by their numbers, with stamps (0: give it one) and content.

        Raises BlockError when the host has no room for them; nothing has changed then.
        """
        descriptor, old = self._file.fileno(), self._written
        # Those that need room come first: without it they stay unwritten.
        for is_new in (True, False):
            for number, (stamp, content) in clusters.items():
                if (number not in old) is is_new and (not stamp or old.get(number) != stamp):
                    write_fully(descriptor, self.name, number * CLUSTER, content)
        self._written = {number: stamp or next(_stamps) for number, (stamp, _) in clusters.items()}
