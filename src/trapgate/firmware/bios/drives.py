"""The drives behind INT 13h: images whose writes stay in memory, and their geometry.

Sources: Ralf Brown's Interrupt List, INT 13h; Microsoft, "FAT: General Overview of On-Disk Format" (diskette formats);
Phoenix, "BIOS Enhanced Disk Drive Specification" 1.1, section 2 (translated geometry).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trapgate.machine.block import BlockBackend
from trapgate.machine.device import Snapshot

SECTOR = 512
CD_SECTOR = 2048

FIRST_DISKETTE = 0x00
FIRST_HARD_DISK = 0x80
CD_DRIVE = 0xE0

PARTITION_TABLE = 446
PARTITION_ENTRY = 16
MAX_CYLINDERS = 1024
SECTORS_PER_TRACK = 63
#: Heads that are tried, so that a disk has at most 1024 cylinders of 63 sectors.
HEADS = (16, 32, 64, 128, 255)


@dataclass(frozen=True)
class Geometry:
    """Cylinders, heads, and sectors of 512 bytes per track."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def total(self) -> int:
        """All sectors that an address of this kind reaches."""
        return self.cylinders * self.heads * self.sectors


@dataclass(frozen=True)
class DisketteFormat:
    """A diskette; `drive_type` is what INT 13h AH=08h gives in BL and CMOS has in register 10h."""

    geometry: Geometry
    drive_type: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.geometry.total * SECTOR


#: 160, 180, 320, 360, 720 KB, 1.2, 1.44 and 2.88 MB, in order of size.
DISKETTE_FORMATS = (
    DisketteFormat(Geometry(40, 1, 8), 1),
    DisketteFormat(Geometry(40, 1, 9), 1),
    DisketteFormat(Geometry(40, 2, 8), 1),
    DisketteFormat(Geometry(40, 2, 9), 1),
    DisketteFormat(Geometry(80, 2, 9), 3),
    DisketteFormat(Geometry(80, 2, 15), 2),
    DisketteFormat(Geometry(80, 2, 18), 4),
    DisketteFormat(Geometry(80, 2, 36), 6),
)
SMALLEST_DISKETTE = DISKETTE_FORMATS[0].size
LARGEST_DISKETTE = DISKETTE_FORMATS[-1].size


def diskette_format(size: int) -> DisketteFormat | None:
    """The smallest diskette that holds an image of `size` bytes; None for images that no diskette has."""
    if not SMALLEST_DISKETTE <= size <= LARGEST_DISKETTE:
        return None
    return next(form for form in DISKETTE_FORMATS if size <= form.size)


def disk_geometry(first_sector: bytes, size: int) -> Geometry:
    """The geometry of a disk of `size` bytes: as its partition table was written with, else 63 sectors, 16 heads or
    more."""
    total = max(1, -(-size // SECTOR))
    heads, sectors = _partition_geometry(first_sector) or (0, 0)
    if not heads:
        sectors = SECTORS_PER_TRACK
        heads = next((h for h in HEADS if total <= MAX_CYLINDERS * h * sectors), HEADS[-1])
    return Geometry(min(max(1, total // (heads * sectors)), MAX_CYLINDERS), heads, sectors)


def _partition_geometry(data: bytes) -> tuple[int, int] | None:
    """Heads and sectors per track from the last sectors of partitions, which end with a cylinder as a rule."""
    for number in range(4):
        at = PARTITION_TABLE + PARTITION_ENTRY * number
        entry = data[at : at + PARTITION_ENTRY]
        if len(entry) < PARTITION_ENTRY or entry[0] not in (0x00, 0x80) or not entry[4]:
            continue
        heads, sectors = entry[5] + 1, entry[6] & 0x3F
        cylinder = entry[7] | (entry[6] & 0xC0) << 2
        last = int.from_bytes(entry[8:12], "little") + int.from_bytes(entry[12:16], "little") - 1
        if heads > 1 and sectors and (cylinder * heads + heads - 1) * sectors + sectors - 1 == last:
            return heads, sectors
    return None


class Drive:
    """A drive with a medium in it: an image in memory, which is never written (what the guest writes is kept sector by
    sector), or a back end, which an IDE or virtio disk may have in common with it."""

    def __init__(
        self,
        number: int,
        image: bytes,
        sector_size: int = SECTOR,
        geometry: Geometry | None = None,
        diskette_type: int = 0,
        writable: bool = True,
        medium: BlockBackend | None = None,
    ) -> None:
        """`image` is the medium's content from its first sector on, unless there is a `medium`; `geometry` None: only
        block addresses."""
        self.number = number
        self.sector_size = sector_size
        self.geometry = geometry
        self.diskette_type = diskette_type
        self.writable = writable
        self.locks = 0
        self._image = memoryview(image)
        self._written: dict[int, bytes] = {}
        self._medium = medium
        of_image = -(-len(image) // sector_size) if medium is None else medium.size // sector_size
        #: Sectors of `sector_size` bytes. A diskette is whole even when its image is shorter.
        self.total = max(of_image, geometry.total) if geometry is not None and diskette_type else of_image

    def snapshot(self) -> Snapshot:
        """Locks, and the sectors that the guest has written here; a back end has its own."""
        return {"locks": self.locks, "written": dict(self._written)}

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave."""
        self.locks, self._written = snapshot["locks"], dict(snapshot["written"])

    @property
    def is_diskette(self) -> bool:
        """Drive numbers below 80h."""
        return self.number < FIRST_HARD_DISK

    @property
    def is_cd(self) -> bool:
        """A drive with sectors of 2048 bytes."""
        return self.sector_size == CD_SECTOR

    def read(self, first: int, count: int) -> bytes:
        """`count` sectors from block `first` on; the caller has checked them. Raises BlockError."""
        size = self.sector_size
        if self._medium is not None:
            return self._medium.read(first * size, count * size)
        data = bytearray(self._image[first * size : (first + count) * size])
        data += bytes(count * size - len(data))
        if self._written:
            for block in range(first, first + count):
                if block in self._written:
                    data[(block - first) * size : (block - first + 1) * size] = self._written[block]
        return bytes(data)

    def write(self, first: int, data: bytes) -> None:
        """Keep whole sectors from block `first` on in place of the image's. Raises BlockError."""
        size = self.sector_size
        if self._medium is not None:
            self._medium.write(first * size, data)
            return
        for position in range(0, len(data), size):
            self._written[first + position // size] = data[position : position + size]


@dataclass(frozen=True)
class Emulation:
    """What an El Torito CD was booted as (its specification 1.0, section 6.2). Sectors are the CD's.

    `media` is 0 for no emulation, 1 to 3 for diskettes, 4 for a hard disk; `load_sectors` counts 512 bytes each.
    """

    media: int
    drive: int
    image_sector: int
    load_segment: int
    load_sectors: int


def find(drives: Sequence[Drive], number: int) -> Drive | None:
    """The drive that has a number."""
    return next((drive for drive in drives if drive.number == number), None)
